"""Frames from nuScenes dataroots, against what was written and against the devkit on real data."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.transforms import from_yaw, invert, transform_points
from datasets.classes import CAMERA_CHANNELS, CLASS_OF_CATEGORY, DETECTION_CLASSES, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, InputRefused
from datasets.frames import LogFrame
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.can_bus import VehicleMotion, read_vehicle_motion
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.splits import Purpose, default_split, scenes_of_split, split_in_file_name
from datasets.reader import LogReader
from datasets.sensors.images import decode_image
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


def lidar_global(frame: LogFrame, sweep: int = 0) -> torch.Tensor:
    """A sweep's points in global, float64."""
    points = frame.lidar_sweeps[LIDAR_CHANNEL][sweep]
    global_from_lidar = points.global_from_ego @ frame.rig.ego_from_sensor[LIDAR_CHANNEL]
    return transform_points(global_from_lidar, points.points[:, :3].double())


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


def matrix(record: dict[str, list[float]]) -> np.ndarray:
    """A pose or a calibration as the devkit would have it."""
    from pyquaternion import Quaternion

    transform = Quaternion(record["rotation"]).transformation_matrix
    transform[:3, 3] = record["translation"]
    return np.asarray(transform)


def test_every_frame_of_a_scene_equals_the_devkit(pristine: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.utils.data_classes import RadarPointCloud
    from pyquaternion import Quaternion

    devkit = NuScenes(version="v1.0-mini", dataroot=str(pristine), verbose=False)
    reader = NuScenesReader(pristine)
    (scene,) = (record for record in devkit.scene if record["name"] == "scene-0103")
    token, tokens = scene["first_sample_token"], list(reader.frame_tokens("scene-0103"))
    states = list(range(-128, 128))
    while token:
        sample, frame = devkit.get("sample", token), reader.frame(tokens.pop(0))
        assert (frame.token, frame.timestamp_us, frame.scene_name) == (token, sample["timestamp"], scene["name"])
        for channel, sample_data in sample["data"].items():
            sweeps = (frame.lidar_sweeps | frame.radar_sweeps).get(channel, ())
            for item in sweeps or (frame.images[channel],):
                record = devkit.get("sample_data", sample_data)
                assert item.timestamp_us == record["timestamp"]
                pose = devkit.get("ego_pose", record["ego_pose_token"])
                assert np.allclose(item.global_from_ego, matrix(pose), rtol=0, atol=1e-9)
                if channel == LIDAR_CHANNEL:
                    points = np.fromfile(devkit.get_sample_data_path(sample_data), np.float32).reshape(-1, 5)
                elif sweeps:
                    path = devkit.get_sample_data_path(sample_data)
                    points = RadarPointCloud.from_file(path, states, states, states).points.T.astype(np.float32)
                assert not sweeps or np.array_equal(item.points, points)
                sample_data = record["prev"]
            assert len(sweeps) in (0, 10 if channel == LIDAR_CHANNEL else 6) or sample_data == ""
            calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
            assert np.allclose(frame.rig.ego_from_sensor[channel], matrix(calibration), rtol=0, atol=1e-9)
            if channel in frame.rig.cameras:
                camera = frame.rig.cameras[channel]
                assert np.array_equal(camera.intrinsics, calibration["camera_intrinsic"])
                assert (camera.width, camera.height) == (record["width"], record["height"])
        assert frame.annotations is not None
        assert set(frame.annotations.tokens) == set(sample["anns"])
        boxes = frame.annotations.boxes_global
        for row, annotation in enumerate(frame.annotations.tokens):
            box, record = devkit.get_box(annotation), devkit.get("sample_annotation", annotation)
            assert frame.annotations.instance_tokens[row] == record["instance_token"]
            assert boxes.centers[row].tolist() == box.center.tolist()
            assert boxes.sizes_wlh[row].tolist() == box.wlh.tolist()
            assert np.isclose(np.cos(boxes.yaws[row] - Quaternion(record["rotation"]).yaw_pitch_roll[0]), 1)
            assert np.array_equal(boxes.velocities[row], devkit.box_velocity(annotation)[:2], equal_nan=True)
            assert DETECTION_CLASSES[boxes.labels[row]] == CLASS_OF_CATEGORY[record["category_name"]]
        token = sample["next"]
    assert tokens == []


# Real data --------------------------------------------------------------------------------------------------------


def test_real_boxes_hold_as_many_points_as_the_tables_say(real_data: Path) -> None:
    root = real_data / "nuscenes-keyframe"
    reader = NuScenesReader(root)
    (token,) = reader.frame_tokens("mini_train")
    frame = reader.frame(token)
    assert frame.annotations is not None
    points = lidar_global(frame)
    assert len(points) == 34_688
    counts = frame.annotations.boxes_global.points_inside(points).sum(dim=1)
    assert torch.equal(counts, frame.annotations.lidar_point_counts)
    # The 69th box is of a class that detection leaves out; its geometry must be right all the same.
    assert len(counts) == 68
    (other,) = [r for r in read_table(root, "sample_annotation") if r["token"] not in frame.annotations.tokens]
    box = replace(
        frame.annotations.boxes_global[torch.tensor([0])],
        centers=torch.tensor([other["translation"]], dtype=torch.float64),
        sizes_wlh=torch.tensor([other["size"]], dtype=torch.float64),
        yaws=torch.tensor([yaw_of_quaternion(other["rotation"])], dtype=torch.float64),
    )
    assert int(box.points_inside(points).sum()) == other["num_lidar_pts"]
    assert {fault.channel for fault in frame.faults} == set(RADAR_CHANNELS) - {"RADAR_FRONT"}
    assert all(fault.reason is FaultReason.NOT_RECORDED for fault in frame.faults)


def test_a_real_frame_equals_the_devkit(real_data: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud

    root = real_data / "nuscenes-keyframe"
    devkit = NuScenes(version="v1.0-mini", dataroot=str(root), verbose=False)
    reader = NuScenesReader(root)
    (token,) = reader.frame_tokens("all")
    frame = reader.frame(token)
    sample = devkit.get("sample", token)
    assert set(sample["data"]) == set(frame.images) | set(frame.lidar_sweeps) | set(frame.radar_sweeps)

    for channel, sample_data in sample["data"].items():
        record = devkit.get("sample_data", sample_data)
        calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
        pose = matrix(devkit.get("ego_pose", record["ego_pose_token"]))
        assert np.allclose(frame.rig.ego_from_sensor[channel], matrix(calibration), atol=1e-9)
        item = (
            frame.images[channel] if channel in frame.images else (frame.lidar_sweeps | frame.radar_sweeps)[channel][0]
        )
        assert item.timestamp_us == record["timestamp"]
        assert np.allclose(item.global_from_ego, pose, atol=1e-9)
        if channel in frame.images:
            assert np.array_equal(frame.rig.cameras[channel].intrinsics, calibration["camera_intrinsic"])
            assert frame.images[channel].encoded == (root / record["filename"]).read_bytes()
        elif channel == LIDAR_CHANNEL:
            reference = np.fromfile(root / record["filename"], dtype=np.float32).reshape(-1, 5)
            cloud = LidarPointCloud.from_file(str(root / record["filename"]))
            assert np.array_equal(frame.lidar_sweeps[channel][0].points[:, :4], cloud.points.T)
            assert np.array_equal(frame.lidar_sweeps[channel][0].points, reference)
            assert np.allclose(frame.global_from_ego, pose, atol=1e-9)
        else:
            states = list(range(-128, 128))
            cloud = RadarPointCloud.from_file(str(root / record["filename"]), states, states, states)
            assert np.array_equal(frame.radar_sweeps[channel][0].points, cloud.points.T.astype(np.float32))


def test_real_annotations_equal_the_devkit(real_data: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.eval.common.utils import quaternion_yaw
    from pyquaternion import Quaternion

    root = real_data / "nuscenes-minival"
    devkit = NuScenes(version="v1.0-mini", dataroot=str(root), verbose=False)
    reader = NuScenesReader(root)
    checked = 0
    for sample in devkit.sample:
        annotations = reader.annotations(sample["token"])
        assert annotations is not None
        records = {token: devkit.get("sample_annotation", token) for token in sample["anns"]}
        detected = {token for token, record in records.items() if record["category_name"] in CLASS_OF_CATEGORY}
        assert set(annotations.tokens) == detected
        velocities = [devkit.box_velocity(token)[:2] for token in annotations.tokens]
        assert np.array_equal(annotations.boxes_global.velocities, velocities, equal_nan=True)
        yaws = np.array([quaternion_yaw(Quaternion(records[token]["rotation"])) for token in annotations.tokens])
        assert np.allclose(np.cos(annotations.boxes_global.yaws.numpy() - yaws), 1, atol=1e-12)
        checked += len(annotations.tokens)
    assert checked > 4_400


def test_every_real_frame_equals_the_devkit(real_data: Path) -> None:
    """All 81 frames of mini_val: poses, calibration, cameras, sweeps of the radar that is there, boxes."""
    from nuscenes import NuScenes
    from nuscenes.utils.data_classes import RadarPointCloud

    root = real_data / "nuscenes-minival"
    devkit = NuScenes(version="v1.0-mini", dataroot=str(root), verbose=False)
    reader = NuScenesReader(root)
    states, sweeps = list(range(-128, 128)), 0
    for sample in devkit.sample:
        frame = reader.frame(sample["token"])
        records = {channel: devkit.get("sample_data", token) for channel, token in sample["data"].items()}
        own = devkit.get("ego_pose", records[LIDAR_CHANNEL]["ego_pose_token"])
        assert np.allclose(frame.global_from_ego, matrix(own), rtol=0, atol=1e-9)
        assert frame.timestamp_us == sample["timestamp"]
        assert set(frame.rig.ego_from_sensor) == set(records)
        for channel, record in records.items():
            calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
            assert np.allclose(frame.rig.ego_from_sensor[channel], matrix(calibration), rtol=0, atol=1e-9)
            assert (channel in frame.rig.cameras) == (channel in CAMERA_CHANNELS)
            if channel in frame.rig.cameras:
                assert np.array_equal(frame.rig.cameras[channel].intrinsics, calibration["camera_intrinsic"])
        record = records["RADAR_FRONT"]
        for sweep in frame.radar_sweeps["RADAR_FRONT"]:
            pose = devkit.get("ego_pose", record["ego_pose_token"])
            assert sweep.timestamp_us == record["timestamp"]
            assert np.allclose(sweep.global_from_ego, matrix(pose), rtol=0, atol=1e-9)
            cloud = RadarPointCloud.from_file(str(root / record["filename"]), states, states, states)
            assert np.array_equal(sweep.points, cloud.points.T.astype(np.float32))
            sweeps += 1
            if record["prev"]:
                record = devkit.get("sample_data", record["prev"])
        assert frame.annotations is not None
        boxes = frame.annotations.boxes_global
        for row, token in enumerate(frame.annotations.tokens):
            box = devkit.get_box(token)
            assert boxes.centers[row].tolist() == box.center.tolist()
            assert boxes.sizes_wlh[row].tolist() == box.wlh.tolist()
            assert np.array_equal(boxes.velocities[row], devkit.box_velocity(token)[:2], equal_nan=True)
    assert sweeps >= len(devkit.sample)


def test_an_incomplete_real_download(real_data: Path) -> None:
    reader = NuScenesReader(real_data / "nuscenes-minival")
    tokens = reader.frame_tokens("mini_val")
    assert len(tokens) == 81
    for token in tokens[::20]:
        frame = reader.frame(token)
        missing = {fault.channel for fault in frame.faults if fault.reason is FaultReason.MISSING_FILE}
        assert missing == {*CAMERA_CHANNELS, LIDAR_CHANNEL}
        unrecorded = {fault.channel for fault in frame.faults if fault.reason is FaultReason.NOT_RECORDED}
        assert unrecorded == set(RADAR_CHANNELS) - {"RADAR_FRONT"}
        assert set(frame.radar_sweeps) == {"RADAR_FRONT"}


def test_the_real_can_bus_agrees_with_the_real_poses(real_data: Path) -> None:
    root = real_data / "nuscenes-minival"
    messages = json.loads((root / "can_bus" / "scene-0103_pose.json").read_text())
    motion = read_vehicle_motion(root, "scene-0103")
    assert motion is not None
    reader = NuScenesReader(root)
    track, _, _ = reader._scene_context(reader.index.scene(reader.scene_names.index("scene-0103")))
    times = np.array([message["utime"] for message in messages])
    inside = (track.timestamps_us >= times[0]) & (track.timestamps_us <= times[-1])
    assert inside.sum() == 659
    seconds, pose_seconds = (times - times[0]) * 1e-6, (track.timestamps_us[inside] - times[0]) * 1e-6
    recorded = np.array([message["pos"] for message in messages])
    positions = np.stack([np.interp(pose_seconds, seconds, recorded[:, axis]) for axis in range(3)], axis=1)
    offsets = track.global_from_ego[torch.from_numpy(inside), :3, 3].numpy() - positions
    assert np.linalg.norm(offsets, axis=1).max() < 0.006
    tokens = reader.frame_tokens("scene-0103")[2::5]
    for state in [reader.frame(token).ego_states[-1] for token in tokens]:
        message = motion.at(state.timestamp_us)
        if message is None:
            continue
        velocity, _, yaw_rate = message
        assert np.array_equal(state.velocity, velocity)
        # Driven distance over the last 0.4 s, by the poses: the frame of the messages is ego, x forward.
        before = state.timestamp_us - 400_000
        if before < track.timestamps_us[0]:
            continue
        ego_from_past = invert(state.global_from_ego) @ track.at([before])[0]
        assert abs(float(-ego_from_past[0, 3]) / 0.4 - velocity[0]) < 0.9
        assert abs(float(-torch.atan2(ego_from_past[1, 0], ego_from_past[0, 0])) / 0.4 - yaw_rate) < 0.08
        # Gravity is gone.
        assert abs(float(state.acceleration[2])) < 1.5
