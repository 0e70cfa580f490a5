"""DGP's test scenes through the door: boxes, poses and projections against DGP's own, and broken files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.cameras import project
from calibration.transforms import from_quaternion, invert, transform_points
from datasets.dgp.reader import DgpReader
from datasets.dgp.records import CHANNELS
from datasets.faults import FaultReason, InputRefused
from datasets.frames import LogFrame
from datasets.reader import LogReader
from datasets.samples.frame_classes import classes_of_frames
from datasets.samples.make_sample import SampleConfig, make_sample

TIME_SCALE = 0.1  # the stamps of the test scene count tenths of microseconds
DGP_NAME = {channel: name for name, channel in CHANNELS.items()}


@pytest.fixture(scope="module")
def dgp_root(real_data: Path) -> Path:
    return real_data / "dgp-test-scene"


@pytest.fixture(scope="module")
def frames(dgp_root: Path) -> list[LogFrame]:
    reader = DgpReader(dgp_root, time_scale=TIME_SCALE)
    return [reader.frame(token) for token in reader.frame_tokens("all")]


def scene_json(root: Path, scene: str) -> Path:
    return next((root / scene).glob("scene_*.json"))


def datums(root: Path, frame: LogFrame) -> dict[str, dict[str, Any]]:
    """The frame's data as DGP has them, by DGP's sensor name."""
    scene = json.loads(scene_json(root, frame.scene_name).read_text())
    data = {datum["key"]: datum for datum in scene["data"]}
    sample = next(sample for sample in scene["samples"] if sample["datum_keys"][0] == frame.token)
    return {data[key]["id"]["name"]: data[key] for key in sample["datum_keys"]}


def annotations_of(root: Path, frame: LogFrame, sensor: str, kind: str) -> dict[str, dict[str, Any]]:
    datum = next(iter(datums(root, frame)[sensor]["datum"].values()))
    rows = json.loads((root / frame.scene_name / datum["annotations"][kind]).read_text())["annotations"]
    return {f"{frame.scene_name}-{row['instance_id']}": row for row in rows}


def test_annotations_alone_are_those_of_the_frames_and_need_no_sensor_file(
    frames: list[LogFrame], dgp_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(dgp_root, tmp_path / "dgp", ignore=shutil.ignore_patterns("*.npz", "*.png", "*.jpg"))
    reader = DgpReader(tmp_path / "dgp", time_scale=TIME_SCALE)
    tokens = [frame.token for frame in frames]
    for frame, annotations in zip(frames, map(reader.annotations, tokens), strict=True):
        assert annotations is not None
        assert frame.annotations is not None
        assert annotations.tokens == frame.annotations.tokens
        assert torch.equal(annotations.boxes_global.centers, frame.annotations.boxes_global.centers)
    classes = classes_of_frames(reader, tokens)
    assert all(classes)
    with pytest.raises(KeyError):
        reader.annotations("nowhere")


def test_what_is_there(frames: list[LogFrame], dgp_root: Path) -> None:
    assert isinstance(DgpReader(dgp_root, time_scale=TIME_SCALE), LogReader)
    assert [(frame.scene_name, len(frame.images)) for frame in frames] == [("scene_01", 3)] * 3 + [("scene_02", 6)] * 3
    for frame in frames:
        absent = {fault.channel for fault in frame.faults}
        assert {fault.reason for fault in frame.faults} == {FaultReason.NOT_RECORDED}
        assert absent.isdisjoint(frame.images)
        assert len(absent) + len(frame.images) + len(frame.lidar_sweeps) == 12
        assert all((camera.width, camera.height) == (1936, 1216) for camera in frame.rig.cameras.values())
        points = frame.lidar_sweeps["LIDAR_TOP"][0].points
        assert 0 <= float(points[:, 3].min()) <= float(points[:, 3].max()) <= 255
        assert float(points[:, 3].max()) > 100
    assert [len(frame.lidar_sweeps["LIDAR_TOP"]) for frame in frames] == [1, 2, 3] * 2
    assert [len(frame.ego_states) for frame in frames] == [1] * 6  # 0.2 s were recorded, states are 0.5 s apart


def test_splits(dgp_root: Path) -> None:
    reader = DgpReader(dgp_root, time_scale=TIME_SCALE)
    assert reader.frame_tokens("train") == reader.frame_tokens("val") == reader.frame_tokens("all")
    assert reader.frame_tokens("scene_02") == reader.frame_tokens("all")[3:]
    for split, words in (("test", "no scene of the split"), ("mini_val", "the scenes here are scene_01, scene_02")):
        with pytest.raises(InputRefused, match=words):
            reader.frame_tokens(split)


def test_boxes_are_where_dgp_has_them(frames: list[LogFrame], dgp_root: Path) -> None:
    """Back in the LiDAR's frame: the same centre, size and heading, for every box of a detection class."""
    for frame in frames:
        assert frame.annotations is not None
        expected = annotations_of(dgp_root, frame, "LIDAR", "1")
        assert len(frame.annotations.tokens) == len(expected)
        lidar_from_global = invert(frame.lidar_sweeps["LIDAR_TOP"][0].global_from_ego)  # the LiDAR is ego's origin
        boxes = frame.annotations.boxes_global
        centers = transform_points(lidar_from_global, boxes.centers)
        for index, instance in enumerate(frame.annotations.instance_tokens):
            box = expected[instance]["box"]
            pose = box["pose"]
            assert centers[index].tolist() == pytest.approx([pose["translation"][axis] for axis in "xyz"], abs=1e-6)
            assert boxes.sizes_wlh[index].tolist() == [box["width"], box["length"], box["height"]]
            assert int(frame.annotations.lidar_point_counts[index]) == expected[instance]["num_points"]


