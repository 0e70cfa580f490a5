"""Annotated boxes fit the pictures: found in the JPEG files themselves, by painting objects over and looking again."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import BoxVisibility, view_points

from datasets.classes import CAMERA_CHANNELS
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.rig import camera
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.schedule import shots_of, token
from datasets.synthetic.world import World, build_world
from datasets.synthetic.writing.measuring import SceneSensors
from tests.small_world import SMALL_WORLD

# The world takes long to make: one test process makes it for all that read it.
pytestmark = pytest.mark.xdist_group("synthetic world")

SCENE = 0  # by day
CHANGED = 30  # grey levels; JPEG and its blocks alone change less than 20
TOLERANCE = 1.5  # pixels


def grey(encoded: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE).astype(int)


def painted(world: World, numbers: set[int], material: Material) -> World:
    """The world with some users all of one material; their shapes, shadows and places stay."""

    def over(user):  # type: ignore[no-untyped-def]
        meshes = (replace(mesh, materials=np.full_like(mesh.materials, material)) for mesh in user.body.postures)
        return replace(user, body=replace(user.body, postures=tuple(meshes)))

    return replace(world, users=tuple(over(u) if u.number in numbers else u for u in world.users))


def share_filled(world: World, number: int) -> float:
    """How much of its projected box an object in full view fills at least: one sees past limbs and through cycles."""
    return {"bicycle": 0.15, "motorcycle": 0.15, "pedestrian": 0.2, "traffic_cone": 0.2}.get(
        world.users[number].body.kind, 0.3
    )


def outline(box: Box, intrinsics: np.ndarray) -> np.ndarray | None:
    """Left, top, right, bottom of a projected box (cam); None where part of it is not in front of the camera."""
    corners = box.corners()
    if corners[2].min() < 0.5:
        return None
    pixels = view_points(corners, intrinsics, normalize=True)[:2]
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)])


def standing_apart(devkit: NuScenes, world: World, row: dict, config: WorldConfig) -> dict[int, np.ndarray]:
    """Users that stand still, in full view with nothing annotated before them or close by in the picture: number and
    outline, nearest first.
    """
    eye = camera(row["channel"], config.image_width)
    boxes = sorted(devkit.get_sample_data(row["token"], BoxVisibility.ANY)[1], key=lambda box: box.center[2])
    number_of = {token(SMALL_WORLD, "instance", SCENE, user.number): user.number for user in world.users}
    still = {user.number for user in world.users if not user.track.moves}
    found: dict[int, np.ndarray] = {}
    nearer: list[np.ndarray] = []
    for box in boxes:
        own = outline(box, eye.intrinsics.numpy())
        if own is None:
            continue
        annotation = devkit.get("sample_annotation", box.token)
        number = number_of[annotation["instance_token"]]
        inside = own.min() > 2 and own[2] < eye.width - 3 and own[3] < eye.height - 3
        seen = annotation["visibility_token"] == "4" and all(_apart(own, other) for other in nearer)
        if number in still and inside and seen and own[3] - own[1] > 8:
            found[number] = own
        nearer.append(own)
    return found


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[:2] > other[2:] + 4).any() or (other[:2] > one[2:] + 4).any())


@pytest.mark.parametrize(("width", "keyframes"), [(160, 3), (320, 1), (640, 1)])
def test_silhouettes_lie_in_the_projected_boxes_and_fill_them(synthetic_root: Path, width: int, keyframes: int) -> None:
    devkit = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    config = replace(SMALL_WORLD, image_width=width)
    world, shots = build_world(config, SCENE), shots_of(config, SCENE)
    sensors = SceneSensors(config, SCENE, world)
    samples = [sample for sample in devkit.sample if sample["scene_token"] == devkit.scene[SCENE]["token"]]
    pictures = [s["data"][channel] for s in samples[:keyframes] for channel in CAMERA_CHANNELS]
    compared = 0
    for row in (devkit.get("sample_data", data_token) for data_token in pictures):
        channel = row["channel"]
        outlines = standing_apart(devkit, world, row, config)
        if not outlines:
            continue
        shot = next(s for s in shots[channel] if s.timestamp_us == row["timestamp"])
        as_written = sensors.measure(shot).encoded
        if width == SMALL_WORLD.image_width:
            assert as_written == (synthetic_root / row["filename"]).read_bytes()
        changed = np.zeros(grey(as_written).shape, bool)
        # One of the two differs from whatever colour the object has.
        for material in (Material.PAINT_WHITE, Material.CLOTH_BLACK):
            repainted = SceneSensors(config, SCENE, painted(world, set(outlines), material)).measure(shot).encoded
            changed |= np.abs(grey(repainted) - grey(as_written)) > CHANGED
        explained = np.zeros_like(changed)
        for number, (left, top, right, bottom) in outlines.items():
            # Pixels whose middles lie within the tolerance.
            part = (
                slice(int(np.ceil(top - TOLERANCE)), int(bottom + TOLERANCE) + 1),
                slice(int(np.ceil(left - TOLERANCE)), int(right + TOLERANCE) + 1),
            )
            explained[part] = True
            v, u = changed[part].nonzero()
            # What is annotated as in full view is there, as large as its box.
            assert len(u) > share_filled(world, number) * (right - left) * (bottom - top), channel
            assert np.ptp(u) + 1 > 0.8 * (right - left) - 2 * TOLERANCE, channel
            assert np.ptp(v) + 1 > 0.8 * (bottom - top) - 2 * TOLERANCE, channel
            compared += 1
        assert not (changed & ~explained).any(), channel
    assert compared >= 3
