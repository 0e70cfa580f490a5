"""Augment then project is project then augment: pixels, points, boxes, radar velocities, ego motion, pasted objects.

Frames are drawn with their oddities, augmentations as a training draws them: pictures resized, cropped, mirrored and
turned, the world turned, scaled, mirrored and shifted, sensors dropped, objects pasted.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.augmentation.augmenter import Augmentation, Augmenter, DrawnAugmentation
from datasets.augmentation.bev import BevAugmentation, augment
from datasets.augmentation.images import ImageAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout, without_channels
from datasets.boxes import Boxes3D
from datasets.frames import RADAR_FIELDS, LogFrame
from datasets.object_paste.database import ObjectDatabase, RecordedObject, write_object_database
from datasets.object_paste.paste import ObjectPaste, points_in_box_frame
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.sample import EGO_MOTION_FIELDS, RADAR_POINT_FIELDS, Sample
from datasets.sensors.points_in_boxes import points_in_boxes
from datasets.sensors.sweeps import RADAR_RETURN_FIELDS
from tests.odd_frames import HEIGHT, WIDTH, odd_frames
from tests.random_batch import random_boxes, random_sample

CONFIG = SampleConfig(image_height=HEIGHT // 3, image_width=WIDTH // 2, lidar_sweeps=3, radar_sweeps=3)
VELOCITY = slice(RADAR_POINT_FIELDS.index("vx_comp"), RADAR_POINT_FIELDS.index("vx_comp") + 2)
RADAR_AT = torch.tensor([3.4, 0.2, 0.5])

augmentations = st.builds(
    Augmentation,
    bev=st.none()
    | st.builds(
        BevAugmentation,
        max_rotation=st.sampled_from([0.0, 0.4, math.pi]),
        scale_range=st.sampled_from([(1.0, 1.0), (0.9, 1.1)]),
        flip=st.booleans(),
        translation_std=st.sampled_from([0.0, 0.5]),
    ),
    image=st.none()
    | st.builds(
        ImageAugmentation,
        scale_range=st.sampled_from([(1.0, 1.0), (0.7, 1.4)]),
        max_rotation=st.sampled_from([0.0, 0.3]),
        flip=st.booleans(),
    ),
    dropout=st.none() | st.just(SensorDropout(camera=0.2, lidar=0.2, radar=0.2)),
)


def augmented(
    frame: LogFrame, augmentation: Augmentation, seed: int
) -> tuple[Sample, Sample, DrawnAugmentation, torch.Tensor]:
    """The sample as it was recorded, without what is dropped; the augmented one; what was drawn; and its matrix."""
    augmenter = Augmenter(augmentation, CONFIG)
    drawn = augmenter.draw(frame, torch.Generator().manual_seed(seed), epoch=0)
    plain = make_sample(without_channels(frame, drawn.dropped), CONFIG)
    return plain, augmenter.sample(frame, drawn), drawn, drawn.augmented_from_ego


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 2e-4) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=atol, equal_nan=True)


@settings(max_examples=150, deadline=None)
@given(frame=odd_frames(), augmentation=augmentations, seed=st.integers(0, 2**31))
def test_augment_then_project_is_project_then_augment(frame: LogFrame, augmentation: Augmentation, seed: int) -> None:
    plain, sample, drawn, matrix = augmented(frame, augmentation, seed)
    scale, plane = float(matrix[2, 2]), matrix[:2, :2]
    # Points and returns: their places move, all that is measured about them stays.
    close(sample.lidar_points[:, :3], transform_points(matrix, plain.lidar_points[:, :3].double()))
    assert torch.equal(sample.lidar_points[:, 3:], plain.lidar_points[:, 3:])
    close(sample.radar_points[:, :3], transform_points(matrix, plain.radar_points[:, :3].double()))
    close(sample.radar_points[:, VELOCITY], plain.radar_points[:, VELOCITY].double() @ plane.T)
    assert torch.equal(sample.radar_points[:, [3, 6]], plain.radar_points[:, [3, 6]])
    # What is in global stays where it is.
    torch.testing.assert_close(sample.global_from_ego @ matrix, plain.global_from_ego, rtol=1e-9, atol=1e-8)
    assert_pixels_follow(frame, plain, sample, drawn)
    assert_boxes_follow(plain, sample, matrix)
    assert_ego_motion_follows(plain, sample, matrix, scale)


def assert_pixels_follow(frame: LogFrame, plain: Sample, sample: Sample, drawn: DrawnAugmentation) -> None:
    """A point of the world is seen where the picture was moved to: through the recorded camera and then the picture's
    own change, or through the augmented cameras.
    """
    matrix = drawn.augmented_from_ego
    world = torch.rand(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 40 - 20
    assert torch.equal(sample.camera_available, plain.camera_available)
    for index, channel in enumerate(CONFIG.camera_channels):
        if not sample.camera_available[index]:
            assert not sample.images[index].any()
            continue
        seen = transform_points(torch.linalg.inv(plain.ego_from_cam[index].double()), world)
        ahead = seen[:, 2] > 2
        pixels, _ = project(frame.rig.cameras[channel].intrinsics, seen[ahead])
        if channel in drawn.pictures:
            change = drawn.pictures[channel].matrix()
            expected = pixels @ change[:2, :2].T + change[:2, 2]
        else:
            expected, _ = project(plain.intrinsics[index].double(), seen[ahead])
        there = transform_points(torch.linalg.inv(sample.ego_from_cam[index].double()), transform_points(matrix, world))
        found, _ = project(sample.intrinsics[index].double(), there[ahead])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.02)


def assert_boxes_follow(plain: Sample, sample: Sample, matrix: torch.Tensor) -> None:
    if plain.boxes is None:
        assert sample.boxes is None
        return
    assert sample.boxes is not None
    # A mirrored box has the same corners in another order.
    expected = transform_points(matrix, plain.boxes.corners().double().flatten(0, 1)).reshape(-1, 8, 3)
    for corners, wanted in zip(sample.boxes.corners().double(), expected, strict=True):
        assert float(torch.cdist(corners, wanted).min(dim=1).values.max()) < 2e-3
    headings = torch.stack([plain.boxes.yaws.cos(), plain.boxes.yaws.sin()], dim=1).double() @ matrix[:2, :2].T
    close(torch.stack([sample.boxes.yaws.cos(), sample.boxes.yaws.sin()], dim=1), headings / matrix[2, 2], 1e-4)
    close(sample.boxes.velocities, plain.boxes.velocities.double() @ matrix[:2, :2].T)
    # A box holds the points that it held; those within a millimetre of a face may round to either side.
    for shrunk, grown, points, moved in (
        (resized(plain.boxes, -2e-3), resized(sample.boxes, 0.0), plain.lidar_points, sample.lidar_points),
        (resized(sample.boxes, -2e-3), resized(plain.boxes, 0.0), sample.lidar_points, plain.lidar_points),
    ):
        inside, after = points_in_boxes(shrunk, points), points_in_boxes(grown, moved)
        for box in range(len(shrunk)):
            assert set(inside.of(box).tolist()) <= set(after.of(box).tolist())


def resized(boxes: Boxes3D, more: float) -> Boxes3D:
    return replace(boxes, sizes_wlh=boxes.sizes_wlh + more)


def assert_ego_motion_follows(plain: Sample, sample: Sample, matrix: torch.Tensor, scale: float) -> None:
    before, after = (dict(zip(EGO_MOTION_FIELDS, s.ego_motion.double().T, strict=True)) for s in (plain, sample))
    valid = plain.ego_motion_valid
    assert torch.equal(valid, sample.ego_motion_valid)
    assert not sample.ego_motion[~valid].any()
    plane, shift = matrix[:2, :2], matrix[:2, 3]

    def pair(fields: dict[str, torch.Tensor], first: str, second: str) -> torch.Tensor:
        return torch.stack([fields[first], fields[second]], dim=1)[valid]

    close(pair(after, "x", "y"), pair(before, "x", "y") @ plane.T + shift)
    # A point a metre ahead of where the vehicle was.
    ahead = [pair(fields, "x", "y") + length * pair(fields, "cos_yaw", "sin_yaw")
             for fields, length in ((after, scale), (before, 1.0))]  # fmt: skip
    close(ahead[0], ahead[1] @ plane.T + shift)
    close(pair(after, "gps_x", "gps_y"), pair(before, "gps_x", "gps_y") @ plane.T)
    turns = math.copysign(1.0, float(torch.linalg.det(plane)))
    for name, factor in (("speed", scale), ("acceleration", scale), ("yaw_rate", turns), ("age", 1), ("gps_valid", 1)):
        close(after[name], factor * before[name])


@settings(max_examples=120, deadline=None)
@given(augmentation=augmentations, seed=st.integers(0, 2**31))
def test_a_return_stays_the_radial_part_of_its_boxs_velocity(augmentation: Augmentation, seed: int) -> None:
    """A radar sees of a moving box the part of its velocity along the ray: before, and after, from where it is then."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(5, generator)
    rays = boxes.centers - RADAR_AT
    rays = rays[:, :2] / rays[:, :2].norm(dim=1, keepdim=True)
    returns = torch.zeros(5, len(RADAR_POINT_FIELDS))
    returns[:, :3], returns[:, VELOCITY] = boxes.centers, (boxes.velocities * rays).sum(dim=1, keepdim=True) * rays
    matrix = (augmentation.bev or BevAugmentation()).draw(generator)
    bare = random_sample("x", generator, (8, 8), 3, 3, 1, 5.0)
    after = augment(replace(bare, radar_points=returns, boxes=boxes), matrix)
    assert after.boxes is not None
    radar_at = transform_points(matrix, RADAR_AT[None].double())[0, :2]
    turned = after.boxes.centers[:, :2].double() - radar_at
    turned = turned / turned.norm(dim=1, keepdim=True)
    seen = (after.boxes.velocities.double() * turned).sum(dim=1, keepdim=True) * turned
    close(after.radar_points[:, VELOCITY], seen)


