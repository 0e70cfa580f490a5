"""The synthetic world: its files are true nuScenes, and its truth agrees with what its sensors measured."""

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.splits import create_splits_scenes, mini_train, mini_val
from shapely.geometry import Polygon

from calibration.cameras import project
from calibration.transforms import from_quaternion, invert, transform_points
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import InputRefused
from datasets.nuscenes.index.opening import FOLDER
from datasets.nuscenes.reader import NuScenesReader
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.pictures.cameras import pixel_directions
from datasets.synthetic.rays import Surroundings, rays_from
from datasets.synthetic.rig import MOUNTS, camera
from datasets.synthetic.scenery.bodies import BOX_MARGIN, CATEGORY_OF_KIND, draw_body
from datasets.synthetic.scenery.meshes import combined
from datasets.synthetic.schedule import scene_start_us, token
from datasets.synthetic.simulate import simulate
from datasets.synthetic.traffic.users import RoadUser
from datasets.synthetic.world import World, build_world
from tests.small_world import SMALL_WORLD

# The world takes long to make: one test process makes it for all that read it.
pytestmark = pytest.mark.xdist_group("synthetic world")


@pytest.fixture(scope="module")
def devkit(synthetic_root: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(synthetic_root), verbose=False)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [build_world(SMALL_WORLD, scene) for scene in range(SMALL_WORLD.scenes)]


def _user_of(annotation: dict, worlds: list[World]) -> tuple[RoadUser, int]:
    for scene, world in enumerate(worlds):
        for user in world.users:
            if annotation["instance_token"] == token(SMALL_WORLD, "instance", scene, user.number):
                return user, scene
    raise LookupError(annotation["instance_token"])


def _global_from_sensor(devkit: NuScenes, row: dict) -> torch.Tensor:
    pose = devkit.get("ego_pose", row["ego_pose_token"])
    mount = devkit.get("calibrated_sensor", row["calibrated_sensor_token"])
    return from_quaternion(pose["rotation"], pose["translation"]) @ from_quaternion(
        mount["rotation"], mount["translation"]
    )


def _boxes(annotations: list[dict]) -> Boxes3D:
    count = len(annotations)
    return Boxes3D(
        centers=torch.tensor([a["translation"] for a in annotations], dtype=torch.float64).reshape(-1, 3),
        sizes_wlh=torch.tensor([a["size"] for a in annotations], dtype=torch.float64).reshape(-1, 3),
        yaws=torch.tensor([2 * np.arctan2(a["rotation"][3], a["rotation"][0]) for a in annotations]).double(),
        velocities=torch.zeros(count, 2, dtype=torch.float64),
        labels=torch.zeros(count, dtype=torch.int64),
        scores=torch.ones(count, dtype=torch.float64),
        attributes=torch.full((count,), -1),
    )


def test_devkit_finds_every_file_and_every_sensor(devkit: NuScenes, synthetic_root: Path) -> None:
    assert [scene["name"] for scene in devkit.scene] == ["scene-0061", "scene-0103"]
    assert (len(devkit.category), len(devkit.attribute), len(devkit.visibility), len(devkit.sensor)) == (32, 8, 4, 12)
    for sample in devkit.sample:
        assert set(sample["data"]) == {*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS}
        assert len(sample["anns"]) > 10
    for row in devkit.sample_data:
        assert (synthetic_root / row["filename"]).stat().st_size > 0


def test_scene_names_are_official() -> None:
    assert WorldConfig(scenes=10).scene_names == (*mini_train, *mini_val)
    assert WorldConfig(scenes=5).scene_names == (*mini_train[:4], mini_val[0])
    large, splits = WorldConfig(scenes=20), create_splits_scenes()
    assert large.version == "v1.0-trainval"
    assert sum(name in splits["val"] for name in large.scene_names) == 4
    assert sum(name in splits["train"] for name in large.scene_names) == 16
    assert len(set(WorldConfig(scenes=850).scene_names)) == 850


def test_all_point_files_are_read_by_the_devkit(devkit: NuScenes, synthetic_root: Path) -> None:
    for row in devkit.sample_data:
        path = str(synthetic_root / row["filename"])
        if row["channel"] == LIDAR_CHANNEL:
            points = LidarPointCloud.from_file(path).points
            assert points.shape[1] == 32 * 1085
            assert np.linalg.norm(points[:3], axis=0).max() < 105.0
        elif row["channel"] in RADAR_CHANNELS:
            points = RadarPointCloud.from_file(path).points
            assert points.shape[0] == 18
            assert 1 <= points.shape[1] <= 125
            assert np.isfinite(points).all()


