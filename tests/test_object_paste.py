"""GT-paste: what is pasted from a database of objects, on generated objects and on the synthetic world."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from calibration.cameras import PinholeCamera
from calibration.transforms import from_yaw, invert, transform_points
from datasets.augmentation.augmenter import Augmentation, Augmenter
from datasets.augmentation.images import ImageAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout
from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.frames import RADAR_FIELDS, LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.object_paste.bev_overlap import bev_overlaps
from datasets.object_paste.build import build_object_database
from datasets.object_paste.database import ObjectDatabase, ObjectPicture
from datasets.object_paste.paste import ObjectPaste, points_in_box_frame, returns_in_box_frame
from datasets.object_paste.pictures import outline_in_picture, paste_pictures
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.sensors.picture_change import PictureChange
from datasets.sensors.points_in_boxes import points_in_boxes
from tests.random_batch import random_boxes
from tests.test_object_database import same_box

CONFIG = SampleConfig(image_height=64, image_width=128, lidar_sweeps=2, radar_sweeps=2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_overlaps_are_shapelys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (random_boxes(6, generator, reach=4.0).to(torch.float64) for _ in range(2))

    def polygons(boxes: Boxes3D) -> list[Polygon]:
        return [Polygon(corners[[0, 1, 5, 4], :2].tolist()) for corners in boxes.corners()]

    areas = [[a.intersection(b).area for b in polygons(second)] for a in polygons(first)]
    found = bev_overlaps(first, second)
    for row, column in np.ndindex(6, 6):
        if areas[row][column] > 1e-9 or areas[row][column] == 0:
            assert bool(found[row, column]) == (areas[row][column] > 0)


def test_into_the_box_and_back_out() -> None:
    box = random_boxes(1, torch.Generator().manual_seed(4))
    returns = torch.randn(7, 19, generator=torch.Generator().manual_seed(5))
    column = RADAR_FIELDS.index("vx_comp")
    returns[:, column : column + 2] = box.velocities
    inside = returns_in_box_frame(box, returns)
    # A return that moves as the box does moves along the box's own axes by the turn back.
    expected = box.velocities[0] @ from_yaw(float(box.yaws))[:2, :2].float()
    torch.testing.assert_close(inside[:, column : column + 2], expected.expand(7, 2))
    torch.testing.assert_close(points_in_box_frame(box, box.centers), torch.zeros(1, 3), atol=1e-5, rtol=0)
    ahead = points_in_box_frame(box, box.corners()[0])
    torch.testing.assert_close(ahead.abs().amax(dim=0), box.sizes_wlh[0, [1, 0, 2]] / 2)


# Pictures ----------------------------------------------------------------------------------------------------------

FORWARD = PinholeCamera(96, 64, torch.tensor([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]], dtype=torch.float64))
CAM_FROM_EGO = invert(torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]], dtype=torch.float64))


def box_at(x: float, y: float, yaw: float = 0.0) -> Boxes3D:
    return Boxes3D(
        centers=torch.tensor([[x, y, 1.5]]),
        sizes_wlh=torch.tensor([[2.0, 2.0, 2.0]]),
        yaws=torch.tensor([yaw]),
        velocities=torch.zeros(1, 2),
        labels=torch.zeros(1, dtype=torch.int64),
        scores=torch.ones(1),
        attributes=torch.full((1,), -1),
    )


def plain_picture(value: int) -> ObjectPicture:
    return ObjectPicture(
        bytes(cv2.imencode(".png", np.full((20, 20, 3), value, np.uint8))[1]), 0, 0, (0.0, 0.0, 19.0, 19.0)
    )


def region(box: Boxes3D, change: PictureChange) -> np.ndarray:
    corners = transform_points(CAM_FROM_EGO, box.corners()[0].double())
    outline = outline_in_picture(FORWARD.intrinsics, corners)
    mask = np.zeros((change.height, change.width), np.uint8)
    if outline is not None:
        matrix = change.matrix()
        polygon = outline @ matrix[:2, :2].T + matrix[:2, 2]
        cv2.fillConvexPoly(mask, polygon.round().int().numpy(), 1)
    return mask.astype(bool)


@settings(max_examples=60, deadline=None)
@given(
    places=st.lists(st.tuples(st.floats(4, 30), st.floats(-6, 6), st.floats(-3, 3)), min_size=2, max_size=6),
    pasted_count=st.integers(1, 3),
    mirrored=st.booleans(),
    rotation=st.sampled_from([0.0, 0.1]),
)
def test_what_is_nearer_covers_what_is_farther(
    places: list[tuple[float, float, float]], pasted_count: int, mirrored: bool, rotation: float
) -> None:
    """Every pixel shows the nearest object whose region it is in: its own colour, or the picture's as it was."""
    change = replace(PictureChange.fit(FORWARD, 64, 96), mirrored=mirrored, rotation=rotation)
    boxes = [box_at(*place) for place in places]
    ranges = sorted(math.hypot(x, y) for x, y, _ in places)
    assume(all(far - near > 1e-3 for near, far in itertools.pairwise(ranges)))
    present, pasted = boxes[pasted_count:], boxes[:pasted_count]
    background = torch.full((3, 64, 96), 7, dtype=torch.uint8)
    result = paste_pictures(
        background,
        change,
        FORWARD.intrinsics,
        CAM_FROM_EGO,
        Boxes3D.concatenated([Boxes3D.empty(), *present]),
        Boxes3D.concatenated(pasted),
        [plain_picture(100 + index) for index in range(len(pasted))],
    ).numpy()
    owner = np.full((64, 96), 7)
    values = [100 + index for index in range(len(pasted))] + [7] * len(present)
    distances = [float(transform_points(CAM_FROM_EGO, box.centers.double()).norm()) for box in pasted + present]
    for index in sorted(range(len(boxes)), key=lambda index: -distances[index]):
        owner[region((pasted + present)[index], change)] = values[index]
    # The warped picture ends within a pixel of the outline's bounds: its very edge may show what was there. An outline
    # that ends just outside of the result has its edge along the result's own.
    differing = (result != owner[None]).any(axis=0)
    framed = cv2.copyMakeBorder(owner.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
    edges = cv2.morphologyEx(framed, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    assert not (differing & ~edges).any()
    assert differing.sum() <= edges.sum()


def test_an_object_half_behind_the_camera_still_covers() -> None:
    change = PictureChange.fit(FORWARD, 64, 96)
    alongside = box_at(0.9, -1.4)  # from behind the camera to beside it
    mask = region(alongside, change)
    assert mask.any()
    far = box_at(12.0, -9.0)
    result = paste_pictures(
        torch.zeros(3, 64, 96, dtype=torch.uint8), change, FORWARD.intrinsics, CAM_FROM_EGO, alongside, far,
        [plain_picture(200)],
    )  # fmt: skip
    assert not result[:, torch.from_numpy(mask)].any()


def test_an_object_that_no_camera_sees_leaves_the_picture() -> None:
    change = PictureChange.fit(FORWARD, 64, 96)
    picture = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    same = paste_pictures(
        picture, change, FORWARD.intrinsics, CAM_FROM_EGO, Boxes3D.empty(), box_at(-10, 0), [plain_picture(9)]
    )
    assert torch.equal(same, picture)


# The world ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NuScenesReader, Path]:
    reader = NuScenesReader(synthetic_root, lidar_sweeps=2, radar_sweeps=2)
    folder = tmp_path_factory.mktemp("objects") / "db"
    counted: list[int] = []
    written = build_object_database(
        reader, reader.frame_tokens("all"), CONFIG, folder, version="v1.0-mini", progress=counted.append
    )
    assert (written > 10, sum(counted)) == (True, len(reader.frame_tokens("all")))
    return reader, folder


def test_the_database_holds_what_the_frames_hold(world: tuple[NuScenesReader, Path]) -> None:
    reader, folder = world
    database = ObjectDatabase(folder)
    rows, radar = {database[row].token: row for row in range(len(database))}, 0
    frame = reader.frame(reader.frame_tokens("all")[1])
    assert frame.annotations is not None
    sample = make_sample(frame, CONFIG)
    boxes = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego)).to(torch.float32)
    inside = points_in_boxes(boxes, sample.lidar_points)
    for index, token in enumerate(frame.annotations.tokens):
        assert (token in rows) == (inside.counts[index] > 0)
        if token in rows:
            recorded = database[rows[token]]
            box = boxes[torch.tensor([index])]
            assert same_box(recorded.box, box)
            expected = points_in_box_frame(box, sample.lidar_points[inside.of(index)])
            torch.testing.assert_close(recorded.lidar_points, expected)
            radar += len(recorded.radar_returns)
    assert radar > 0
    # In pictures of 160 pixels many an object is too small for one.
    assert 0.25 < database.pictured.mean() < 1.0


