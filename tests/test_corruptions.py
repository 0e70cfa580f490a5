"""Corruptions: nothing at zero strength, only what is named, the same whoever reads in what order."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calibration.transforms import invert
from datasets.augmentation.sensor_dropout import without_channels
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.corruptions.absence import BlackPictures, Dropped, PoseDropped, SomeDropped
from datasets.corruptions.catalogue import Sensors, Series, catalogue
from datasets.corruptions.corruption import Corruption, Together
from datasets.corruptions.lens import Dirty, MotionBlurred
from datasets.corruptions.lidar_weather import LidarWeather
from datasets.corruptions.light import Brightened, Darkened, Noisy
from datasets.corruptions.misalignment import Late, Misaligned
from datasets.corruptions.picture_weather import PictureFog, PictureRain, PictureSnow
from datasets.corruptions.points import BeamsReduced, FieldOfView, PointsDropped
from datasets.corruptions.pose import PoseDelay, PoseDrift, PoseJitter
from datasets.corruptions.reader import CorruptedReader
from datasets.faults import InputRefused
from datasets.frames import LIDAR_FIELDS, LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.reader import LogReader
from datasets.samples.batch import collate
from datasets.samples.make_sample import SampleConfig, make_sample
from perception.detector import Detector
from perception.modality_dropout import mask_modalities
from tests.corrupted_frames import HeldFrames, changed, parts
from tests.small_run import small_config

# Not all twelve channels: what holds for three cameras holds for six.
CAMERAS, RADARS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_BACK"), ("RADAR_FRONT", "RADAR_BACK_LEFT")
SENSORS = Sensors(CAMERAS, LIDAR_CHANNEL, RADARS, pose=True)
SERIES = {series.name: series for series in catalogue(SENSORS)}
LIDAR, POSES = (LIDAR_CHANNEL,), (*CAMERAS, LIDAR_CHANNEL, *RADARS)
# Which channels' data a series may change; those that are not here change no data, or are cases.
DATA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dark", "bright", "picture_noise", "motion_blur", "dirty_lens"), CAMERAS),
    **dict.fromkeys(("picture_fog", "picture_rain", "picture_snow", "pictures_black", "cameras_late"), CAMERAS),
    **dict.fromkeys(("beams_reduced", "points_dropped", "density_decreased", "view_limited", "lidar_late"), LIDAR),
    **dict.fromkeys(("lidar_fog", "lidar_rain", "lidar_snow"), LIDAR),
    **dict.fromkeys(("fog", "rain", "snow"), (*CAMERAS, LIDAR_CHANNEL)),
    **dict.fromkeys(("radar_returns_dropped", "radars_late"), RADARS),
}
RIG = {"cameras_misaligned": CAMERAS, "lidar_misaligned": LIDAR}
DEAD = {"cameras_dead": CAMERAS, "radars_dead": RADARS}


@pytest.fixture(scope="module")
def frames(synthetic_root: Path) -> tuple[LogFrame, ...]:
    """Six keyframes of two scenes of the synthetic world."""
    reader = NuScenesReader(synthetic_root, lidar_sweeps=3, radar_sweeps=2, channels=POSES)
    return tuple(reader.frame(token) for token in reader.frame_tokens("all"))


def corrupted(frames: tuple[LogFrame, ...], place: int, corruption: Corruption, seed: int = 0) -> LogFrame:
    tokens = [frame.token for frame in frames]
    return CorruptedReader(HeldFrames(frames), corruption, tokens, seed).frame(tokens[place])


@pytest.mark.parametrize(
    "corruption",
    [
        Dropped(()),
        SomeDropped(CAMERAS, 0),
        BlackPictures(0.0),
        PointsDropped((LIDAR_CHANNEL, *RADARS), 0.0),
        BeamsReduced(LIDAR_CHANNEL, 1),
        FieldOfView(LIDAR_CHANNEL, 180.0),
        LidarWeather("fog", LIDAR_CHANNEL, 0.0),
        LidarWeather("rain", LIDAR_CHANNEL, 0.0),
        LidarWeather("snow", LIDAR_CHANNEL, 0.0),
        Misaligned(POSES, 0.0, 0.0),
        Late(POSES, 0),
        Late(POSES, 1, 0.0),
        Darkened(1.0),
        Brightened(0.0),
        Noisy(0.0),
        MotionBlurred(0.0),
        Dirty(0.0),
        PictureFog(0.0),
        PictureRain(0.0, 0.0),
        PictureSnow(0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0),
        PoseJitter(0.0, 0.0),
        PoseDrift(0.0, 0.0),
        PoseDelay(0.0),
        Together((Dropped(()), Together(()))),
    ],
    ids=repr,
)
def test_zero_strength_changes_nothing(corruption: Corruption, frames: tuple[LogFrame, ...]) -> None:
    assert corrupted(frames, 4, corruption) is frames[4]


@pytest.mark.parametrize("series", SERIES.values(), ids=lambda series: series.name)
def test_only_what_is_named_changes_and_the_truth_never(series: Series, frames: tuple[LogFrame, ...]) -> None:
    before = frames[5]
    spoilt = [corrupted(frames, 5, level.corruption) for level in (series.levels[0], series.levels[-1])]
    for after in spoilt:
        names = changed(before, after)
        assert not names & {"frame", "pose frame", "annotations"}
        assert after.annotations is before.annotations
        if series.name in ("lidar_late", "radars_late"):
            # Where there were fewer sweeps there are fewer.
            names = {name.replace("pose", "data") for name in names}
        if series.name in DATA:
            assert names <= {f"data {channel}" for channel in DATA[series.name]}
        elif series.name in RIG:
            assert names == {f"rig {channel}" for channel in RIG[series.name]}
            assert after.images is before.images
            assert after.lidar_sweeps is before.lidar_sweeps
        elif series.name.startswith("pose_"):
            assert {name.partition(" ")[0] for name in names} == {"pose"}
    # The strongest leaves no channel that it is about as it was.
    names = changed(before, spoilt[1])
    if series.name in DATA and series.name != "pictures_black":
        assert names >= {f"data {channel}" for channel in DATA[series.name]}
    if series.name in DEAD:
        expected = {f"{part} {channel}" for channel in DEAD[series.name] for part in ("data", "pose")}
        assert names == expected


def test_cases_lack_just_what_they_are_called_after(frames: tuple[LogFrame, ...]) -> None:
    def there(frame: LogFrame) -> str:
        kept = {"camera": frame.images, "lidar": frame.lidar_sweeps, "radar": frame.radar_sweeps}
        return "+".join(name for name, part in (kept | {"pose": frame.ego_states}).items() if part)

    subsets = SERIES["sensor_subset"].levels
    assert len(subsets) == len({level.label for level in subsets}) == 2**4 - 2
    for level in subsets:
        assert there(corrupted(frames, 1, level.corruption)) == level.label
    for name in ("one_camera_dead", "one_radar_dead"):
        for level in SERIES[name].levels:
            lost = {f"{part} {level.label}" for part in ("data", "pose")}
            assert changed(frames[1], corrupted(frames, 1, level.corruption)) == lost


@pytest.mark.parametrize("name", ["cameras_dead", "radars_dead"])
def test_dead_sensors_are_as_many_as_said_nested_and_the_same_for_a_scene(
    name: str, frames: tuple[LogFrame, ...]
) -> None:
    def alive(place: int, severity: int, seed: int = 0) -> frozenset[str]:
        frame = corrupted(frames, place, SERIES[name].levels[severity - 1].corruption, seed)
        return frozenset(frame.images if name == "cameras_dead" else frame.radar_sweeps)

    every = DEAD[name]
    for severity in range(1, len(every) + 1):
        assert len(alive(0, severity)) == len(every) - severity
        assert alive(0, severity) == alive(2, severity)
        if severity > 1:
            assert alive(0, severity) < alive(0, severity - 1)
    assert len({alive(0, 1, seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    "series",
    # Fog, rain and snow are those of single sensors, one after the other.
    [s for s in SERIES.values() if s.graded and s.name not in ("fog", "rain", "snow")],
    ids=lambda series: series.name,
)
def test_the_seed_alone_decides_whoever_reads_in_what_order(series: Series, frames: tuple[LogFrame, ...]) -> None:
    level = series.levels[min(1, len(series.levels) - 1)]
    tokens = [frame.token for frame in frames[:3]]

    def read(order: list[int], reader: LogReader) -> list[dict[str, object]]:
        return [parts(reader.frame(tokens[place])) for place in order]

    def reader() -> LogReader:
        return CorruptedReader(HeldFrames(frames), level.corruption, tokens, seed=3)

    forwards, backwards = read([1, 2], reader()), read([2, 1], reader())
    assert forwards == backwards[::-1]


def test_another_seed_is_another_draw(frames: tuple[LogFrame, ...]) -> None:
    for name in ("points_dropped", "picture_noise", "lidar_misaligned", "pose_jitter", "dirty_lens", "lidar_fog"):
        corruption = SERIES[name].levels[-1].corruption
        one, other = (corrupted(frames, 1, corruption, seed) for seed in (0, 1))
        assert changed(one, other), name


def test_a_sweep_loses_the_same_points_in_every_frame_that_it_is_a_part_of(synthetic_root: Path) -> None:
    # With so many sweeps the second keyframe's oldest ones are those of the first keyframe.
    reader = NuScenesReader(synthetic_root, lidar_sweeps=14, channels=LIDAR)
    tokens = reader.frame_tokens("all")[:2]
    for corruption in (PointsDropped(LIDAR, 0.5), LidarWeather("fog", LIDAR_CHANNEL, 0.03)):
        first, second = (CorruptedReader(reader, corruption, tokens).frame(token) for token in tokens)
        by_time = [
            {sweep.timestamp_us: sweep.points for sweep in frame.lidar_sweeps[LIDAR_CHANNEL]}
            for frame in (first, second)
        ]
        shared = by_time[0].keys() & by_time[1].keys()
        assert shared
        assert all(torch.equal(by_time[0][time], by_time[1][time]) for time in shared)


@pytest.mark.parametrize(
    ("names", "modality", "channels"),
    [
        (("dirty_lens", "cameras_misaligned", "cameras_late"), 0, CAMERAS),
        (("beams_reduced", "lidar_fog", "lidar_misaligned", "lidar_late"), 1, LIDAR),
        (("radar_returns_dropped", "radars_late"), 2, RADARS),
    ],
)
def test_corrupted_then_masked_is_masked(
    names: tuple[str, ...], modality: int, channels: tuple[str, ...], frames: tuple[LogFrame, ...]
) -> None:
    config = small_config(1)
    torch.manual_seed(0)
    detector = Detector(config.detector).eval()
    kept = torch.tensor([[index != modality for index in range(4)]])

    def features(frame: LogFrame) -> torch.Tensor:
        batch = mask_modalities(collate([make_sample(frame, config.sample)]), kept)
        with torch.no_grad():
            return detector(batch).bev

    without = make_sample(without_channels(frames[2], frozenset(channels)), config.sample)
    expected = features(frames[2])
    for name in names:
        spoilt = corrupted(frames, 2, SERIES[name].levels[-1].corruption)
        assert torch.equal(features(spoilt), expected), name
        masked = make_sample(without_channels(spoilt, frozenset(channels)), config.sample)
        for field in ("images", "intrinsics", "ego_from_cam", "lidar_points", "radar_points", "ego_motion"):
            assert torch.equal(getattr(masked, field), getattr(without, field)), (name, field)


def test_a_calibration_is_wrong_by_just_so_much_the_same_for_a_scene(frames: tuple[LogFrame, ...]) -> None:
    for degrees, metres in ((1.0, 0.05), (5.0, 0.25)):
        told = [corrupted(frames, place, Misaligned(CAMERAS, degrees, metres)).rig for place in (0, 2)]
        axes = []
        for channel in CAMERAS:
            truth = frames[0].rig.ego_from_sensor[channel]
            error = invert(truth) @ told[0].ego_from_sensor[channel]
            angle = torch.rad2deg(torch.arccos((error[:3, :3].trace() - 1) / 2))
            assert float(angle) == pytest.approx(degrees, abs=1e-6)
            assert float(error[:3, 3].norm()) == pytest.approx(metres, abs=1e-9)
            axes.append(error[:3, 3] / metres)
            assert torch.equal(told[0].ego_from_sensor[channel], told[1].ego_from_sensor[channel])
        # Each camera its own way.
        assert float(torch.pdist(torch.stack(axes)).min()) > 1e-3


def test_late_data_are_the_scenes_own_earlier_ones_with_the_stamps_of_now(frames: tuple[LogFrame, ...]) -> None:
    assert [frame.scene_name for frame in frames] == 3 * [frames[0].scene_name] + 3 * [frames[3].scene_name]
    everything = Late(POSES, 2)
    for place, shown in ((5, 3), (4, 3), (3, 3), (2, 0), (0, 0)):
        after, before, earlier = corrupted(frames, place, everything), frames[place], frames[shown]
        assert after.images.keys() == before.images.keys()
        for channel, image in after.images.items():
            assert image.encoded == earlier.images[channel].encoded
            assert image.timestamp_us == before.images[channel].timestamp_us
            assert image.global_from_ego is before.images[channel].global_from_ego
        for channel, sweeps in after.lidar_sweeps.items():
            older = earlier.lidar_sweeps[channel]
            assert len(sweeps) == min(len(older), len(before.lidar_sweeps[channel]))
            for sweep, old, now in zip(sweeps, older, before.lidar_sweeps[channel], strict=False):
                assert torch.equal(sweep.points, old.points)
                assert sweep.timestamp_us == now.timestamp_us


def test_what_the_earlier_frame_lacks_is_lacking(frames: tuple[LogFrame, ...]) -> None:
    lost = frozenset(("CAM_BACK", LIDAR_CHANNEL, "RADAR_FRONT"))
    after = Late(POSES, 1).corrupted(frames[1], lambda keyframes: without_channels(frames[0], lost), 0)
    assert frames[1].images.keys() - after.images.keys() == {"CAM_BACK"}
    assert not after.lidar_sweeps
    assert frames[1].radar_sweeps.keys() - after.radar_sweeps.keys() == {"RADAR_FRONT"}


def test_how_often_data_are_late_or_black(frames: tuple[LogFrame, ...]) -> None:
    named = [replace(frames[1], token=f"frame {number}") for number in range(200)]
    earlier = frames[0]

    def late(probability: float) -> set[tuple[str, str]]:
        return {
            (frame.token, channel)
            for frame in named
            for channel, image in Late(CAMERAS, 1, probability)
            .corrupted(frame, lambda keyframes: earlier, 0)
            .images.items()
            if image.encoded != frames[1].images[channel].encoded
        }

    shares = [late(probability) for probability in (0.2, 0.4, 0.6)]
    for probability, found in zip((0.2, 0.4, 0.6), shares, strict=True):
        assert len(found) / (200 * 3) == pytest.approx(probability, abs=0.06)
    assert shares[0] < shares[1] < shares[2]


def test_beams_and_view_and_shares_are_as_said(frames: tuple[LogFrame, ...]) -> None:
    whole = frames[0].lidar_sweeps[LIDAR_CHANNEL][0].points
    ring = LIDAR_FIELDS.index("ring")
    for level, count in zip(SERIES["beams_reduced"].levels, (16, 8, 4), strict=True):
        points = corrupted(frames, 0, level.corruption).lidar_sweeps[LIDAR_CHANNEL][0].points
        kept = set(range(1, 32, 32 // count))
        assert set(points[:, ring].int().tolist()) == kept
        assert len(points) == sum(int((whole[:, ring] == number).sum()) for number in kept)
    for level, half in zip(SERIES["view_limited"].levels, (105, 90, 75, 60, 45), strict=True):
        points = corrupted(frames, 0, level.corruption).lidar_sweeps[LIDAR_CHANNEL][0].points
        # LIDAR_TOP looks along its y axis.
        expected = torch.atan2(whole[:, 0], whole[:, 1]).rad2deg().abs() <= half
        assert abs(len(points) - int(expected.sum())) <= 0.02 * len(whole)
        assert float((torch.atan2(points[:, 0], points[:, 1]).rad2deg().abs() - half).max()) < 4.0
    lost: list[int] = []
    for name, shares in (("density_decreased", (0.06, 0.12, 0.18, 0.24, 0.3)), ("points_dropped", (0.7, 0.8, 0.9))):
        for level, share in zip(SERIES[name].levels, shares, strict=True):
            points = corrupted(frames, 0, level.corruption).lidar_sweeps[LIDAR_CHANNEL][0].points
            assert len(points) / len(whole) == pytest.approx(1 - share, abs=0.01)
            lost.append(len(whole) - len(points))
    assert lost == sorted(lost)


def test_beams_without_numbers_are_refused(frames: tuple[LogFrame, ...]) -> None:
    sweep = frames[0].lidar_sweeps[LIDAR_CHANNEL][0]
    points = sweep.points.clone()
    points[:, LIDAR_FIELDS.index("ring")] = -1
    frame = replace(frames[0], lidar_sweeps={LIDAR_CHANNEL: (replace(sweep, points=points),)})
    with pytest.raises(InputRefused, match="LIDAR_TOP has no ring numbers"):
        BeamsReduced(LIDAR_CHANNEL, 2).corrupted(frame, lambda keyframes: frame, 0)


def test_a_detector_is_measured_only_by_what_it_has() -> None:
    assert len({series.name for series in catalogue(SENSORS)}) == len(catalogue(SENSORS))
    lidar_only = {series.name: series for series in catalogue(Sensors((), LIDAR_CHANNEL, (), pose=False))}
    assert {"beams_reduced", "lidar_fog", "pose_delay"} <= lidar_only.keys()
    assert not {"sensor_subset", "dark", "fog", "radars_dead", "one_camera_dead"} & lidar_only.keys()
    two = {series.name: series for series in catalogue(Sensors(("CAM_FRONT", "CAM_BACK"), None, (), pose=True))}
    assert [level.label for level in two["sensor_subset"].levels] == ["camera", "pose"]
    assert [level.label for level in two["cameras_dead"].levels] == ["1 of 2", "2 of 2"]
    assert not {"lidar_fog", "fog", "radars_late"} & two.keys()


def test_the_documentation_has_every_corruption_with_its_severities() -> None:
    six = Sensors(CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS, pose=True)
    text = (Path(__file__).resolve().parents[1] / "docs" / "robustness.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for series in catalogue(six):
        (row,) = (line for line in rows if f"`{series.name}`" in line.split("|")[1])
        if series.graded and series.name not in ("fog", "rain", "snow"):
            assert " / ".join(level.label for level in series.levels) == row.split("|")[2].strip()
    assert f"each of {len(catalogue(six))} corruptions" in text
    assert f"All {sum(len(series.levels) for series in catalogue(six))} rows" in text


def test_samples_of_spoilt_frames_keep_the_truth(frames: tuple[LogFrame, ...]) -> None:
    config = SampleConfig(image_height=32, image_width=64, lidar_sweeps=3, radar_sweeps=2)
    clean = make_sample(frames[2], config)
    assert clean.boxes is not None
    for corruption in (PoseJitter(0.5, 0.05), PoseDelay(0.3), Misaligned(POSES, 5.0, 0.2), PoseDropped()):
        spoilt = make_sample(corrupted(frames, 2, corruption), config)
        assert spoilt.boxes is not None
        assert torch.equal(spoilt.global_from_ego, clean.global_from_ego)
        assert torch.equal(spoilt.boxes.centers, clean.boxes.centers)
        assert spoilt.token == clean.token