# Pasted objects ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects whose radar returns all have the velocity of their box, in the box's own axes."""
    generator = torch.Generator().manual_seed(5)
    objects = []
    for number in range(40):
        box = random_boxes(1, generator, reach=25.0)
        half = box.sizes_wlh[0, [1, 0, 2]] / 2
        points = torch.rand(8, 5, generator=generator)
        returns = torch.rand(3, len(RADAR_RETURN_FIELDS), generator=generator)
        for cloud in (points, returns):
            cloud[:, :3] = (cloud[:, :3] * 1.9 - 0.95) * half
        cos, sin = float(box.yaws.cos()), float(box.yaws.sin())
        along = box.velocities[0] @ torch.tensor([[cos, -sin], [sin, cos]])
        column = RADAR_RETURN_FIELDS.index("vx_comp")
        returns[:, column : column + 2] = along
        for state, value in (("invalid_state", 0.0), ("ambig_state", 3.0)):
            returns[:, RADAR_FIELDS.index(state)] = value
        objects.append(RecordedObject(str(number), "scene-0001", box, points, returns, None))
    folder = tmp_path_factory.mktemp("paste") / "objects"
    sweeps = {"lidar_sweeps": CONFIG.lidar_sweeps, "radar_sweeps": CONFIG.radar_sweeps}
    write_object_database(folder, objects, version="v1.0-mini", **sweeps)
    return folder