def augmenter(folder: Path, **changes: object) -> Augmenter:
    paste = ObjectPaste(str(folder), counts=(12, 6, 2, 2, 2, 4, 4, 6, 12, 6), min_lidar_points=2, max_turn=math.pi)
    return Augmenter(Augmentation(paste=replace(paste, **changes)), CONFIG)  # type: ignore[arg-type]


def footprint(boxes: Boxes3D) -> list[Polygon]:
    return [Polygon(corners[[0, 1, 5, 4], :2].tolist()) for corners in boxes.to(torch.float64).corners()]


@pytest.mark.parametrize("seed", range(4))
def test_pasted_objects_fit_into_the_frame(world: tuple[NuScenesReader, Path], seed: int) -> None:
    reader, folder = world
    frame = reader.frame(reader.frame_tokens("all")[seed])
    pasting = augmenter(folder)
    drawn = pasting.draw(frame, torch.Generator().manual_seed(seed), epoch=0)
    assert drawn.placed is not None
    assert len(drawn.placed.rows) > 0
    before, after = make_sample(frame, CONFIG), pasting.sample(frame, drawn)
    assert before.boxes is not None
    assert after.boxes is not None
    assert frame.annotations is not None
    placed = after.boxes[torch.arange(len(before.boxes), len(after.boxes))]
    assert same_box(placed, drawn.placed.boxes)
    # Nothing overlaps, by another library's geometry.
    present = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego))
    polygons = footprint(present.to(torch.float32)) + footprint(placed)
    for row in range(len(present), len(polygons)):
        assert all(polygons[row].intersection(other).area < 1e-4 for other in polygons[:row])
    database = ObjectDatabase(folder)
    recorded = [database[row] for row in drawn.placed.rows]
    # All points of an object, and no others, lie in its box; but for the rounding of points on a face.
    grown = replace(placed, sizes_wlh=placed.sizes_wlh + 1e-3)
    counts = [len(o.lidar_points) for o in recorded]
    added = sum(counts)
    kept, pasted = after.lidar_points.split([len(after.lidar_points) - added, added])
    assert points_in_boxes(placed, kept).counts.sum() == 0
    for index, points in enumerate(pasted.split(counts)):
        assert points_in_boxes(grown[torch.tensor([index])], points).counts.tolist() == [len(points)]
    covered = points_in_boxes(placed, before.lidar_points).rows.unique()
    assert len(after.lidar_points) == len(before.lidar_points) - len(covered) + added
    # Radar returns lie in the boxes, and their velocities have turned with them.
    moving = [(o, CONFIG.returns_kept.kept(o.radar_returns)) for o in recorded]
    expected = [int(kept.sum()) for _, kept in moving]
    tail = after.radar_points[len(after.radar_points) - sum(expected) :].split(expected)
    for index, ((o, kept), returns) in enumerate(zip(moving, tail, strict=True)):
        turn = float(placed.yaws[index])
        assert points_in_boxes(grown[torch.tensor([index])], returns).counts.tolist() == [len(returns)]
        own = o.radar_returns[kept][:, [RADAR_FIELDS.index("vx_comp"), RADAR_FIELDS.index("vy_comp")]]
        torch.testing.assert_close(returns[:, 4:6], own @ from_yaw(turn)[:2, :2].float().T)
    # A velocity keeps its angle to the box.
    turned, original = placed.velocities, torch.cat([o.box.velocities for o in recorded])
    known = ~turned.isnan().any(dim=1)
    torch.testing.assert_close(turned[known].norm(dim=1), original[known].norm(dim=1))
    assert not torch.equal(after.images, before.images)


