"""Frames from nuScenes dataroots, against what was written into them."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.transforms import from_yaw
from datasets.classes import CAMERA_CHANNELS, CLASS_OF_CATEGORY, DETECTION_CLASSES, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, InputRefused
from datasets.nuscenes.can_bus import VehicleMotion
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.splits import Purpose, default_split, scenes_of_split, split_in_file_name
from datasets.reader import LogReader
from datasets.sensors.images import decode_image
from tests.frame_points import lidar_global
from tests.nuscenes_fixture import (
    OBJECTS,
    SPEED,
    START_US,
    YAW_RATE,
    read_table,
    true_object,
    true_pose,
    write_dataset,
    write_table,
)

CHANNELS = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)
LAST = "scene-0103-sample-2"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reader")
    write_dataset(root, can_bus=True)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "data")


def file_of(root: Path, token: str) -> Path:
    row = next(row for row in read_table(root, "sample_data") if row["token"] == token)
    return root / str(row["filename"])


# A dataset whose truth is known -----------------------------------------------------------------------------------


def test_a_frame_holds_everything_that_was_written(pristine: Path) -> None:
    reader: LogReader = NuScenesReader(pristine)
    frame = reader.frame(LAST)
    assert (frame.token, frame.scene_name, frame.timestamp_us) == (LAST, "scene-0103", START_US + 1_001_000_000)
    assert frame.faults == ()
    assert frame.impairments == ()
    assert tuple(frame.images) == CAMERA_CHANNELS
    assert set(frame.rig.ego_from_sensor) == set(CHANNELS)
    assert set(frame.rig.cameras) == set(CAMERA_CHANNELS)
    assert len(frame.lidar_sweeps[LIDAR_CHANNEL]) == 10
    assert {channel: len(sweeps) for channel, sweeps in frame.radar_sweeps.items()} == dict.fromkeys(RADAR_CHANNELS, 6)
    assert np.allclose(frame.global_from_ego, true_pose(1, 1.0), atol=1e-9)
    assert np.allclose(frame.rig.ego_from_sensor[LIDAR_CHANNEL], from_yaw(-np.pi / 2, (0.94, 0.0, 1.84)))
    front = frame.rig.cameras["CAM_FRONT"]
    assert (front.width, front.height, front.intrinsics[0, 0]) == (160, 90, 126.6)
    # CAM_FRONT looks along ego x: its z is ego's x, its y is ego's minus z.
    ahead = frame.rig.ego_from_sensor["CAM_FRONT"][:3, :3] @ torch.tensor([[0.0, 0], [0, 1], [1, 0]]).double()
    assert np.allclose(ahead, [[1, 0], [0, 0], [0, -1]], atol=1e-12)
    assert decode_image(frame.images["CAM_FRONT"]).shape == (90, 160, 3)


def test_each_sensor_has_its_own_time_and_pose(pristine: Path) -> None:
    frame = NuScenesReader(pristine).frame(LAST)
    recorded = [*frame.images.values(), *frame.lidar_sweeps[LIDAR_CHANNEL]]
    recorded += [sweep for sweeps in frame.radar_sweeps.values() for sweep in sweeps]
    for item in recorded:
        seconds = (item.timestamp_us - START_US - 1_000_000_000) * 1e-6
        assert np.allclose(item.global_from_ego, true_pose(1, seconds), atol=1e-9)
    assert frame.images["CAM_FRONT"].timestamp_us == frame.timestamp_us - 35_000
    ages = [frame.timestamp_us - sweep.timestamp_us for sweep in frame.lidar_sweeps[LIDAR_CHANNEL]]
    assert ages == list(range(0, 1_000_000, 100_000))


def test_annotations_are_the_true_boxes(pristine: Path) -> None:
    reader = NuScenesReader(pristine)
    for keyframe in range(3):
        annotations = reader.annotations(f"scene-0061-sample-{keyframe}")
        assert annotations is not None
        boxes = annotations.boxes_global
        assert boxes.centers.dtype == torch.float64
        for row, instance in enumerate(annotations.instance_tokens):
            number = int(instance.rpartition("-")[2])
            category, attribute, size, speed = OBJECTS[number]
            center, yaw = true_object(0, number, keyframe * 0.5)
            assert np.allclose(boxes.centers[row], center)
            assert boxes.sizes_wlh[row].tolist() == list(size)
            assert np.isclose(np.cos(boxes.yaws[row] - yaw), 1)
            assert np.allclose(boxes.velocities[row], speed * np.array([np.cos(yaw), np.sin(yaw)]), atol=1e-5)
            assert DETECTION_CLASSES[boxes.labels[row]] == CLASS_OF_CATEGORY[category]
            assert (boxes.attributes[row] >= 0) == (attribute != "")
        assert len(boxes) == 10
        assert annotations.lidar_point_counts.tolist() == [5] * 10


def test_every_sweep_lies_in_the_boxes_where_the_objects_were(pristine: Path) -> None:
    frame = NuScenesReader(pristine).frame(LAST)
    assert frame.annotations is not None
    boxes = frame.annotations.boxes_global
    standing = boxes.velocities.norm(dim=1) == 0
    for sweep in range(10):
        counts = boxes.points_inside(lidar_global(frame, sweep)).sum(dim=1)
        assert torch.equal(counts[standing], frame.annotations.lidar_point_counts[standing])
    assert torch.equal(boxes.points_inside(lidar_global(frame)).sum(dim=1), frame.annotations.lidar_point_counts)


def test_only_the_sweeps_asked_for_and_only_of_the_scene(pristine: Path) -> None:
    reader = NuScenesReader(pristine, lidar_sweeps=3, radar_sweeps=1)
    frame = reader.frame(LAST)
    assert len(frame.lidar_sweeps[LIDAR_CHANNEL]) == 3
    assert all(len(sweeps) == 1 for sweeps in frame.radar_sweeps.values())
    first = NuScenesReader(pristine).frame("scene-0103-sample-0")
    assert len(first.lidar_sweeps[LIDAR_CHANNEL]) == 1
    with pytest.raises(ValueError, match="lidar_sweeps"):
        NuScenesReader(pristine, lidar_sweeps=0)


def test_splits(pristine: Path) -> None:
    reader = NuScenesReader(pristine)
    assert reader.scene_names == ("scene-0061", "scene-0103")
    train = tuple(f"scene-0061-sample-{number}" for number in range(3))
    val = tuple(f"scene-0103-sample-{number}" for number in range(3))
    assert reader.frame_tokens("mini_train") == train
    assert reader.frame_tokens("mini_val") == val
    assert reader.frame_tokens("all") == train + val
    assert reader.frame_tokens("scene-0103, scene-0061") == val + train
    with pytest.raises(InputRefused, match=r"'test' is a split of another version; those of v1.0-mini are mini_train"):
        reader.frame_tokens("test")
    with pytest.raises(InputRefused, match=r"'scene-0001' is neither a split .*mini_train.* nor a scene here"):
        reader.frame_tokens("scene-0061,scene-0001")


def test_a_reader_can_be_sent_to_another_process(pristine: Path) -> None:
    reader = NuScenesReader(pristine)
    frame = reader.frame(LAST)
    sent = pickle.loads(pickle.dumps(reader)).frame(LAST)
    assert torch.equal(sent.lidar_sweeps[LIDAR_CHANNEL][3].points, frame.lidar_sweeps[LIDAR_CHANNEL][3].points)


@pytest.mark.parametrize(
    ("version", "purpose", "split"),
    [
        ("v1.0-mini", "train", "mini_train"),
        ("v1.0-mini", "evaluate", "mini_val"),
        ("v1.0-mini", "predict", "mini_val"),
        ("v1.0-trainval", "train", "train"),
        ("v1.0-trainval", "evaluate", "val"),
        ("v1.0-test", "predict", "test"),
    ],
)
def test_the_default_split_is_one_of_the_version(version: str, purpose: Purpose, split: str) -> None:
    assert default_split(version, purpose) == split


def test_where_no_split_can_be_meant_one_must_be_named() -> None:
    unnamed: tuple[tuple[str, Purpose], ...] = (
        ("v1.0-test", "train"), ("v1.0-test", "evaluate"), ("v1.0-garage", "train"),
    )  # fmt: skip
    for version, purpose in unnamed:
        with pytest.raises(InputRefused, match=version):
            default_split(version, purpose)


def test_official_splits_of_another_version_are_refused() -> None:
    scenes = ("scene-0061", "scene-0103")  # of mini_train and mini_val, and of train and val
    assert scenes_of_split("train", scenes, "v1.0-trainval", "here") == ("scene-0061",)
    assert scenes_of_split("mini_val", scenes, "v1.0-garage", "here") == ("scene-0103",)
    for split, version, fitting in (
        ("mini_train", "v1.0-trainval", "train, val,"),
        ("val", "v1.0-mini", "mini_train, mini_val,"),
        ("test", "v1.0-mini", "mini_train, mini_val,"),
        ("val", "v1.0-test", "test,"),
    ):
        with pytest.raises(InputRefused, match=f"another version; those of {version} are {fitting}"):
            scenes_of_split(split, scenes, version, "here")


def test_any_split_makes_a_file_name() -> None:
    assert split_in_file_name("mini_val") == "mini_val"
    assert split_in_file_name("scene-0061,scene-0103") == "scene-0061-scene-0103"
    assert "/" not in split_in_file_name("garage/../../etc")
    many = [",".join(f"scene-{number:04}" for number in range(count)) for count in (300, 301)]
    names = {split_in_file_name(split) for split in many}
    assert len(names) == 2
    assert max(map(len, names)) <= 60


def test_channels_that_are_not_asked_for_are_not_read(root: Path) -> None:
    clean = NuScenesReader(root).frame(LAST)
    shutil.rmtree(root / "samples" / "CAM_BACK")
    shutil.rmtree(root / "samples" / "RADAR_FRONT")
    channels = set(CAMERA_CHANNELS) - {"CAM_BACK"} | {LIDAR_CHANNEL}
    frame = NuScenesReader(root, channels=channels).frame(LAST)
    assert (frame.faults, frame.impairments) == ((), ())
    assert set(frame.images) == set(CAMERA_CHANNELS) - {"CAM_BACK"}
    assert set(frame.lidar_sweeps) == {LIDAR_CHANNEL}
    assert frame.radar_sweeps == {}
    assert torch.equal(frame.global_from_ego, clean.global_from_ego)


# Ego motion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("can_bus", [True, False])
def test_ego_states(root: Path, can_bus: bool) -> None:
    if not can_bus:
        shutil.rmtree(root / "can_bus")
    states = NuScenesReader(root, history=1.0, history_step=0.25).frame(LAST).ego_states
    assert [state.timestamp_us - states[-1].timestamp_us for state in states] == [
        -1000000,
        -750000,
        -500000,
        -250000,
        0,
    ]
    for state in states:
        seconds = (state.timestamp_us - START_US - 1_000_000_000) * 1e-6
        # Between two poses 0.1 s apart on this curve a straight line is at most 1 mm off.
        assert np.allclose(state.global_from_ego, true_pose(1, seconds), atol=1.1e-3)
        assert np.allclose(state.velocity, [SPEED, 0, 0], atol=1e-9 if can_bus else 0.02)
        assert abs(state.yaw_rate - YAW_RATE) < 1e-6
        assert (state.gps is not None) == can_bus
    assert np.allclose(states[-1].acceleration, [0, SPEED * YAW_RATE, 0], atol=1e-9 if can_bus else 0.02)
    assert np.array_equal(states[-1].global_from_ego, NuScenesReader(root).frame(LAST).global_from_ego)


def test_the_past_ends_where_the_recording_began(pristine: Path) -> None:
    reader = NuScenesReader(pristine)
    assert [len(reader.frame(f"scene-0103-sample-{number}").ego_states) for number in range(3)] == [1, 2, 3]


def test_gps_is_the_newest_fix_until_then(root: Path) -> None:
    path = root / "can_bus" / "scene-0103_gps.json"
    time = START_US + 1_001_000_000

    def fix(utime: int, latitude: float) -> dict[str, float]:
        return {"utime": utime, "latitude": latitude, "longitude": 8.5, "altitude": 400.0}

    path.write_text(json.dumps([fix(time + 1, 1.0), fix(time - 100_000, 2.0), fix(time - 150_000, 3.0)]))
    states = NuScenesReader(root).frame(LAST).ego_states
    gps = states[-1].gps
    assert gps is not None
    assert (gps.latitude, gps.longitude, gps.altitude) == (2.0, 8.5, 400.0)
    assert states[-2].gps is None
    path.write_text(json.dumps([fix(time - 150_001, 1.0), fix(time + 1, 2.0)]))
    assert NuScenesReader(root).frame(LAST).ego_states[-1].gps is None


def test_vehicle_motion_never_looks_ahead() -> None:
    times = np.array([0, 100_000, 200_000, 500_000], dtype=np.int64)
    speeds = np.arange(12, dtype=np.float64).reshape(4, 3)
    motion = VehicleMotion(times, speeds, -speeds, speeds[:, 0])
    for instant, newest in ((100_000, 1), (199_999, 1), (200_000, 2), (350_000, 2), (600_000, 3)):
        message = motion.at(instant)
        assert message is not None
        assert np.array_equal(message[0], speeds[newest])
        assert np.array_equal(message[1], -speeds[newest])
        assert message[2] == speeds[newest, 0]
    assert motion.at(-1) is None
    assert motion.at(350_001) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pose", '[{"utime": 1, "vel": [1, 2], "accel": [0, 0, 0], "rotation_rate": [0, 0, 0]}]', "vel: expected 3"),
        ("pose", "{}", "expected a list of messages"),
        ("gps", '[{"utime": "now"}]', "field utime"),
        ("gps", '[{"utime": 1, "latitude": NaN, "longitude": 0, "altitude": 0}]', "latitude: expected a finite"),
        ("gps", '[{"utime": 1, "latitude": 91, "longitude": 0, "altitude": 0}]', "-90..90"),
        ("gps", "[", "line 1"),
    ],
)
def test_broken_vehicle_messages_are_refused(root: Path, name: str, content: str, words: str) -> None:
    (root / "can_bus" / f"scene-0103_{name}.json").write_text(content)
    with pytest.raises(InputRefused, match=rf"scene-0103_{name}\.json: .*{words}"):
        NuScenesReader(root).frame(LAST)


def test_empty_vehicle_messages_are_none(root: Path) -> None:
    for name in ("pose", "gps"):
        (root / "can_bus" / f"scene-0103_{name}.json").write_text("[]")
    state = NuScenesReader(root).frame(LAST).ego_states[-1]
    assert state.gps is None
    assert abs(float(state.velocity[0]) - SPEED) < 0.02


# Faults -----------------------------------------------------------------------------------------------------------


def test_broken_keyframe_files_are_faults_of_their_channel(root: Path) -> None:
    clean = NuScenesReader(root).frame(LAST)
    file_of(root, "scene-0103-CAM_BACK-2").unlink()
    file_of(root, "scene-0103-RADAR_FRONT-10").write_bytes(b"")
    lidar = file_of(root, "scene-0103-LIDAR_TOP-10")
    lidar.write_bytes(lidar.read_bytes()[:-7])
    frame = NuScenesReader(root).frame(LAST)
    assert {(fault.channel, fault.reason) for fault in frame.faults} == {
        ("CAM_BACK", FaultReason.MISSING_FILE),
        ("RADAR_FRONT", FaultReason.EMPTY_FILE),
        (LIDAR_CHANNEL, FaultReason.TRUNCATED),
    }
    assert all(fault.channel in fault.detail for fault in frame.faults)
    assert "CAM_BACK" not in frame.images
    assert frame.lidar_sweeps == {}
    assert "RADAR_FRONT" not in frame.radar_sweeps
    # The pose is in the tables, and everything else is as it was.
    assert torch.equal(frame.global_from_ego, clean.global_from_ego)
    assert {c: i.encoded for c, i in frame.images.items()} == {
        c: i.encoded for c, i in clean.images.items() if c != "CAM_BACK"
    }


def test_broken_earlier_sweeps_are_left_out_and_counted(root: Path) -> None:
    clean = NuScenesReader(root).frame(LAST)
    file_of(root, "scene-0103-LIDAR_TOP-7").unlink()
    file_of(root, "scene-0103-RADAR_FRONT-9").write_bytes(b"no radar\n")
    frame = NuScenesReader(root).frame(LAST)
    assert frame.faults == ()
    assert [(fault.channel, fault.reason) for fault in frame.impairments] == [
        (LIDAR_CHANNEL, FaultReason.MISSING_FILE),
        ("RADAR_FRONT", FaultReason.BAD_HEADER),
    ]
    times = [sweep.timestamp_us for sweep in clean.lidar_sweeps[LIDAR_CHANNEL]]
    assert [sweep.timestamp_us for sweep in frame.lidar_sweeps[LIDAR_CHANNEL]] == times[:3] + times[4:]


def test_channels_that_were_not_recorded(root: Path) -> None:
    gone = {"LIDAR_TOP", "CAM_BACK", "RADAR_BACK_LEFT"}
    rows = read_table(root, "sample_data")
    write_table(root, "sample_data", [row for row in rows if row["token"].split("-")[2] not in gone])
    frame = NuScenesReader(root).frame(LAST)
    assert {fault.channel for fault in frame.faults} == gone
    assert {fault.reason for fault in frame.faults} == {FaultReason.NOT_RECORDED}
    assert not gone & set(frame.rig.ego_from_sensor)
    # The pose of the record closest in time: RADAR_BACK_RIGHT's, 2 ms before.
    assert np.allclose(frame.global_from_ego, true_pose(1, 1.0 - 0.002), atol=1e-9)


def test_a_link_out_of_the_dataset_is_refused(root: Path) -> None:
    image = file_of(root, "scene-0103-CAM_BACK-2")
    outside = root.parent / "outside.jpg"
    shutil.move(image, outside)
    image.symlink_to(outside)
    with pytest.raises(InputRefused, match="leads out of the dataroot"):
        NuScenesReader(root).frame(LAST)


def test_without_annotations(root: Path) -> None:
    write_table(root, "sample_annotation", [])
    reader = NuScenesReader(root)
    assert reader.annotations(LAST) is None
    assert reader.frame(LAST).annotations is None


def test_a_sample_without_boxes_has_no_boxes(root: Path) -> None:
    rows = read_table(root, "sample_annotation")
    write_table(root, "sample_annotation", [row for row in rows if row["sample_token"].startswith("scene-0061")])
    annotations = NuScenesReader(root).annotations(LAST)
    assert annotations is not None
    assert len(annotations.boxes_global) == 0


def test_the_order_of_records_means_nothing(root: Path) -> None:
    clean = NuScenesReader(root).frame(LAST)
    for table in ("sample_data", "ego_pose", "sample", "scene", "sample_annotation", "calibrated_sensor"):
        write_table(root, table, read_table(root, table)[::-1])
    frame = NuScenesReader(root).frame(LAST)
    assert frame.annotations is not None
    assert clean.annotations is not None
    assert frame.annotations.tokens == clean.annotations.tokens
    assert torch.equal(frame.annotations.boxes_global.centers, clean.annotations.boxes_global.centers)
    assert [state.timestamp_us for state in frame.ego_states] == [state.timestamp_us for state in clean.ego_states]
    for ours, theirs in zip(frame.lidar_sweeps[LIDAR_CHANNEL], clean.lidar_sweeps[LIDAR_CHANNEL], strict=True):
        assert torch.equal(ours.points, theirs.points)