@settings(max_examples=60, deadline=None)
@given(frame=odd_frames(), augmentation=augmentations, seed=st.integers(0, 2**31), turn=st.sampled_from([0.0, math.pi]))
def test_pasted_objects_move_with_everything(
    database: Path, frame: LogFrame, augmentation: Augmentation, seed: int, turn: float
) -> None:
    frame = replace(frame, images={})  # the objects have no pictures
    paste = ObjectPaste(str(database), counts=(3,) * 10, min_lidar_points=1, max_turn=turn)
    plain, sample, drawn, matrix = augmented(frame, replace(augmentation, paste=paste), seed)
    if plain.boxes is None or drawn.placed is None or not drawn.placed.rows:
        assert (sample.boxes is None) == (plain.boxes is None)
        return
    assert sample.boxes is not None
    placed, count = drawn.placed, len(drawn.placed.rows)
    recorded = [ObjectDatabase(database)[row] for row in placed.rows]
    boxes = sample.boxes[torch.arange(len(plain.boxes), len(sample.boxes))]
    assert len(boxes) == count
    # Pasted then augmented is augmented then pasted: the boxes, and whatever lies in them.
    close(boxes.centers, transform_points(matrix, placed.boxes.centers.double()))
    close(boxes.velocities, placed.boxes.velocities.double() @ matrix[:2, :2].T)
    close(boxes.sizes_wlh, placed.boxes.sizes_wlh * matrix[2, 2])
    # A turn is one about the vehicle: the range is that of the recording, and so is the angle of the velocity to it.
    original = Boxes3D.concatenated([one.box for one in recorded])
    close(placed.boxes.centers[:, :2].norm(dim=1), original.centers[:, :2].norm(dim=1))
    close((placed.boxes.velocities * placed.boxes.centers[:, :2]).sum(dim=1),
          (original.velocities * original.centers[:, :2]).sum(dim=1), 1e-3)  # fmt: skip
    mirrored = float(torch.linalg.det(matrix[:2, :2])) < 0
    if sample.lidar_available:
        clouds = sample.lidar_points[-8 * count :].split(8)
        for index, (cloud, one) in enumerate(zip(clouds, recorded, strict=True)):
            own = points_in_box_frame(boxes[torch.tensor([index])], cloud)[:, :3] / float(matrix[2, 2])
            expected = one.lidar_points[:, :3] * torch.tensor([1.0, -1.0 if mirrored else 1.0, 1.0])
            close(own, expected, 1e-3)
            assert torch.equal(cloud[:, 3:], one.lidar_points[:, 3:])
    if bool(sample.radar_available.any()):
        # The radar returns move as their box does.
        velocities = sample.radar_points[-3 * count :, VELOCITY]
        close(velocities, boxes.velocities.repeat_interleave(3, dim=0), 1e-3)
