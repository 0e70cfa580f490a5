"""The synthetic LiDAR: a sweep that turns while everybody drives, its returns, its labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.color_map import get_colormap
from nuscenes.utils.data_io import load_bin_file
from nuscenes.utils.geometry_utils import points_in_box

from datasets.classes import LIDAR_CHANNEL
from datasets.synthetic.conditions import ConditionName, draw_conditions
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lidar import sweep as lidar
from datasets.synthetic.lidar.droplets import drop_returns, extinction_at_905nm, wet_ground
from datasets.synthetic.lidar.lidarseg import CATEGORIES, labels_of
from datasets.synthetic.lidar.passing import Passage
from datasets.synthetic.rays import BACKGROUND, Surroundings
from datasets.synthetic.rig import CAMERA_LEAD, MOUNTS
from datasets.synthetic.scenery.bodies import Kind, draw_body
from datasets.synthetic.scenery.meshes import combined
from datasets.synthetic.traffic.motion import Track, clock
from datasets.synthetic.traffic.users import RoadUser
from datasets.synthetic.world import World, build_world
from tests.small_world import SMALL_WORLD

# The world takes long to make: one test process makes it for all that read it.
pytestmark = pytest.mark.xdist_group("synthetic world")


@pytest.fixture(scope="module")
def devkit(synthetic_root: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(synthetic_root), verbose=False)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SMALL_WORLD, 0)


_MOUNT = MOUNTS[LIDAR_CHANNEL].ego_from_sensor


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _under(world: World, name: ConditionName) -> World:
    return replace(world, conditions=draw_conditions(name, _rng()))


def _passing(world: World) -> World:
    """The same street with a car at 12 m/s, a turning bus and a pedestrian close to the ego vehicle, nobody else."""
    times = clock(1.0)
    x, y, yaw = world.drive.track.at(0.5)
    users = []
    kinds: tuple[tuple[Kind, float, float, float, float], ...] = (
        ("car", 9.0, 4.0, 12.0, 0.0),
        ("bus", -14.0, -5.0, -7.0, 0.6),
        ("pedestrian", 5.0, -3.0, 1.5, 0.0),
    )
    for number, (kind, ahead, left, speed, turning) in enumerate(kinds):
        heading = yaw + 0.3 * number + turning * (times - 0.5)
        gone = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * speed / 50.0, axis=0)
        start = np.array([x + ahead * np.cos(yaw) - left * np.sin(yaw), y + ahead * np.sin(yaw) + left * np.cos(yaw)])
        poses = np.column_stack([start + gone - gone[len(gone) // 2], heading])
        users.append(RoadUser(number, draw_body(kind, _rng()), Track(times, poses, 0.0), parked=False))
    return replace(world, users=tuple(users))


def test_each_ray_meets_the_others_where_they_are_at_its_instant(world: World) -> None:
    """Against moving everybody, and sorting all triangles anew, for every sixth column of the sweep."""
    surroundings, time = Surroundings(_passing(world)), 0.52
    start = time - lidar.DURATION
    moments = np.linspace(0.0, 1.0, lidar.COLUMNS)[::6]
    directions = lidar.beam_directions().reshape(lidar.COLUMNS, 32, 3)[::6]
    mount = MOUNTS[LIDAR_CHANNEL].ego_from_sensor
    rays = np.empty((len(moments), 32, 6), np.float32)
    expected, owners = np.empty((2, len(moments), 32))
    for column, moment in enumerate(moments):
        at = start + moment * lidar.DURATION
        world_from_lidar = world.drive.world_from_ego(at) @ mount
        rays[column, :, :3] = world_from_lidar[:3, 3]
        rays[column, :, 3:] = directions[column] @ world_from_lidar[:3, :3].T
        hits = surroundings.at(at).cast(rays[column])
        expected[column], owners[column] = hits.distances, hits.owners
    flat = rays.reshape(-1, 6)
    found = Passage(surroundings).cast(flat, np.repeat(moments, 32), start, time)
    frozen = surroundings.at(time).cast(flat)
    moving = owners.ravel() >= 0
    assert min((owners == number).sum() for number in range(3)) > 20
    assert (found.owners == owners.ravel()).mean() > 0.9999
    both = moving & (found.owners == owners.ravel())
    errors = np.abs(found.distances[both] - expected.ravel()[both])
    assert np.quantile(errors, 0.99) < 0.005
    # A world that stands still during the sweep is another one.
    assert (np.abs(frozen.distances[moving] - expected.ravel()[moving]) > 0.03).mean() > 0.5
    alike = np.abs(np.einsum("ij,ij->i", found.normals, flat[:, 3:]))[both]
    assert alike.min() > 0.0
    assert np.allclose(np.linalg.norm(found.normals[both], axis=1), 1.0, atol=1e-4)


def test_no_rays_and_nobody_to_meet(world: World) -> None:
    crowd = _passing(world)
    none = Passage(Surroundings(crowd)).cast(np.zeros((0, 6), np.float32), np.zeros(0), 0.0, 0.05)
    assert len(none.distances) == len(none.owners) == 0
    empty = replace(world, users=(), background=combined([]))
    up = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]], np.float32)
    alone = Passage(Surroundings(empty)).cast(up, np.zeros(1), 0.0, 0.05)
    assert np.isinf(alone.distances).all()
    assert alone.owners.tolist() == [BACKGROUND]
    # Straight down onto the middle of the car, where it is at that moment; 1 m beside its box there is nothing.
    car = crowd.users[0]
    for moment in (0.0, 0.5, 1.0):
        x, y, _ = np.array(car.track.at(0.3)) + moment * np.subtract(car.track.at(0.35), car.track.at(0.3))
        left = car.body.size_wlh[0] / 2 + 1.0
        yaw = car.track.at(0.3)[2]
        down = np.array([[x, y, 9.0, 0.0, 0.0, -1.0], [x - left * np.sin(yaw), y + left * np.cos(yaw), 9, 0, 0, -1]])
        met = Passage(Surroundings(crowd)).cast(down.astype(np.float32), np.full(2, moment), 0.3, 0.35)
        assert met.owners.tolist() == [0, BACKGROUND]
        assert 9.0 - car.body.size_wlh[2] < met.distances[0] < 8.5


def test_points_lie_where_the_ego_motion_puts_them(world: World) -> None:
    """Beams that nothing answered show the compensation alone; the road, compensated, is level."""
    time, mount = 0.4, MOUNTS[LIDAR_CHANNEL].ego_from_sensor
    sweep = lidar.sweep(world, Passage(Surroundings(world)), _MOUNT, time, _rng())
    world_from_lidar = world.drive.world_from_ego(time) @ mount
    columns = sweep.points.reshape(lidar.COLUMNS, 32, 5)
    unanswered = np.linalg.norm(columns[..., :3], axis=2) < 0.02 + world.drive.speed(time) * lidar.DURATION
    unanswered[:, :20] = False
    seen = 0
    for column in unanswered.any(axis=1).nonzero()[0]:
        then = world.drive.world_from_ego(time - (lidar.COLUMNS - 1 - column) * 46.08e-6) @ mount
        expected = (np.linalg.inv(world_from_lidar) @ then)[:3, 3]
        found = columns[column][unanswered[column], :3]
        assert np.abs(found - expected).max() < 2e-3
        seen += len(found)
    assert seen > 1000
    road = labels_of(world, sweep) == CATEGORIES.index("flat.driveable_surface")
    heights = sweep.points[road, :3] @ world_from_lidar[2, :3] + world_from_lidar[2, 3]
    assert np.abs(heights).max() < 0.04


def test_the_head_turns_clockwise_and_the_cameras_follow_it() -> None:
    """The beam passes each camera's middle 2 ms before the camera's recorded time, as in real nuScenes."""
    azimuths = np.unwrap(np.arctan2(*lidar.beam_directions().reshape(lidar.COLUMNS, 32, 3)[:, 0, 1::-1].T))
    assert (np.diff(azimuths) < 0).all()
    assert np.isclose(azimuths[0] - azimuths[-1], 2 * np.pi * (1 - 1 / lidar.COLUMNS))
    ego_from_lidar = MOUNTS[LIDAR_CHANNEL].ego_from_sensor[:3, :3]
    delays = []
    for channel, lead in CAMERA_LEAD.items():
        looks = MOUNTS[channel].ego_from_sensor[:2, 2]
        beam = ego_from_lidar @ np.array([np.cos(np.pi + lead * 40 * np.pi), np.sin(np.pi + lead * 40 * np.pi), 0.0])
        late = np.arctan2(looks[1], looks[0]) - np.arctan2(beam[1], beam[0])
        delays.append(((late + np.pi) % (2 * np.pi) - np.pi) / (40 * np.pi))
    assert np.abs(np.array(delays) - 0.0020).max() < 0.0003


def test_one_road_user_less_changes_only_the_beams_that_met_it(world: World) -> None:
    crowd = _under(_passing(world), "rain")
    fewer = replace(crowd, users=crowd.users[:2])
    with_all, without = (lidar.sweep(w, Passage(Surroundings(w)), _MOUNT, 0.5, _rng()) for w in (crowd, fewer))
    changed = (with_all.points != without.points).any(axis=1)
    assert 10 < changed.sum() <= (with_all.owners == 2).sum() + (without.owners == lidar.DROPLETS).sum()
    assert (with_all.owners[~changed] == without.owners[~changed]).all()
    again = lidar.sweep(crowd, Passage(Surroundings(crowd)), _MOUNT, 0.5, _rng())
    assert again.points.tobytes() == with_all.points.tobytes()


def test_rain_and_fog_take_returns_and_add_some_of_their_own(world: World) -> None:
    counts, noise, road = {}, {}, {}
    for name in ("day", "rain", "fog"):
        weather = _under(world, name)
        sweep = lidar.sweep(weather, Passage(Surroundings(weather)), _MOUNT, 0.2, _rng())
        labels, ranges = labels_of(weather, sweep), np.linalg.norm(sweep.points[:, :3], axis=1)
        noise[name] = labels == CATEGORIES.index("noise")
        counts[name] = ((ranges > 10.0) & ~noise[name]).sum()
        road[name] = np.median(sweep.points[labels == CATEGORIES.index("flat.driveable_surface"), 3])
        if name != "day":
            assert ranges[noise[name]].max() < 30.0
    assert counts["rain"] < 0.95 * counts["day"]
    assert counts["fog"] < 0.9 * counts["day"]
    assert noise["day"].sum() == 0
    assert 0.002 < noise["rain"].mean() < 0.06
    assert 0.002 < noise["fog"].mean() < 0.2
    assert road["rain"] < 0.7 * road["day"]


def test_thicker_weather_sends_more_back_and_lets_less_through() -> None:
    fog = draw_conditions("fog", _rng())
    thin, thick = replace(fog, visibility=180.0), replace(fog, visibility=70.0)
    assert extinction_at_905nm(thick) == pytest.approx(3.0 / 70.0)
    seen = [np.isfinite(drop_returns(c, 20_000, _rng()).distances).mean() for c in (thin, thick)]
    assert 0.0 < seen[0] < 0.5 * seen[1]
    # In haze light of 905 nm goes further than what we see; rain makes no difference between them.
    day, rain = draw_conditions("day", _rng()), draw_conditions("rain", _rng())
    assert 0.4 < extinction_at_905nm(day) / day.extinction < 0.6
    assert extinction_at_905nm(rain) == pytest.approx(rain.extinction)
    drizzle, shower = (drop_returns(replace(rain, rain_rate=rate), 50_000, _rng()) for rate in (2.0, 25.0))
    assert np.isfinite(drizzle.distances).sum() < 0.5 * np.isfinite(shower.distances).sum()
    assert shower.intensities[np.isfinite(shower.distances)].min() >= 1.0
    assert np.isinf(drop_returns(day, 100, _rng()).distances).all()
    wet = wet_ground(np.array([0.05, 0.2, 1.0], np.float32))
    assert (np.diff(wet) > 0).all()
    assert wet[2] == pytest.approx(0.48, abs=0.01)


def test_categories_are_those_of_lidarseg_with_the_colours_of_the_devkit(devkit: NuScenes) -> None:
    assert tuple(get_colormap()) == CATEGORIES
    assert [devkit.lidarseg_idx2name_mapping[i] for i in range(32)] == list(CATEGORIES)
    assert list(devkit.colormap) == list(CATEGORIES)


def test_devkit_counts_and_draws_the_labels(
    devkit: NuScenes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = devkit.sample[0]
    devkit.get_sample_lidarseg_stats(sample["token"], sort_by="count")
    devkit.list_lidarseg_categories(sort_by="index")
    printed = capsys.readouterr().out
    assert "flat.driveable_surface" in printed
    assert "vehicle.car" in printed
    data = sample["data"][LIDAR_CHANNEL]
    devkit.render_sample_data(data, show_lidarseg=True, out_path=str(tmp_path / "top.png"), verbose=False)
    devkit.render_pointcloud_in_image(
        sample["token"], show_lidarseg=True, out_path=str(tmp_path / "front.png"), verbose=False
    )
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("top.png", "front.png"))


def test_every_point_of_a_keyframe_has_a_label(devkit: NuScenes, synthetic_root: Path) -> None:
    keyframes = [r for r in devkit.sample_data if r["channel"] == LIDAR_CHANNEL and r["is_key_frame"]]
    assert {row["token"] for row in keyframes} == {row["sample_data_token"] for row in devkit.lidarseg}
    for row in keyframes:
        labels = load_bin_file(str(synthetic_root / devkit.get("lidarseg", row["token"])["filename"]))
        points = np.fromfile(synthetic_root / row["filename"], np.float32).reshape(-1, 5)
        assert len(labels) == len(points) == lidar.COLUMNS * 32
        assert (points[:, 4] == np.tile(np.arange(32), lidar.COLUMNS)).all()
        ego = labels == CATEGORIES.index("vehicle.ego")
        assert np.linalg.norm(points[ego, :3], axis=1).max() < 2.6
        assert (np.linalg.norm(points[~ego, :3], axis=1) > 0.3).all()


def test_labels_agree_with_the_boxes(devkit: NuScenes, synthetic_root: Path) -> None:
    """What is labelled as a car lies in a car's box, and in its box are only the car and the ground under it."""
    of_cars, in_boxes, inside, right = 0, 0, 0, 0
    car = CATEGORIES.index("vehicle.car")
    ground = [i for i, name in enumerate(CATEGORIES) if name.startswith("flat.")]
    for sample in devkit.sample:
        data = sample["data"][LIDAR_CHANNEL]
        path, boxes, _ = devkit.get_sample_data(data)
        points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3].T
        labels = load_bin_file(str(synthetic_root / devkit.get("lidarseg", data)["filename"]))
        labelled, near_moving, boxed = labels == car, np.zeros(len(labels), bool), np.zeros(len(labels), bool)
        for box in boxes:
            if box.name != "vehicle.car":
                continue
            speed = np.linalg.norm(devkit.box_velocity(box.token)[:2])
            if not speed < 1.0:
                # During the sweep it left the place where its first points lie.
                near_moving |= np.linalg.norm(points - box.center[:, None], axis=0) < box.wlh[1] / 2 + 1.0
                continue
            exact = points_in_box(box, points)
            inside, right = inside + exact.sum(), right + np.isin(labels[exact], [car, *ground]).sum()
            boxed |= points_in_box(box, points, wlh_factor=1.02)
        still = labelled & ~near_moving & (np.linalg.norm(points, axis=0) < 70.0)
        of_cars, in_boxes = of_cars + still.sum(), in_boxes + (still & boxed).sum()
    assert of_cars > 1000
    assert in_boxes > 0.99 * of_cars
    assert inside > 1000
    assert right > 0.995 * inside


