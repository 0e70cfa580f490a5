"""Frames from nuScenes dataroots against the devkit: on a written dataset, and on real data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from calibration.transforms import invert
from datasets.classes import CAMERA_CHANNELS, CLASS_OF_CATEGORY, DETECTION_CLASSES, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.can_bus import read_vehicle_motion
from datasets.nuscenes.reader import NuScenesReader
from tests.frame_points import lidar_global
from tests.nuscenes_fixture import read_table


def matrix(record: dict[str, list[float]]) -> np.ndarray:
    """A pose or a calibration as the devkit would have it."""
    from pyquaternion import Quaternion

    transform = Quaternion(record["rotation"]).transformation_matrix
    transform[:3, 3] = record["translation"]
    return np.asarray(transform)


def test_every_frame_of_a_scene_equals_the_devkit(nuscenes_root: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.utils.data_classes import RadarPointCloud
    from pyquaternion import Quaternion

    devkit = NuScenes(version="v1.0-mini", dataroot=str(nuscenes_root), verbose=False)
    reader = NuScenesReader(nuscenes_root)
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