def test_chains_are_whole(devkit: NuScenes) -> None:
    for scene in devkit.scene:
        walked, current = [], scene["first_sample_token"]
        while current:
            walked.append(current)
            current = devkit.get("sample", current)["next"]
        assert walked[-1] == scene["last_sample_token"]
        assert len(walked) == scene["nbr_samples"] == SMALL_WORLD.keyframes
    for row in devkit.sample_data:
        if row["next"]:
            following = devkit.get("sample_data", row["next"])
            assert following["prev"] == row["token"]
            assert following["timestamp"] > row["timestamp"]
            assert following["calibrated_sensor_token"] == row["calibrated_sensor_token"]
    for instance in devkit.instance:
        current, count = instance["first_annotation_token"], 0
        while current:
            annotation = devkit.get("sample_annotation", current)
            assert annotation["instance_token"] == instance["token"]
            count, last, current = count + 1, current, annotation["next"]
        assert (count, last) == (instance["nbr_annotations"], instance["last_annotation_token"])


def test_keyframes_are_the_measurements_nearest_to_their_sample(devkit: NuScenes) -> None:
    rows_of = defaultdict(list)
    for row in devkit.sample_data:
        rows_of[row["calibrated_sensor_token"]].append(row)
    for sample in devkit.sample:
        for channel, data_token in sample["data"].items():
            key = devkit.get("sample_data", data_token)
            gaps = [abs(r["timestamp"] - sample["timestamp"]) for r in rows_of[key["calibrated_sensor_token"]]]
            assert abs(key["timestamp"] - sample["timestamp"]) == min(gaps) < 50_000, channel


def test_velocity_from_the_annotations_is_the_simulated_one(devkit: NuScenes, worlds: list[World]) -> None:
    compared = 0
    for annotation in devkit.sample_annotation:
        user, scene = _user_of(annotation, worlds)
        timestamp_us = devkit.get("sample", annotation["sample_token"])["timestamp"]
        time = (timestamp_us - scene_start_us(SMALL_WORLD, scene)) * 1e-6
        around = np.array([user.track.velocity(t) for t in np.linspace(time - 0.5, time + 0.5, 11)])
        found = devkit.box_velocity(annotation["token"])[:2]
        if np.ptp(around, axis=0).max() < 0.05 and np.isfinite(found).all():
            assert np.abs(found - user.track.velocity(time)).max() < 0.1
            compared += bool(np.hypot(*found) > 1.0)
    assert compared > 10


def test_attributes_follow_from_motion(devkit: NuScenes, worlds: list[World]) -> None:
    seen = set()
    for annotation in devkit.sample_annotation:
        names = [devkit.get("attribute", t)["name"] for t in annotation["attribute_tokens"]]
        user, scene = _user_of(annotation, worlds)
        time = (
            devkit.get("sample", annotation["sample_token"])["timestamp"] - scene_start_us(SMALL_WORLD, scene)
        ) * 1e-6
        moving = np.hypot(*user.track.velocity(time)) > 0.2
        seen.update(names)
        if user.body.kind in ("barrier", "traffic_cone"):
            assert names == []
            continue
        assert len(names) == 1
        if names[0] in ("vehicle.moving", "pedestrian.moving"):
            assert moving
        elif names[0] != "cycle.with_rider":
            assert not moving
    assert {"vehicle.moving", "vehicle.parked", "pedestrian.moving", "cycle.without_rider"} <= seen


def test_points_inside_boxes_are_the_counted_ones(devkit: NuScenes, synthetic_root: Path) -> None:
    total = 0
    for sample in devkit.sample:
        annotations = [devkit.get("sample_annotation", t) for t in sample["anns"]]
        boxes, clouds = _boxes(annotations), {}
        for channel in (LIDAR_CHANNEL, *RADAR_CHANNELS):
            row = devkit.get("sample_data", sample["data"][channel])
            path = synthetic_root / row["filename"]
            if channel == LIDAR_CHANNEL:
                points = torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 5)[:, :3])
            else:
                # All of them: the devkit would leave out what its filters dislike.
                RadarPointCloud.disable_filters()
                points = torch.from_numpy(RadarPointCloud.from_file(str(path)).points[:3].T.copy())
                RadarPointCloud.default_filters()
            clouds[channel] = transform_points(_global_from_sensor(devkit, row), points.double())
        lidar = boxes.points_inside(clouds[LIDAR_CHANNEL]).sum(dim=1)
        radar = boxes.points_inside(torch.cat([clouds[channel] for channel in RADAR_CHANNELS])).sum(dim=1)
        assert lidar.tolist() == [a["num_lidar_pts"] for a in annotations]
        assert radar.tolist() == [a["num_radar_pts"] for a in annotations]
        total += int(lidar.sum())
    assert total > 1000