def test_cameras_see_the_boxes_where_dgp_puts_them(frames: list[LogFrame], dgp_root: Path) -> None:
    """DGP's own 3D boxes in each camera's frame, and its 2D boxes in the pictures."""
    overlaps: list[float] = []
    offsets: list[float] = []
    for frame in frames:
        assert frame.annotations is not None
        index_of = {token: index for index, token in enumerate(frame.annotations.instance_tokens)}
        boxes = frame.annotations.boxes_global
        for channel, image in frame.images.items():
            cam_from_global = invert(image.global_from_ego @ frame.rig.ego_from_sensor[channel])
            camera = frame.rig.cameras[channel]
            corners = transform_points(cam_from_global, boxes.corners().reshape(-1, 3))
            pixels, depths = project(camera.intrinsics, corners)
            pixels, depths = pixels.reshape(-1, 8, 2), depths.reshape(-1, 8)
            for instance, row in annotations_of(dgp_root, frame, DGP_NAME[channel], "0").items():
                if instance in index_of and bool((depths[index_of[instance]] > 1.0).all()):
                    overlaps.append(overlap(pixels[index_of[instance]], row["box"], camera.width, camera.height))
            for instance, row in annotations_of(dgp_root, frame, DGP_NAME[channel], "1").items():
                index = index_of.get(instance)
                if index is not None and float(boxes.velocities[index].norm()) < 0.05:
                    pose = row["box"]["pose"]["translation"]
                    center = transform_points(cam_from_global, boxes.centers[index : index + 1])[0]
                    offsets.append(float((center - torch.tensor([pose[axis] for axis in "xyz"])).norm()))
    assert len(overlaps) > 150
    assert len(offsets) > 100
    assert float(np.median(overlaps)) > 0.94
    assert float(np.percentile(overlaps, 1)) > 0.8
    assert float(np.max(offsets)) < 1e-4