def test_paste_is_the_same_for_the_same_draw_and_fades_out(world: tuple[NuScenesReader, Path]) -> None:
    reader, folder = world
    frame = reader.frame(reader.frame_tokens("all")[0])
    fading = augmenter(folder, full_until_epoch=2, off_from_epoch=5)
    drawn = [fading.draw(frame, torch.Generator().manual_seed(9), 0) for _ in range(2)]
    assert drawn[0].placed is not None
    assert drawn[1].placed is not None
    assert drawn[0].placed.rows == drawn[1].placed.rows
    a, b = (fading.sample(frame, one) for one in drawn)
    assert torch.equal(a.lidar_points, b.lidar_points)
    assert torch.equal(a.images, b.images)

    def pasted(epoch: int) -> int:
        placed = [fading.draw(frame, torch.Generator().manual_seed(seed), epoch).placed for seed in range(24)]
        return sum(one is not None and len(one.rows) > 0 for one in placed)

    numbers = [pasted(epoch) for epoch in range(7)]
    assert numbers[:2] == [24, 24]
    assert numbers[5:] == [0, 0]
    assert 24 > numbers[2] >= numbers[3] >= numbers[4] > 0
    assert [ObjectPaste("db", full_until_epoch=15).share(epoch) for epoch in (0, 14, 15, 19)] == [1.0, 1.0, 0.0, 0.0]