def test_every_pixel_of_an_object_lies_in_its_projected_box(worlds: list[World]) -> None:
    compared = 0
    for world in worlds:
        instant = Surroundings(world).at(0.0)
        for channel in CAMERA_CHANNELS:
            eye = camera(channel, 320)
            world_from_cam = world.drive.world_from_ego(0.0) @ MOUNTS[channel].ego_from_sensor
            owners = instant.cast(rays_from(world_from_cam, pixel_directions(eye))).owners.reshape(
                eye.height, eye.width
            )
            for user in (world.users[number] for number in np.unique(owners[owners >= 0])):
                x, y, yaw = user.track.at(0.0)
                middle = (x, y, user.track.z + user.body.size_wlh[2] / 2)
                rotation = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
                corners = _boxes([{"translation": middle, "size": user.body.size_wlh, "rotation": rotation}]).corners()[
                    0
                ]
                in_cam = transform_points(invert(torch.from_numpy(world_from_cam)), corners)
                pixels, depth = project(eye.intrinsics, in_cam)
                if depth.min() < 0.5:
                    continue
                v, u = (owners == user.number).nonzero()
                low, high = pixels.min(dim=0).values, pixels.max(dim=0).values
                assert low[0] - 0.5 <= u.min() <= u.max() <= high[0] + 0.5
                assert low[1] - 0.5 <= v.min() <= v.max() <= high[1] + 0.5
                # A large object in full view also fills its box.
                inside = low[0] > 0 and low[1] > 0 and high[0] < eye.width - 1 and high[1] < eye.height - 1
                if inside and len(u) > 0.5 * float((high - low).prod()) and high[1] - low[1] > 20:
                    assert v.max() - v.min() > 0.8 * (high[1] - low[1]) - 2
                    compared += 1
    assert compared > 3


def test_no_two_boxes_overlap(devkit: NuScenes) -> None:
    for sample in devkit.sample:
        boxes = _boxes([devkit.get("sample_annotation", t) for t in sample["anns"]])
        footprints = [Polygon(corners[[2, 3, 7, 6], :2].numpy()) for corners in boxes.corners()]
        for i, one in enumerate(footprints):
            assert all(one.intersection(other).area < 1e-3 for other in footprints[:i])


def test_ego_vehicle_stays_on_the_drivable_map(devkit: NuScenes) -> None:
    for scene in devkit.scene:
        record = devkit.get("map", devkit.get("log", scene["log_token"])["map_token"])
        sample = devkit.get("sample", scene["first_sample_token"])
        pose = devkit.get("ego_pose", sample["data"][LIDAR_CHANNEL])
        x, y, _ = pose["translation"]
        assert record["mask"].is_on_mask([x], [y])[0]
        assert not record["mask"].is_on_mask([x + 500.0], [y])[0]


def test_our_reader_gets_every_sensor(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root, "v1.0-mini")
    for split in ("mini_train", "mini_val"):
        tokens = reader.frame_tokens(split)
        assert len(tokens) == SMALL_WORLD.keyframes
        frame = reader.frame(tokens[-1])
        assert frame.faults == ()
        assert set(frame.images) == set(CAMERA_CHANNELS)
        assert len(frame.lidar_sweeps[LIDAR_CHANNEL]) == 10
        assert all(len(frame.radar_sweeps[channel]) > 1 for channel in RADAR_CHANNELS)
        assert frame.annotations is not None
        assert len(frame.annotations.boxes_global) > 10
        assert frame.ego_states[-1].gps is not None


