"""Pictures of the synthetic world: which surface each pixel shows, how it is lit, what the camera makes of it."""

import numpy as np
import pytest

from datasets.synthetic.conditions import ConditionName, draw_conditions
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.pictures.cameras import pixel_directions, render
from datasets.synthetic.pictures.lamps import NO_LAMPS, lamp_places, lamps_at
from datasets.synthetic.pictures.lens import photograph
from datasets.synthetic.pictures.light import Light, light_of
from datasets.synthetic.pictures.noise import cell_noise, smooth_noise
from datasets.synthetic.pictures.pixel_hits import StillParts, View, in_view, open_to, pixel_hits
from datasets.synthetic.pictures.shading import Stage, shade
from datasets.synthetic.pictures.surface import looks
from datasets.synthetic.rays import Instant, Surroundings
from datasets.synthetic.rig import MOUNTS, camera
from datasets.synthetic.scenery.furniture import lamp_post
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import box, combined
from datasets.synthetic.world import World, build_world

_WIDTH = 400


def _world(condition: ConditionName, index: int = 0) -> World:
    return build_world(WorldConfig(scenes=2, keyframes=4, seed=5, conditions=condition), index)


def _view(world: World, channel: str, time: float, width: int = _WIDTH) -> View:
    eye = camera(channel, width)
    pose = world.drive.world_from_ego(time) @ MOUNTS[channel].ego_from_sensor
    return View(eye, pose, pixel_directions(eye))


def _picture(condition: ConditionName, channel: str = "CAM_FRONT", width: int = 208) -> np.ndarray:
    world = _world(condition)
    surroundings, view = Surroundings(world), _view(world, channel, 1.0, width)
    instant = surroundings.at(1.0, in_view(view, surroundings.movers, 1.0, 30.0))
    return render(instant, StillParts(surroundings.still), view, np.random.default_rng(0))


@pytest.fixture(scope="module")
def street() -> tuple[World, Instant, StillParts]:
    world = _world("day")
    surroundings = Surroundings(world)
    return world, surroundings.at(0.7), StillParts(surroundings.still)


@pytest.mark.parametrize("channel", ["CAM_FRONT", "CAM_BACK_LEFT", "CAM_BACK"])
def test_few_rays_find_what_a_ray_for_each_pixel_finds(street: tuple[World, Instant, StillParts], channel: str) -> None:
    world, instant, parts = street
    view = _view(world, channel, 0.7)
    hits = pixel_hits(instant, parts, view)
    distances, triangles = instant.first(hits.rays)
    assert ((triangles < 0) == (hits.triangles < 0)).mean() > 0.9999
    solid = (triangles >= 0) & (hits.triangles >= 0)
    wrong = np.abs(hits.distances[solid] - distances[solid]) > 1e-3 * distances[solid]
    assert wrong.mean() < 1e-3
    surfaces = hits.surfaces
    for table in (surfaces.materials, surfaces.owners):
        assert (table[triangles] == table[hits.triangles]).mean() > 0.999


def test_shadows_are_those_of_a_ray_for_each_pixel(street: tuple[World, Instant, StillParts]) -> None:
    world, instant, parts = street
    view, sun = _view(world, "CAM_FRONT", 0.7), world.conditions.sun.astype(np.float32)
    hits = pixel_hits(instant, parts, view)
    found = open_to(instant, parts, hits, sun, (view.camera.height, view.camera.width))
    normals = hits.surfaces.normals[hits.triangles]
    seen_side = -np.sign(np.einsum("ij,ij->i", normals, hits.rays[:, 3:]))
    facing = ((normals @ sun) * seen_side > 0).nonzero()[0]
    rays = np.empty((len(facing), 6), np.float32)
    rays[:, :3] = hits.rays[facing, :3] + (hits.distances[facing, None] * 0.9999 - 0.015) * hits.rays[facing, 3:]
    rays[:, 3:] = sun
    expected = np.zeros(len(found), bool)
    expected[facing] = ~instant.blocked(rays)
    assert 0.02 < 1 - expected[facing].mean() < 0.9, "the street has light and shadow"
    assert (found == expected).mean() > 0.995


def test_those_out_of_view_change_no_pixel(street: tuple[World, Instant, StillParts]) -> None:
    world, instant, parts = street
    surroundings, view = Surroundings(world), _view(world, "CAM_FRONT", 0.7)
    seen = in_view(view, surroundings.movers, 0.7, 0.0)
    assert 0 < len(seen) < len(surroundings.movers)
    some, everyone = pixel_hits(surroundings.at(0.7, seen), parts, view), pixel_hits(instant, parts, view)
    assert (some.distances == everyone.distances).all()