def overlap(corners: torch.Tensor, box: dict[str, float], width: int, height: int) -> float:
    """Intersection over union of the corners' hull, clipped to the picture, with a 2D box (x, y, w, h)."""
    (left, top), (right, bottom) = corners.min(dim=0).values.tolist(), corners.max(dim=0).values.tolist()
    left, right = (min(max(side, 0.0), width) for side in (left, right))
    top, bottom = (min(max(side, 0.0), height) for side in (top, bottom))
    across = max(0.0, min(right, box["x"] + box["w"]) - max(left, box["x"]))
    down = max(0.0, min(bottom, box["y"] + box["h"]) - max(top, box["y"]))
    union = (right - left) * (bottom - top) + box["w"] * box["h"] - across * down
    return across * down / union


def test_points_lie_in_the_boxes(frames: list[LogFrame]) -> None:
    """The test scene has one in five of the points that its counts are of; a box 2 m aside has hardly any."""
    inside, promised, beside = 0, 0, 0
    for frame in frames:
        assert frame.annotations is not None
        sweep = frame.lidar_sweeps["LIDAR_TOP"][0]
        global_from_lidar = sweep.global_from_ego @ frame.rig.ego_from_sensor["LIDAR_TOP"]
        points = transform_points(global_from_lidar, sweep.points[:, :3].double())
        boxes = frame.annotations.boxes_global
        counts = boxes.points_inside(points).sum(dim=1)
        large = frame.annotations.lidar_point_counts > 300
        ratios = counts[large] / frame.annotations.lidar_point_counts[large]
        assert bool(((ratios > 0.05) & (ratios < 0.25)).all())
        inside += int(counts[large].sum())
        promised += int(frame.annotations.lidar_point_counts[large].sum())
        moved = boxes[large]
        shift = torch.stack([-moved.yaws.sin(), moved.yaws.cos(), torch.zeros_like(moved.yaws)], dim=1) * 2.5
        aside = type(moved)(**{**vars(moved), "centers": moved.centers + shift})
        beside += int(aside.points_inside(points).sum())
    assert inside / promised == pytest.approx(0.2, abs=0.02)
    assert beside < inside / 3


def test_velocities_and_ego_motion_fit_the_traffic(frames: list[LogFrame]) -> None:
    """The vehicle drives along its own x axis; the car that follows it keeps its distance, so it drives as fast."""
    for frame in frames[3:]:
        velocity = frame.ego_states[-1].velocity
        assert 11 < float(velocity[0]) < 14
        assert float(velocity[1:].abs().max()) < 0.3
        assert frame.annotations is not None
        boxes = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego))
        behind = (boxes.centers[:, 0] < 0) & (boxes.centers[:, 0] > -40) & (boxes.centers[:, 1].abs() < 2)
        follower = boxes[behind]
        assert len(follower) == 1
        assert float(follower.velocities[0, 0]) == pytest.approx(float(velocity[0]), abs=3)
    assert float(frames[0].ego_states[-1].velocity.norm()) < 0.01