def test_same_bytes_from_two_processes(synthetic_root: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SMALL_WORLD, jobs=2)
    # Other tests have read the dataset: what that leaves beside the tables is not of the writing.
    there = (path for path in synthetic_root.rglob("*") if path.parent.name != FOLDER)
    files = {path.relative_to(synthetic_root) for path in there if path.is_file()}
    assert files == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    for path in files:
        assert (synthetic_root / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


def test_another_seed_is_another_world() -> None:
    one, other = (build_world(WorldConfig(scenes=1, keyframes=1, seed=seed), 0) for seed in (1, 2))
    assert [u.body.size_wlh for u in one.users[:5]] != [u.body.size_wlh for u in other.users[:5]]


def test_what_is_in_use_or_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputRefused, match="not an empty folder"):
        simulate(tmp_path, WorldConfig(scenes=1))
    with pytest.raises(InputRefused, match="not an empty folder"):
        simulate(tmp_path / "mine", WorldConfig(scenes=1))
    assert (tmp_path / "mine").read_text() == "keep"
    for wrong in (
        {"scenes": 0},
        {"scenes": 851},
        {"keyframes": 0},
        {"keyframes": 81},
        {"image_width": 100},
        {"seed": -1},
        {"image_width": 16000},
    ):
        with pytest.raises(InputRefused):
            WorldConfig(**wrong)
    with pytest.raises(InputRefused, match="jobs"):
        simulate(tmp_path / "new", WorldConfig(scenes=1), jobs=0)


@pytest.mark.parametrize("kind", list(CATEGORY_OF_KIND))
def test_meshes_fill_their_boxes(kind: str) -> None:
    for seed in range(5):
        body = draw_body(kind, np.random.default_rng(seed), ("resting", "ridden", "walking")[seed % 3])  # type: ignore[arg-type]
        width, length, height = body.size_wlh
        low, high = body.mesh.vertices.min(axis=0), body.mesh.vertices.max(axis=0)
        assert np.allclose(high, [length / 2 - BOX_MARGIN, width / 2 - BOX_MARGIN, height - BOX_MARGIN], atol=2e-3)
        assert np.allclose(low, [BOX_MARGIN - length / 2, BOX_MARGIN - width / 2, 0.0], atol=2e-3)
        assert body.mesh.triangles.max() < len(body.mesh.vertices)


def test_rays_into_a_world_with_nothing_moving_and_no_mesh_at_all() -> None:
    world = build_world(WorldConfig(scenes=1, keyframes=1, seed=3), 0)
    still = World(world.plan, (), combined([]), world.drive, world.conditions, world.description)
    hits = Surroundings(still).at(0.0).cast(np.array([[0, 0, 1, 1, 0, 0]], np.float32))
    assert np.isinf(hits.distances).all()
    assert hits.materials.tolist() == [-1]


def test_vehicles_look_where_they_drive(worlds: list[World]) -> None:
    driving = 0
    for user in (user for world in worlds for user in world.users):
        (vx, vy), yaw = user.track.velocity(0.5), user.track.at(0.5)[2]
        if np.hypot(vx, vy) > 0.5:
            assert np.cos(np.arctan2(vy, vx) - yaw) > 0.99
            driving += 1
    assert driving > 10


def test_camera_sweeps_lie_between_the_keyframes(tmp_path: Path) -> None:
    simulate(tmp_path / "world", WorldConfig(scenes=1, keyframes=2, image_width=16, camera_sweeps=True))
    devkit = NuScenes("v1.0-mini", str(tmp_path / "world"), verbose=False)
    pictures = [row for row in devkit.sample_data if row["channel"] == "CAM_FRONT"]
    assert [row["is_key_frame"] for row in pictures] == [True, *[False] * 5, True]
    assert all(cv2.imread(str(tmp_path / "world" / row["filename"])).shape == (9, 16, 3) for row in pictures)


def test_large_sets_are_trainval_and_the_devkit_loads_them(tmp_path: Path) -> None:
    config = WorldConfig(scenes=11, keyframes=1, image_width=16)
    simulate(tmp_path / "world", config, jobs=1)
    devkit = NuScenes("v1.0-trainval", str(tmp_path / "world"), verbose=False)
    splits = create_splits_scenes()
    names = [scene["name"] for scene in devkit.scene]
    assert (sum(name in splits["train"] for name in names), sum(name in splits["val"] for name in names)) == (9, 2)
    assert len(devkit.lidarseg) == 11
    described = [scene["description"].lower() for scene in devkit.scene]
    for condition, count in (("night", 1), ("rain", 2), ("dusk", 1), ("fog", 1)):
        assert sum(condition in text for text in described) == count


def test_the_ground_reaches_as_far_as_sensors_see_from_the_edge_of_the_map() -> None:
    world = build_world(WorldConfig(scenes=1, keyframes=60, seed=0, conditions="day"), 0)
    edge, instant = world.plan.surface.half_size, Surroundings(world).at(0.0)
    downwards = np.array([[x, y, 30.0, 0.0, 0.0, -1.0] for x in (-1, 1) for y in (-1, 1)], np.float32)
    downwards[:, :2] *= edge + 290.0
    assert np.allclose(instant.cast(downwards).distances, 30.0, atol=1e-3)