def _stage(light: Light, extinction: float = 0.0) -> Stage:
    cells = np.full((20, 20), Material.ASPHALT, np.uint8)
    sun = np.array([0.0, 0.0, 1.0], np.float32)
    return Stage(looks(), light, NO_LAMPS, sun, cells, 10.0, 1.0, extinction, np.array([True, True, False]))


def _shaded(stage: Stage, distances: list[float], material: Material, owner: int = -1) -> np.ndarray:
    """Rays straight down from these heights onto a level surface."""
    rays = np.array([[0.3, 0.3, d, 0.0, 0.0, -1.0] for d in distances], np.float32)
    colours = np.full((len(rays), 3), np.nan, np.float32)
    shade(
        stage, rays, np.array(distances, np.float32), np.zeros(len(rays), np.int32),
        np.array([[0, 0, 1], [0, 0, 0]], np.float32), np.array([material, -1], np.int32),
        np.array([owner, -1], np.int32), np.ones(len(rays), bool), colours,
    )  # fmt: skip
    return colours


def test_contrast_fades_with_distance_by_koschmieders_law() -> None:
    light, extinction = light_of("fog"), 0.03
    near, far = _shaded(_stage(light, extinction), [10.0, 60.0], Material.PLASTIC)
    ratio = (far - np.array(light.horizon)) / (near - np.array(light.horizon))
    assert np.allclose(ratio, np.exp(-extinction * 50.0), rtol=1e-4)


def test_only_lamps_that_are_on_glow() -> None:
    on, off = (_shaded(_stage(light_of("night")), [5.0], Material.HEADLIGHT, owner)[0, 0] for owner in (0, 1))
    by_day = _shaded(_stage(light_of("day")), [5.0], Material.HEADLIGHT, 0)[0, 0]
    assert on > 100 * off
    assert by_day == _shaded(_stage(light_of("day")), [5.0], Material.HEADLIGHT, 1)[0, 0]


def test_lamps_are_found_where_something_glows() -> None:
    posts = [lamp_post(7.0).moved(x, 2.0, 0.0, 0.0) for x in (0.0, 30.0)]
    places = lamp_places(combined([*posts, box((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), Material.METAL)]), Material.LAMP)
    assert np.allclose(places, [[1.65, 2.0, 7.0], [31.65, 2.0, 7.0]], atol=0.01)
    assert lamp_places(posts[0], Material.HEADLIGHT).shape == (0, 3)


def test_lamps_light_what_is_below_and_ahead_of_them() -> None:
    lamps = lamps_at(np.array([[20.0, 30.0, 7.0]]), [], np.eye(4), 0.0, 50.0)
    stage = _stage(light_of("night"))._replace(lamps=lamps)

    def brightness(x: float, y: float, normal: tuple[float, float, float]) -> float:
        rays = np.array([[x, y, 0.6, *(-v for v in normal)]], np.float32)
        colours = np.full((1, 3), np.nan, np.float32)
        shade(
            stage, rays, np.zeros(1, np.float32), np.zeros(1, np.int32), np.array([normal, (0, 0, 0)], np.float32),
            np.array([Material.PLASTER, -1], np.int32), np.array([-1, -1], np.int32), np.ones(1, bool), colours,
        )  # fmt: skip
        return float(colours.sum())

    up, towards_us, away = (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)
    unlit = brightness(-40.0, -40.0, up)
    assert brightness(20.0, 30.0, up) > 2 * brightness(30.0, 30.0, up) > 2 * unlit
    # Our own headlights light what looks at us from ahead, not its rear, and nothing beside or behind us.
    assert brightness(15.0, 0.0, towards_us) > 5 * brightness(15.0, 0.0, away)
    assert brightness(-15.0, 0.0, away) == pytest.approx(brightness(-40.0, -40.0, away), rel=0.3)
    assert brightness(0.0, -12.0, up) == pytest.approx(unlit, rel=0.5)


def test_wet_ground_mirrors_what_it_is_given() -> None:
    rays = np.array([[0.3, 0.3, 1.0, 0.995, 0.0, -0.0999]], np.float32)
    results = []
    for condition, mirrored in (("rain", 3.0), ("rain", 0.0), ("day", 3.0), ("day", 0.0)):
        colours = np.full((1, 3), mirrored, np.float32)
        shade(
            _stage(light_of(condition)), rays, np.array([10.0], np.float32), np.zeros(1, np.int32),
            np.array([[0, 0, 1], [0, 0, 0]], np.float32), np.array([Material.GROUND, -1], np.int32),
            np.array([-1, -1], np.int32), np.ones(1, bool), colours,
        )  # fmt: skip
        results.append(float(colours.mean()))
    wet_bright, wet_dark, dry_bright, dry_dark = results
    assert wet_bright > wet_dark + 0.5
    assert dry_bright == dry_dark