def test_samples_are_made_of_it(frames: list[LogFrame]) -> None:
    sample = make_sample(frames[4], SampleConfig(image_height=128, image_width=352))
    assert sample.camera_available.all()
    assert sample.lidar_available
    assert not sample.radar_available.any()
    assert sample.images.float().std() > 10
    assert sample.boxes is not None
    assert len(sample.boxes) == 9  # of 13, those that points have hit
    partial = make_sample(frames[0], SampleConfig(image_height=128, image_width=352))
    assert partial.camera_available.tolist() == [True, True, True, False, False, False]


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _of_scene(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda root: _edit(scene_json(root, "scene_01"), change)


def _of_calibration(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda root: _edit(next((root / "scene_01" / "calibration").iterdir()), change)


def _lidar(scene: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = scene["data"][0]["datum"]["point_cloud"]
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_of_scene(lambda scene: scene.pop("samples")), "the field samples is missing"),
        (_of_scene(lambda scene: scene.update(samples=[])), "one or more samples"),
        (_of_scene(lambda scene: scene["samples"][0].update(datum_keys=["nowhere"])), "datum_keys"),
        (_of_scene(lambda scene: scene["samples"][0].update(calibration_key="nowhere")), "nowhere.json"),
        (_of_scene(lambda scene: _lidar(scene)["pose"]["rotation"].update(qw=5.0)), "length 1"),
        (_of_scene(lambda scene: _lidar(scene)["pose"]["translation"].update(x=None)), "3 finite numbers"),
        (_of_scene(lambda scene: _lidar(scene).update(filename="../../outside.npz")), "does not leave"),
        (_of_scene(lambda scene: scene["data"][0]["id"].update(timestamp="yesterday")), "a date and time"),
        (_of_scene(lambda scene: scene["data"][0].update(datum=7)), "expected dict"),
        (_of_calibration(lambda calibration: calibration["names"].pop()), "of one length"),
        (_of_calibration(lambda calibration: calibration["intrinsics"][1].update(fx=0.0)), "focal"),
        (lambda root: scene_json(root, "scene_02").unlink(), "missing"),
        (lambda root: (root / "scene_dataset_v1.0.json").write_text("[]") and None, "an object"),
    ],
)
def test_contradictions_are_refused(change: Callable[[Path], None], words: str, dgp_root: Path, tmp_path: Path) -> None:
    root = copied(dgp_root, tmp_path)
    change(root)
    with pytest.raises(InputRefused, match=words):
        DgpReader(root, time_scale=TIME_SCALE)


def test_stamps_of_another_unit_are_refused(dgp_root: Path) -> None:
    with pytest.raises(InputRefused, match=r"2463-05-15.*time_scale=0.1"):
        DgpReader(dgp_root)


def test_broken_sensor_files_are_faults(dgp_root: Path, tmp_path: Path) -> None:
    root = copied(dgp_root, tmp_path)
    reader = DgpReader(root, time_scale=TIME_SCALE)
    first, second = reader.frame_tokens("scene_01")[:2]
    whole = reader.frame(second)
    cloud, picture = (root / "scene_01" / part for part in ("point_cloud/LIDAR", "rgb/CAMERA_01"))
    oldest = sorted(cloud.iterdir())[0]
    oldest.write_bytes(oldest.read_bytes()[:-100])
    newest = sorted(picture.iterdir())[1]
    newest.write_bytes(newest.read_bytes()[:-100])
    frame = reader.frame(second)
    told = [(fault.channel, fault.reason) for fault in frame.faults if fault.reason is not FaultReason.NOT_RECORDED]
    assert told == [("CAM_FRONT", FaultReason.TRUNCATED)]
    assert [fault.reason for fault in frame.impairments] == [FaultReason.TRUNCATED]
    assert len(frame.lidar_sweeps["LIDAR_TOP"]) == len(whole.lidar_sweeps["LIDAR_TOP"]) - 1
    assert ("LIDAR_TOP", FaultReason.TRUNCATED) in [(f.channel, f.reason) for f in reader.frame(first).faults]
    np.savez(oldest.with_suffix(""), data=np.array([object()]))
    assert ("LIDAR_TOP", FaultReason.TRUNCATED) in [(f.channel, f.reason) for f in reader.frame(first).faults]


def copied(dgp_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dgp_root, tmp_path / "dgp"))


def test_the_pose_of_the_vehicle_follows_from_any_sensor(frames: list[LogFrame], dgp_root: Path) -> None:
    """Ego poses from the LiDAR and from a camera differ by what the vehicle drives between the two, no more."""
    for frame in frames:
        lidar = datums(dgp_root, frame)["LIDAR"]["datum"]["point_cloud"]["pose"]
        expected = from_quaternion(list(lidar["rotation"].values()), list(lidar["translation"].values()))
        assert torch.allclose(frame.global_from_ego, expected, atol=1e-9)
        for image in frame.images.values():
            apart = (image.global_from_ego - frame.global_from_ego)[:3, 3].norm()
            assert float(apart) < 14.0 * abs(image.timestamp_us - frame.timestamp_us) * 1e-6 + 0.02