def test_a_cloud_keeps_its_bound_with_objects_in_it(world: tuple[NuScenesReader, Path]) -> None:
    reader, folder = world
    frame = reader.frame(reader.frame_tokens("all")[0])
    bounded = replace(CONFIG, max_lidar_points=300)
    paste = ObjectPaste(str(folder), counts=(12, 6, 2, 2, 2, 4, 4, 6, 12, 6), min_lidar_points=2)
    pasting = Augmenter(Augmentation(paste=paste), bounded)
    drawn = pasting.draw(frame, torch.Generator().manual_seed(0), epoch=0)
    assert drawn.placed is not None
    after = pasting.sample(frame, drawn)
    assert len(after.lidar_points) == len(make_sample(frame, bounded).lidar_points) == 300
    # Thinned evenly: of the pasted points some stay.
    grown = replace(drawn.placed.boxes, sizes_wlh=drawn.placed.boxes.sizes_wlh + 1e-3)
    assert points_in_boxes(grown, after.lidar_points).counts.sum() > 0


def test_paste_works_with_sensors_missing(world: tuple[NuScenesReader, Path]) -> None:
    reader, folder = world
    frame: LogFrame = reader.frame(reader.frame_tokens("all")[0])
    pasting = augmenter(folder)
    for lost in ("images", "lidar_sweeps", "radar_sweeps"):
        without = replace(frame, **{lost: {}})
        drawn = pasting.draw(without, torch.Generator().manual_seed(1), 0)
        sample = pasting.sample(without, drawn)
        assert drawn.placed is not None
        assert drawn.placed.rows
        assert sample.lidar_available == (lost != "lidar_sweeps") == (len(sample.lidar_points) > 0)
        assert bool(sample.radar_available.any()) == (lost != "radar_sweeps") == (len(sample.radar_points) > 0)
    unannotated = replace(frame, annotations=None)
    drawn = pasting.draw(unannotated, torch.Generator().manual_seed(1), 0)
    assert drawn.placed is not None
    assert not drawn.placed.rows
    assert pasting.sample(unannotated, drawn).boxes is None


def test_a_database_of_other_sweeps_is_refused(world: tuple[NuScenesReader, Path]) -> None:
    _, folder = world
    with pytest.raises(InputRefused, match=r"built from 2 LiDAR .* the samples have 5"):
        Augmenter(Augmentation(paste=ObjectPaste(str(folder))), replace(CONFIG, lidar_sweeps=5))


def test_all_augmentations_together_keep_pixels_on_points(world: tuple[NuScenesReader, Path]) -> None:
    """A corner of a box projects, through the augmented camera matrices, to where its picture was moved."""
    from datasets.augmentation.bev import BevAugmentation

    reader, folder = world
    frame = reader.frame(reader.frame_tokens("all")[1])
    paste = ObjectPaste(str(folder), min_lidar_points=2)
    everything = Augmentation(
        BevAugmentation(translation_std=0.5), ImageAugmentation(), SensorDropout(camera=0.3), paste
    )
    augmenting = Augmenter(everything, CONFIG)
    drawn = augmenting.draw(frame, torch.Generator().manual_seed(2), 0)
    sample, plain = augmenting.sample(frame, drawn), make_sample(frame, CONFIG)
    assert sample.boxes is not None
    assert plain.boxes is not None
    assert 0 < len(drawn.dropped) < 6
    seen = 0
    for index, channel in enumerate(CONFIG.camera_channels):
        assert bool(sample.camera_available[index]) == (channel not in drawn.dropped)
        if channel in drawn.dropped:
            continue
        camera = frame.rig.cameras[channel]
        for row in range(len(plain.boxes)):
            # The centre: corners of a mirrored box come in another order.
            before = transform_points(
                torch.linalg.inv(plain.ego_from_cam[index].double()), plain.boxes.centers[row : row + 1].double()
            )
            after = transform_points(
                torch.linalg.inv(sample.ego_from_cam[index].double()), sample.boxes.centers[row : row + 1].double()
            )
            if before[0, 2] < 1:
                continue
            recorded = (camera.intrinsics @ before[0]) / before[0, 2]
            moved = drawn.pictures[channel].matrix() @ recorded
            found = (sample.intrinsics[index].double() @ after[0]) / after[0, 2]
            torch.testing.assert_close(found, moved, atol=0.05, rtol=1e-3)
            seen += 1
    assert seen > 3
