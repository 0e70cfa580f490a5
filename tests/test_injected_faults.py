"""Faults injected into the synthetic world: each does what faults.json says, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from calibration.transforms import from_quaternion, transform_points
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.faults import FaultReason, InputRefused
from datasets.nuscenes.index.opening import FOLDER
from datasets.nuscenes.reader import NuScenesReader
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import shots_of
from datasets.synthetic.simulate import simulate
from datasets.synthetic.writing.injected_faults import (
    DeadSensor,
    DroppedFrames,
    ExtrinsicError,
    TimeOffset,
    read_faults,
)
from datasets.synthetic.writing.scene_faults import scene_faults
from tests.small_world import SMALL_WORLD
from tests.test_synthetic import _boxes
from tools.__main__ import main
from tools.exit_codes import ExitCode

pytestmark = pytest.mark.xdist_group("synthetic world")

FAULTY, FAULTLESS = "scene-0061", "scene-0103"
HALF_A_SECOND = 0.5  # of the keyframes
WORLD = replace(
    SMALL_WORLD,
    faults=(
        ExtrinsicError(channel="LIDAR_TOP", scenes=(FAULTY,), rotation_degrees=3.0, translation_metres=0.4),
        TimeOffset(channel="CAM_FRONT_LEFT", scenes=(FAULTY,), seconds=HALF_A_SECOND),
        DroppedFrames(channel="RADAR_FRONT", scenes=(FAULTY,), share=0.5),
        DroppedFrames(channel="CAM_BACK_LEFT", scenes=(FAULTY,), share=1.0),
        DeadSensor(channel="CAM_BACK", scenes=(FAULTY,), from_seconds=0.3),
        DeadSensor(channel="RADAR_BACK_LEFT", scenes=(FAULTY,)),
    ),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty") / "world"
    simulate(folder, WORLD)
    return folder


@pytest.fixture(scope="module")
def devkit(root: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(root), verbose=False)


@pytest.fixture(scope="module")
def told(root: Path) -> dict[str, dict]:
    scenes = json.loads((root / "faults.json").read_text())
    assert [scene["scene"] for scene in scenes] == [FAULTY, FAULTLESS]
    assert scenes[1]["faults"] == []
    return {fault["channel"]: fault for fault in scenes[0]["faults"]}


def _rows(devkit: NuScenes, channel: str, scene: str = FAULTY) -> list[dict]:
    token = next(row["token"] for row in devkit.scene if row["name"] == scene)
    rows = [row for row in devkit.sample_data if row["channel"] == channel]
    return [row for row in rows if devkit.get("sample", row["sample_token"])["scene_token"] == token]


def _in_global(devkit: NuScenes, root: Path, row: dict, ego_from_sensor: np.ndarray) -> np.ndarray:
    pose = devkit.get("ego_pose", row["ego_pose_token"])
    points = LidarPointCloud.from_file(str(root / row["filename"])).points[:3].T
    transform = from_quaternion(pose["rotation"], pose["translation"]) @ torch.from_numpy(ego_from_sensor)
    return transform_points(transform, torch.from_numpy(points.copy()).double()).numpy()


def test_other_sensors_and_scenes_are_as_without_faults(
    devkit: NuScenes, root: Path, synthetic_root: Path, told: dict
) -> None:
    assert set(told) == {fault.channel for fault in WORLD.faults}
    assert not (synthetic_root / "faults.json").exists()
    log_of_faulty = _log_names(root)[0]
    faulty_sweeps = {row["token"] for row in _rows(devkit, LIDAR_CHANNEL)}  # each of its points has a label
    for path in filter(Path.is_file, synthetic_root.rglob("*")):
        relative = path.relative_to(synthetic_root)
        touched = relative.parent.name in told and log_of_faulty in path.name
        touched |= path.name.removesuffix("_lidarseg.bin") in faulty_sweeps
        if relative.suffix != ".json" and not touched and path.parent.name != FOLDER:
            assert (root / relative).read_bytes() == path.read_bytes(), relative
    for name in ("calibrated_sensor", "sample", "scene", "log", "ego_pose"):
        if name != "ego_pose":  # lost sweeps have no pose either
            assert _table(root, name) == _table(synthetic_root, name)
        rows = {row["token"]: row for row in _table(synthetic_root, name)}
        assert all(rows[row["token"]] == row for row in _table(root, name))


def _table(root: Path, name: str) -> list[dict]:
    return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())


def _log_names(root: Path) -> list[str]:
    return [row["logfile"] for row in _table(root, "log")]


def test_a_misplaced_lidar_measures_the_same_world_from_where_it_truly_is(
    devkit: NuScenes, root: Path, synthetic_root: Path, told: dict
) -> None:
    fault = told[LIDAR_CHANNEL]
    true, written = (np.array(fault[f"{which}_ego_from_sensor"]) for which in ("true", "written"))
    between = np.linalg.inv(written) @ true
    assert np.degrees(Rotation.from_matrix(between[:3, :3]).magnitude()) == pytest.approx(3.0)
    assert np.linalg.norm(between[:3, 3]) == pytest.approx(0.4)
    mount = devkit.get("calibrated_sensor", _rows(devkit, LIDAR_CHANNEL)[0]["calibrated_sensor_token"])
    assert np.allclose(from_quaternion(mount["rotation"], mount["translation"]).numpy(), written)
    row = next(row for row in _rows(devkit, LIDAR_CHANNEL) if row["is_key_frame"])
    surface = _in_global(devkit, synthetic_root, row, written)
    vehicle = np.array(devkit.get("ego_pose", row["ego_pose_token"])["translation"])
    off = {
        name: _off_the_surface(_in_global(devkit, root, row, mount), surface, vehicle)
        for name, mount in (("true", true), ("written", written))
    }
    assert off["true"] < 0.05
    assert off["written"] > 3 * off["true"]


def _off_the_surface(points: np.ndarray, surface: np.ndarray, middle: np.ndarray) -> float:
    """The median distance of the points from planes through their neighbours on a surface, 4 to 20 m from `middle`."""
    distances = np.linalg.norm((points - middle)[:, :2], axis=1)
    near = points[(distances > 4.0) & (distances < 20.0)]
    patches = surface[cKDTree(surface).query(near, k=8)[1]]
    middles = patches.mean(axis=1)
    _, spread, axes = np.linalg.svd(patches - middles[:, None])
    off = np.abs(np.einsum("ni,ni->n", near - middles, axes[:, 2]))
    # Neighbours of one beam lie in a line, which has no plane.
    return float(np.median(off[spread[:, 1] > 0.2]))


def test_points_are_counted_where_they_truly_are(devkit: NuScenes, root: Path, told: dict) -> None:
    true, written = (np.array(told[LIDAR_CHANNEL][f"{which}_ego_from_sensor"]) for which in ("true", "written"))
    otherwise = 0
    for row in (row for row in _rows(devkit, LIDAR_CHANNEL) if row["is_key_frame"]):
        annotations = [devkit.get("sample_annotation", t) for t in devkit.get("sample", row["sample_token"])["anns"]]
        boxes = _boxes(annotations)
        counts = [
            boxes.points_inside(torch.from_numpy(_in_global(devkit, root, row, mount))).sum(dim=1).tolist()
            for mount in (true, written)
        ]
        assert counts[0] == [annotation["num_lidar_pts"] for annotation in annotations]
        otherwise += sum(counts[0]) - sum(counts[1])
    assert otherwise > 100


def test_a_late_camera_shows_what_was_half_a_second_ago(
    devkit: NuScenes, root: Path, synthetic_root: Path, told: dict
) -> None:
    assert told["CAM_FRONT_LEFT"] == {"kind": "time_offset", "channel": "CAM_FRONT_LEFT", "seconds": HALF_A_SECOND}
    names = [row["filename"] for row in _rows(devkit, "CAM_FRONT_LEFT") if row["is_key_frame"]]
    late, right = (
        [cv2.imread(str(folder / name)).astype(float) for name in names] for folder in (root, synthetic_root)
    )
    for keyframe in range(1, len(names)):
        to_before, to_same = (np.abs(late[keyframe] - right[other]).mean() for other in (keyframe - 1, keyframe))
        assert to_before < 0.5 * to_same


def test_lost_sweeps_have_no_record_and_lost_keyframes_no_file(
    devkit: NuScenes, root: Path, synthetic_root: Path, told: dict
) -> None:
    whole = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    fault, rows = told["RADAR_FRONT"], _rows(devkit, "RADAR_FRONT")
    all_times = {row["timestamp"] for row in _rows(whole, "RADAR_FRONT")}
    assert 0 < len(fault["lost_sweep_timestamps_us"]) < len(all_times)
    assert all_times - {row["timestamp"] for row in rows} == set(fault["lost_sweep_timestamps_us"])
    keyframes_lost = set(fault["lost_keyframe_timestamps_us"])
    for row in rows:
        assert (root / row["filename"]).exists() == (row["timestamp"] not in keyframes_lost)
    walked, current = [], min(rows, key=lambda row: row["timestamp"])["token"]
    while current:
        walked.append(devkit.get("sample_data", current)["timestamp"])
        current = devkit.get("sample_data", current)["next"]
    assert walked == sorted(row["timestamp"] for row in rows)
    assert len(told["CAM_BACK_LEFT"]["lost_keyframe_timestamps_us"]) == SMALL_WORLD.keyframes
    assert not any((root / row["filename"]).exists() for row in _rows(devkit, "CAM_BACK_LEFT"))


def test_a_dead_sensor_has_records_but_no_files(devkit: NuScenes, root: Path, told: dict) -> None:
    there = {row["timestamp"]: (root / row["filename"]).exists() for row in _rows(devkit, "CAM_BACK")}
    assert [there[time] for time in sorted(there)] == [True, False, False]
    assert told["CAM_BACK"]["first_missing_timestamp_us"] == sorted(there)[1]
    assert not any((root / row["filename"]).exists() for row in _rows(devkit, "RADAR_BACK_LEFT"))
    assert all((root / row["filename"]).exists() for row in _rows(devkit, "RADAR_BACK_LEFT", FAULTLESS))
    reader = NuScenesReader(root, "v1.0-mini")
    frame = reader.frame(reader.frame_tokens(FAULTY)[-1])
    missing = {fault.channel for fault in frame.faults if fault.reason is FaultReason.MISSING_FILE}
    assert {"CAM_BACK", "CAM_BACK_LEFT", "RADAR_BACK_LEFT"} <= missing <= set(told)
    assert reader.frame(reader.frame_tokens(FAULTLESS)[-1]).faults == ()


def test_a_share_of_scenes_gets_one_random_fault_each() -> None:
    kinds, channels = set(), set()
    for seed in range(20):
        config = WorldConfig(scenes=10, keyframes=20, seed=seed, fault_scenes=0.3)
        found = [scene_faults(config, index).faults for index in range(10)]
        assert sorted(map(len, found)) == [0] * 7 + [1] * 3
        assert found == [scene_faults(replace(config), index).faults for index in range(10)]
        kinds |= {fault.kind for faults in found for fault in faults}
        channels |= {fault.channel for faults in found for fault in faults}
    assert kinds == {"extrinsic_error", "time_offset", "dropped_frames", "dead_sensor"}
    assert len(channels) > 8
    assert len(scene_faults(WorldConfig(scenes=1, fault_scenes=0.01), 0).faults) == 1


def test_random_channels_are_drawn_for_each_scene_and_never_twice() -> None:
    config = WorldConfig(scenes=10, faults=tuple(DroppedFrames(channel="random", share=0.2) for _ in range(6)))
    drawn = [[fault.channel for fault in scene_faults(config, index).faults] for index in range(10)]
    assert all(len(set(channels)) == 6 for channels in drawn)
    assert len({tuple(channels) for channels in drawn}) > 5
    twice = WorldConfig(scenes=1, faults=(TimeOffset(channel="CAM_BACK", seconds=0.1),) * 2)
    with pytest.raises(InputRefused, match="two faults of kind time_offset"):
        scene_faults(twice, 0)


def test_the_share_of_lost_frames_is_the_one_asked_for() -> None:
    config = WorldConfig(scenes=1, keyframes=40, faults=(DroppedFrames(channel="LIDAR_TOP", share=0.3),))
    shots = shots_of(config, 0)[LIDAR_CHANNEL]
    lost = sum(not scene_faults(config, 0).has_file(shot) for shot in shots)
    assert abs(lost / len(shots) - 0.3) < 0.07  # of 391: three times the standard deviation
    assert all(scene_faults(config, 0).has_file(shot) for c in CAMERA_CHANNELS for shot in shots_of(config, 0)[c])


def test_a_fault_file_means_what_the_classes_mean(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text(
        json.dumps(
            [
                {"kind": "extrinsic_error", "channel": "CAM_FRONT", "rotation_degrees": 2, "scenes": ["scene-0061"]},
                {"kind": "time_offset", "channel": "random", "seconds": -0.05},
                {"kind": "dropped_frames", "channel": "LIDAR_TOP", "share": 0.25},
                {"kind": "dead_sensor", "channel": "RADAR_FRONT"},
            ]
        )
    )
    assert read_faults(path) == (
        ExtrinsicError(channel="CAM_FRONT", rotation_degrees=2.0, scenes=("scene-0061",)),
        TimeOffset(channel="random", seconds=-0.05),
        DroppedFrames(channel="LIDAR_TOP", share=0.25),
        DeadSensor(channel="RADAR_FRONT", from_seconds=0.0),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a list of faults"),
        ("[3]", "fault number 1: kind"),
        ('[{"kind": "rust", "channel": "CAM_BACK"}]', "kind must be one of"),
        ('[{"kind": "dead_sensor", "channel": "CAM_BACK"}, {"kind": "dead_sensor"}]', "number 2: channel"),
        ('[{"kind": "dead_sensor", "channel": "CAM_TOP"}]', "channel must be"),
        (
            '[{"kind": "time_offset", "channel": "CAM_BACK", "seconds": "0.1"}]',
            "seconds: Input should be a valid number",
        ),
        ('[{"kind": "time_offset", "channel": "CAM_BACK", "seconds": 3}]', "seconds must lie between -1 and 1"),
        ('[{"kind": "time_offset", "channel": "CAM_BACK", "seconds": NaN}]', "seconds must lie between"),
        ('[{"kind": "time_offset", "channel": "CAM_BACK", "offset": 1, "seconds": 0.1}]', "offset: time_offset has no"),
        ('[{"kind": "dropped_frames", "channel": "CAM_BACK", "share": 1.5}]', "share must lie between 0 and 1"),
        ('[{"kind": "extrinsic_error", "channel": "CAM_BACK"}]', "both are 0"),
        ('[{"kind": "dead_sensor", "channel": "CAM_BACK", "scenes": ["scene-9"]}]', "'scene-9' is none of"),
        ('[{"kind": "dead_sensor", "channel": "CAM_BACK", "from_seconds": 99}]', "99 s into scenes that last"),
    ],
)
def test_a_bad_fault_file_is_refused_in_one_sentence(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faults.json").write_text(text)
    words = ["simulate", str(tmp_path / "world"), "--faults", str(tmp_path / "faults.json")]
    assert main(words) == ExitCode.INPUT_REFUSED
    (said,) = capsys.readouterr().err.splitlines()
    assert named in said
    assert not list(tmp_path.glob("*world*"))


def test_a_share_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path / "world"), "--fault-scenes", "1.5"]) == ExitCode.INPUT_REFUSED
    assert "fault_scenes must lie between 0 and 1" in capsys.readouterr().err