def _real_sweeps(real_data: Path) -> list[np.ndarray]:
    files = sorted(real_data.glob("nuscenes-*/s*/LIDAR_TOP/*.bin"))
    return [np.fromfile(path, np.float32).reshape(-1, 5) for path in files]


@pytest.mark.real_data
def test_sweeps_have_the_statistics_of_real_ones(real_data: Path) -> None:
    """Within a factor 1.5, and the beams that look at the road and the own roof within 1.25."""
    ours = [
        lidar.sweep(world, Passage(Surroundings(world)), _MOUNT, 1.0, _rng())
        for world in (build_world(WorldConfig(scenes=4, keyframes=4, conditions="day"), scene) for scene in range(2))
    ]

    def statistics(sweeps: list[np.ndarray]) -> list[np.ndarray]:
        total, far, by_ring, values = [], [], [], []
        for points in sweeps:
            ranges = np.linalg.norm(points[:, :3], axis=1)
            beyond = ranges > 2.5
            total.append(len(points))
            far.append(beyond.sum())
            by_ring.append(np.bincount(points[beyond, 4].astype(int), minlength=32))
            values.append(
                [*np.quantile(points[beyond, 3], (0.05, 0.5, 0.95)), *np.quantile(ranges[beyond], (0.1, 0.5))]
            )
        return [np.mean(found, axis=0) for found in (total, far, by_ring, values)]

    found, expected = statistics([sweep.points for sweep in ours]), statistics(_real_sweeps(real_data))
    ratios = [np.asarray(a / b) for a, b in zip(found, expected, strict=True)]
    assert abs(ratios[0] - 1) < 0.01
    assert 1 / 1.5 < ratios[1] < 1.5
    assert (np.abs(np.log(ratios[2][:20])) < np.log(1.25)).all()
    assert (np.abs(np.log(ratios[3])) < np.log(1.5)).all()


