"""Who moves in the synthetic world, and how: nobody collides, everybody drives as vehicles can."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import shapely
from shapely import STRtree
from shapely.geometry import Polygon

from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lidar.passing import Passage
from datasets.synthetic.rays import Surroundings
from datasets.synthetic.rig import MOUNTS
from datasets.synthetic.scenery.bodies import BOX_MARGIN, CATEGORY_OF_KIND, Kind, draw_body
from datasets.synthetic.scenery.car_parks import BAY_DEPTH, BAY_WIDTH, CarPark
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.paths import straight_line
from datasets.synthetic.scenery.roads import RoadLayout, plan_roads
from datasets.synthetic.traffic.following import HARDEST_BRAKING, Driver, follow
from datasets.synthetic.traffic.junction import plan_junction
from datasets.synthetic.traffic.routes import Lane, straight_on
from datasets.synthetic.traffic.users import EGO_CENTRE, EGO_HALF, RoadUser
from datasets.synthetic.world import MANOEUVRES, World, build_world, manoeuvre_of
from datasets.synthetic.writing.tables import CATEGORIES

pytestmark = pytest.mark.xdist_group("synthetic world")

CONFIG = WorldConfig(scenes=len(MANOEUVRES), keyframes=16, seed=4)
DRIVEN = ("car", "truck", "bus", "motorcycle", "trailer")


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """One world of each manoeuvre."""
    return {manoeuvre_of(CONFIG, index): build_world(CONFIG, index) for index in range(CONFIG.scenes)}


def _rectangles(poses: np.ndarray, sizes: np.ndarray, ahead: float = 0.0) -> np.ndarray:
    """Polygons of N rectangles from x, y, yaw and length, width; their middles lie `ahead` of the places."""
    forward = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    left = np.stack([-forward[:, 1], forward[:, 0]], axis=1)
    middle = poses[:, :2] + ahead * forward
    corners = [
        middle + i * forward * sizes[:, :1] / 2 + j * left * sizes[:, 1:] / 2
        for i, j in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    return shapely.polygons(np.stack(corners, axis=1))


def _ego_rectangles(world: World, times: np.ndarray) -> np.ndarray:
    size = np.array([[2 * EGO_HALF[0], 2 * EGO_HALF[1]]])
    return _rectangles(world.drive.track.sampled(times), np.repeat(size, len(times), axis=0), EGO_CENTRE)


def _movers(worlds: dict[str, World]) -> Iterator[RoadUser]:
    for world in worlds.values():
        yield from (user for user in world.users if user.track.moves)


def test_nobody_ever_overlaps_anybody(worlds: dict[str, World]) -> None:
    # Not the instants at which ground was claimed.
    times = np.arange(-0.45, CONFIG.duration + 0.45, 0.17)
    for manoeuvre, world in worlds.items():
        poses = np.stack([user.track.sampled(times) for user in world.users], axis=1)
        sizes = np.array([user.body.size_wlh[1::-1] for user in world.users])
        for k, ego in enumerate(_ego_rectangles(world, times)):
            shapes = np.append(_rectangles(poses[k], sizes), ego)
            one, other = STRtree(shapes).query(shapes, predicate="intersects")
            assert (
                shapely.area(shapely.intersection(shapes[one], shapes[other]))[one < other].max(initial=0.0) < 1e-3
            ), (
                manoeuvre,
                times[k],
            )


def test_ego_vehicle_stays_on_the_carriageway(worlds: dict[str, World]) -> None:
    drivable = (Material.ASPHALT, Material.MARKING_WHITE, Material.MARKING_YELLOW)
    for manoeuvre, world in worlds.items():
        rectangles = _ego_rectangles(world, np.arange(-0.5, CONFIG.duration + 0.5, 0.1))
        assert np.isin(world.plan.surface.at(shapely.get_coordinates(rectangles)), drivable).all(), manoeuvre


def test_ego_vehicle_does_what_the_manoeuvre_says(worlds: dict[str, World]) -> None:
    times = np.linspace(0.0, CONFIG.duration, 100)
    turned = {
        name: float(world.drive.track.poses[-1, 2] - world.drive.track.poses[0, 2]) for name, world in worlds.items()
    }
    assert abs(turned["straight"]) < 1e-6
    assert abs(turned["curve"]) > 0.15
    assert -1.75 < turned["turn right"] < -1.39
    assert 1.39 < turned["turn left"] < 1.75
    assert turned["u-turn"] == pytest.approx(np.pi, abs=1e-6)
    speeds = np.array([worlds["stop and go"].drive.speed(float(time)) for time in times])
    assert speeds[0] > 2.0
    assert speeds.min() == 0.0
    assert speeds[-1] > 1.0
    for world in worlds.values():
        assert f"{manoeuvre_name(world, worlds)}" in world.description.lower()


def manoeuvre_name(world: World, worlds: dict[str, World]) -> str:
    return next(name for name, other in worlds.items() if other is world)


def test_speeds_and_accelerations_are_those_of_road_traffic(worlds: dict[str, World]) -> None:
    tracks = [(user.track, user.body.kind) for user in _movers(worlds)]
    tracks += [(world.drive.track, "ego") for world in worlds.values()]
    for track, kind in tracks:
        velocities = np.gradient(track.poses[:, :2], track.times, axis=0)
        forward = np.stack([np.cos(track.poses[:, 2]), np.sin(track.poses[:, 2])], axis=1)
        speeds = (velocities * forward).sum(axis=1)
        assert speeds.min() > -1e-3, kind
        assert speeds.max() < 13.0, kind
        along = np.gradient(speeds, track.times)[2:-2]
        assert along.max() < 2.5, kind
        assert along.min() > -HARDEST_BRAKING - 0.1, kind
        aside = speeds * np.gradient(track.poses[:, 2], track.times)
        assert np.abs(aside).max() < 3.2, kind
        # Nobody drifts sideways: what moves moves where it looks.
        left = np.stack([-forward[:, 1], forward[:, 0]], axis=1)
        assert np.abs((velocities * left).sum(axis=1)).max() < 0.05 * max(1.0, speeds.max()), kind


def test_some_vehicles_turn_and_some_stop_and_start(worlds: dict[str, World]) -> None:
    turned, started, stopped = 0, 0, 0
    for user in _movers(worlds):
        if user.body.kind not in DRIVEN:
            continue
        poses, times = user.track.poses, user.track.times
        inside = (times >= 0.0) & (times <= CONFIG.duration)
        speeds = np.hypot(*np.gradient(poses[:, :2], times, axis=0).T)[inside]
        # No road bends that much.
        turned += bool(np.ptp(poses[:, 2]) > 1.0)
        standing = speeds < 0.05
        started += bool((standing[:-1] & ~standing[1:]).any() and speeds[-1] > 1.0)
        stopped += bool((~standing[:-1] & standing[1:]).any() and speeds[0] > 1.0)
        attributes = {user.attribute(float(time)) for time in times[inside][::10]}
        if standing.any() and speeds.max() > 1.0 and user.body.with_rider is None:
            assert attributes == {"vehicle.moving", "vehicle.stopped"}
    assert turned >= 3
    assert started >= 5
    assert stopped >= 2


def test_a_row_of_drivers_stops_at_a_red_light_and_starts_on_green() -> None:
    lane = Lane(0, straight_line(0.0, 0.0, 0.0), stop_line=100.0, clear=120.0, green=(25.0, np.inf))
    drivers = [Driver(straight_on(lane), -14.0 * i, 9.0, 10.0, 2.3, 2.3) for i in range(5)]
    times = np.arange(0.0, 40.0, 0.02)
    places, speeds = follow(drivers, times)
    gaps = places[:, :-1] - places[:, 1:] - 4.6
    assert gaps.min() > 1.5
    before = times < 25.0
    assert (places[before, 0] + 2.3).max() < 100.2
    assert (speeds[before][-1] == 0.0).all()
    assert places[before, 0][-1] + 2.3 > 98.0
    assert np.diff(places, axis=0).min() > -1e-9
    # They start one after the other, and all get away.
    starts = [times[(times > 25.0) & (speeds[:, i] > 0.2)][0] for i in range(5)]
    assert all(first < second for first, second in pairwise(starts))
    assert places[-1].min() > 100.0


def test_who_cannot_stop_any_more_drives_on() -> None:
    lane = Lane(0, straight_line(0.0, 0.0, 0.0), stop_line=50.0, clear=60.0, green=(-np.inf, 4.0))
    near, far = (Driver(straight_on(lane), start, 10.0, 10.0, 2.0, 2.0) for start in (4.0, -25.0))
    places, speeds = follow([near, far], np.arange(0.0, 20.0, 0.02))
    assert places[-1, 0] > 100.0
    assert speeds[:, 0].min() > 8.0
    assert places[-1, 1] < 48.1
    assert speeds[-1, 1] == 0.0


@pytest.mark.parametrize("manoeuvre", ["turn right", "turn left", "u-turn"])
@pytest.mark.parametrize("skew", [-0.12, 0.0, 0.12])
def test_turns_lead_smoothly_from_lane_to_lane(manoeuvre: str, skew: float) -> None:
    rng = np.random.default_rng(0)
    plan = plan_roads(RoadLayout(120.0, 0.4, skew, 0.0, 2, 3.0), rng)
    junction = plan_junction(plan, manoeuvre, 5.0, 10.0, rng)  # type: ignore[arg-type]
    route = junction.ego_route(manoeuvre)  # type: ignore[arg-type]
    target = next(lane for lanes in junction.lanes.values() for lane in lanes if lane.number == route.exit_lane)
    steps = np.arange(-80.0, 80.0, 0.05)
    poses = route.path.at(steps)
    moved = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1)
    assert np.allclose(moved, 0.05, atol=2e-3)
    headings = np.arctan2(*np.diff(poses[:, :2], axis=0).T[::-1])
    assert np.abs(np.angle(np.exp(1j * (headings - poses[:-1, 2])))).max() < 0.06
    # Tighter than a car can steer is nowhere.
    assert np.abs(np.diff(poses[:, 2])).max() / 0.05 < 1 / 3.8
    assert np.allclose(poses[steps < route.turn[0]], route.lane.path.at(steps[steps < route.turn[0]]), atol=1e-3)
    after = steps > route.turn[1]
    expected = target.path.at(steps[after] - route.exit_shift)
    assert np.allclose(poses[after, :2], expected[:, :2], atol=1e-2)
    assert np.allclose(np.exp(1j * poses[after, 2]), np.exp(1j * expected[:, 2]), atol=1e-6)


def test_lights_never_let_crossing_traffic_meet() -> None:
    plan = plan_roads(RoadLayout(120.0, 0.0), np.random.default_rng(0))
    for manoeuvre in MANOEUVRES:
        for seed in range(5):
            junction = plan_junction(plan, manoeuvre, 4.0, 10.0, np.random.default_rng(seed))
            for main in ("forward", "backward"):
                for cross in ("cross forward", "cross backward"):
                    one, other = junction.lanes[main][0].green, junction.lanes[cross][0].green  # type: ignore[index]
                    assert max(one[0], other[0]) >= min(one[1], other[1])


def test_bays_of_a_car_park_lie_inside_and_apart() -> None:
    for slant in (-0.35, 0.0, 0.35):
        for rows in (2, 3, 4):
            park = CarPark(10.0, -5.0, 0.7, 40.0, rows, slant)
            poses = np.array([bay for row in park.bays() for bay in row])
            bays = _rectangles(poses, np.tile([BAY_DEPTH - 0.4, BAY_WIDTH - 0.05], (len(poses), 1)))
            assert len(bays) > 10 * rows
            inside = Polygon(park.outline()).buffer(0.6)
            assert all(inside.contains(bay) for bay in bays)
            one, other = STRtree(bays).query(bays, predicate="intersects")
            assert shapely.area(shapely.intersection(bays[one], bays[other]))[one < other].max(initial=0.0) < 0.3


def test_most_parked_vehicles_stand_close_to_others(worlds: dict[str, World]) -> None:
    assert any(world.plan.car_parks for world in worlds.values())
    close, total = 0, 0
    for world in worlds.values():
        places = np.array([u.track.at(0.0)[:2] for u in world.users if u.parked and u.body.kind == "car"])
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 99.0 * np.eye(len(places))
        close += int((apart.min(axis=1) < 8.0).sum())
        total += len(places)
    assert total > 60
    assert close > 0.7 * total


def test_people_step_and_cyclists_pedal_within_their_box(worlds: dict[str, World]) -> None:
    stepping = [user for user in _movers(worlds) if len(user.body.postures) > 1]
    assert {user.body.kind for user in stepping} == {"pedestrian", "bicycle"}
    for user in stepping:
        width, length, height = user.body.size_wlh
        postures = {id(user.mesh_at(float(time))) for time in np.arange(0.0, CONFIG.duration, 0.1)}
        assert len(postures) > 4
        for mesh in user.body.postures:
            assert np.array_equal(mesh.triangles, user.body.mesh.triangles)
            assert np.array_equal(mesh.materials, user.body.mesh.materials)
            limit = np.array([length, width, 2 * height]) / 2 - BOX_MARGIN / 2
            assert (np.abs(mesh.vertices[:, :2]) <= limit[:2] + 0.02).all()
            assert mesh.vertices[:, 2].max() <= limit[2]


def test_same_seed_same_world() -> None:
    config = WorldConfig(scenes=1, keyframes=4, seed=11)
    one = build_world(config, 0)
    build_world.cache_clear()
    other = build_world(config, 0)
    assert one is not other
    assert len(one.users) == len(other.users)
    assert np.array_equal(one.background.vertices, other.background.vertices)
    for mine, theirs in zip(one.users, other.users, strict=True):
        assert np.array_equal(mine.track.poses, theirs.track.poses)
        assert np.array_equal(mine.body.mesh.vertices, theirs.body.mesh.vertices)
    assert np.array_equal(one.drive.track.poses, other.drive.track.poses)


def test_all_manoeuvres_come_in_turn() -> None:
    for seed in range(3):
        config = WorldConfig(scenes=10, seed=seed)
        for first in (0, len(MANOEUVRES)):
            assert {manoeuvre_of(config, first + i) for i in range(len(MANOEUVRES))} == set(MANOEUVRES)


# Mean and standard deviation of width, length, height (metres) over the 124 cars and 99 people annotated in nuScenes'
# mini_val and in the first keyframe of scene-0061.
@pytest.mark.parametrize(
    ("kind", "mean", "spread"),
    [
        ("car", (1.83, 4.52, 1.71), (0.148, 0.385, 0.197)),
        ("pedestrian", (0.674, 0.718, 1.745), (0.132, 0.200, 0.168)),
    ],
)
def test_sizes_are_those_of_nuscenes(
    kind: Kind, mean: tuple[float, float, float], spread: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([draw_body(kind, rng).size_wlh for _ in range(300)])
    assert np.abs(sizes.mean(axis=0) / np.array(mean) - 1.0).max() < 0.08
    assert np.abs(np.log(sizes.std(axis=0) / np.array(spread))).max() < np.log(1.5)


def test_categories_are_official_and_people_differ(worlds: dict[str, World]) -> None:
    found = {user.category for world in worlds.values() for user in world.users}
    assert found <= set(CATEGORIES)
    assert {"human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker"} <= found
    assert len(found & set(CATEGORY_OF_KIND.values())) == len(CATEGORY_OF_KIND)


def test_lidar_and_cameras_see_the_same_postures(worlds: dict[str, World]) -> None:
    world = worlds["stop and go"]
    surroundings = Surroundings(world)
    passage, met = Passage(surroundings), 0
    people = [user for user in surroundings.movers if len(user.body.postures) > 1]
    for time in (1.0, 1.31, 3.77):
        eye = world.drive.world_from_ego(time) @ MOUNTS["LIDAR_TOP"].ego_from_sensor
        places = np.array([(*user.track.at(time)[:2], user.track.z) for user in people])
        targets = (places[:, None] + np.linspace(0.1, 1.6, 12)[:, None] * np.array([0.0, 0.0, 1.0])).reshape(-1, 3)
        # Beside the middle of the body swing legs and arms.
        targets += np.random.default_rng(0).normal(0.0, 0.12, targets.shape) - eye[:3, 3]
        rays = np.empty((len(targets), 6), np.float32)
        rays[:, :3], rays[:, 3:] = eye[:3, 3], targets / np.linalg.norm(targets, axis=1, keepdims=True)
        frozen = surroundings.at(time).cast(rays)
        passing = passage.cast(rays, np.full(len(rays), 0.5), time - 0.025, time + 0.025)
        mine = np.isin(frozen.owners, [user.number for user in people])
        apart = np.abs(passing.distances[mine] - frozen.distances[mine])
        assert ((passing.owners == frozen.owners)[mine] & (apart < 5e-3)).mean() > 0.99
        met += int(mine.sum())
    assert met > 50