def test_the_camera_exposes_for_its_mean_and_draws_its_own_noise() -> None:
    scene = np.full((90, 160, 3), 0.05, np.float32)
    scene[:45] = 0.4
    first, again, other = (photograph(scene, 0.3, 1.0, 0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    linear = (first / 255.0) ** 2.2
    assert linear.mean() == pytest.approx(0.3, rel=0.1)
    quiet, loud = (photograph(scene, 0.3, gain, 0, np.random.default_rng(1))[50:80].std() for gain in (1.0, 8.0))
    assert loud > 2 * quiet


def test_light_beyond_the_sensors_range_spreads() -> None:
    scene = np.full((90, 160, 3), 0.05, np.float32)
    plain = photograph(scene, 0.05, 0.0, 0, np.random.default_rng(1)).astype(int)
    scene[40:44, 80:84] = 8.0
    glowing = photograph(scene, 0.05, 0.0, 0, np.random.default_rng(1)).astype(int)
    assert glowing[42, 88].min() > plain[42, 88].max() + 5
    assert abs(glowing[5, 5] - plain[5, 5]).max() <= 30  # the exposure gives way a little, nothing else


def test_drops_change_the_picture_where_they_are() -> None:
    scene = np.linspace(0.05, 0.6, 90, dtype=np.float32)[:, None, None] * np.ones((1, 160, 3), np.float32)
    dry, wet = (photograph(scene, 0.3, 0.0, drops, np.random.default_rng(3)).astype(int) for drops in (0, 6))
    changed = (np.abs(dry - wet) > 12).any(axis=2).mean()
    assert 0.0005 < changed < 0.1


def test_conditions_look_as_they_are_called() -> None:
    pictures: dict[str, np.ndarray] = {}
    names: tuple[ConditionName, ...] = ("day", "dusk", "night", "rain", "fog")
    for name in names:
        pictures[name] = _picture(name).astype(float)
    means = {name: picture.mean() for name, picture in pictures.items()}
    assert means["night"] < 0.6 * means["day"]
    assert means["night"] < means["dusk"] < means["day"]
    # Fog takes the contrast, dusk the blue.
    assert pictures["fog"].std() < 0.8 * pictures["day"].std()
    blue_over_red = {name: (picture[..., 0] / (picture[..., 2] + 1)).mean() for name, picture in pictures.items()}
    assert abs(blue_over_red["rain"] - 1) < 0.15


def test_fog_hides_and_rain_comes_with_rain_only() -> None:
    rng = np.random.default_rng(0)
    for name in ("day", "dusk", "night", "rain", "fog"):
        drawn = draw_conditions(name, rng)  # type: ignore[arg-type]
        assert np.linalg.norm(drawn.sun) == pytest.approx(1.0)
        assert (drawn.rain_rate > 0) == (name == "rain")
        # What is far away has at most 5 % of its contrast at the edge of the visibility.
        assert np.exp(-drawn.extinction * drawn.visibility) == pytest.approx(0.05, rel=0.01)
        assert (drawn.visibility < 200.0) == (name == "fog")


def test_mixed_scenes_have_every_condition() -> None:
    mixed, night = WorldConfig(scenes=10), WorldConfig(scenes=10, conditions="night")
    drawn = [mixed.condition(index) for index in range(10)]
    assert drawn.count("day") == 5
    assert set(drawn) == {"day", "dusk", "night", "rain", "fog"}
    assert {night.condition(index) for index in range(10)} == {"night"}
    world = build_world(WorldConfig(scenes=2, keyframes=1, conditions="night"), 1)
    assert "night" in world.description.lower(), "users of nuScenes look for the word in the description"


def test_noise_is_a_function_of_the_place() -> None:
    places = np.random.default_rng(0).uniform(-50, 50, (200, 3))
    values = np.array([cell_noise(*place) for place in places])
    assert ((values >= 0) & (values <= 1)).all()
    assert values.std() > 0.2
    assert [cell_noise(*place) for place in places] == values.tolist()
    steps = [abs(smooth_noise(x, 0.3, 1) - smooth_noise(x + 1e-3, 0.3, 1)) for x in np.linspace(-5, 5, 500)]
    assert max(steps) < 0.01