@pytest.mark.real_data
def test_real_sweeps_are_compensated_for_the_ego_motion(real_data: Path) -> None:
    """What this simulator does with beams that nothing answered is what the real files hold."""
    folder = real_data / "nuscenes-minival"
    path = next((folder / "sweeps" / "LIDAR_TOP").glob("*.bin"))
    columns = np.fromfile(path, np.float32).reshape(-1, 32, 5)
    assert (columns[..., 4] == np.arange(32)).all()
    offsets = columns[:, 31, :3]
    unanswered = np.abs(offsets[:, 0]) < 3e-3
    place = -offsets[unanswered, 1]
    times = (len(columns) - 1 - unanswered.nonzero()[0]) * 46.08e-6
    speed = float((times @ place) / (times @ times))
    assert np.abs(place - speed * times).max() < 2e-3
    assert unanswered.sum() > 500
    rows, poses = (json.loads((folder / "v1.0-mini" / f"{n}.json").read_text()) for n in ("sample_data", "ego_pose"))
    poses = {row["token"]: row for row in poses}
    stamp = int(path.name.split("__")[-1].split(".")[0])
    sweeps = [row for row in rows if "LIDAR_TOP" in row["filename"] and row["timestamp"] <= stamp]
    now, before = sorted(sweeps, key=lambda row: row["timestamp"])[:-3:-1]
    gone = np.subtract(poses[now["ego_pose_token"]]["translation"], poses[before["ego_pose_token"]]["translation"])
    assert speed == pytest.approx(np.linalg.norm(gone) / (now["timestamp"] - before["timestamp"]) * 1e6, rel=0.03)
