"""Batches of random data that look like driving: for tests of the network, which need shapes and not a world."""

import math
from dataclasses import replace

import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES_OF_CLASS
from datasets.samples.batch import Batch, PointBatch, collate
from datasets.samples.sample import Sample


def random_batch(
    batch_size: int,
    generator: torch.Generator,
    image_size: tuple[int, int] = (64, 96),
    lidar_points: int = 2000,
    radar_points: int = 60,
    boxes: int = 6,
    reach: float = 20.0,
) -> Batch:
    """Samples with six cameras looking all round, points and boxes within `reach` metres, five radars, five states."""
    return collate(
        [
            random_sample(str(index), generator, image_size, lidar_points, radar_points, boxes, reach)
            for index in range(batch_size)
        ]
    )


def random_sample(
    token: str,
    generator: torch.Generator,
    image_size: tuple[int, int],
    lidar_points: int,
    radar_points: int,
    boxes: int,
    reach: float,
) -> Sample:
    height, width = image_size
    intrinsics = torch.tensor([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
    motion = torch.randn(5, 11, generator=generator)
    targets = random_boxes(boxes, generator, reach)
    return Sample(
        token=token,
        scene_name="random",
        timestamp_us=0,
        images=torch.randint(0, 256, (6, 3, height, width), generator=generator, dtype=torch.uint8),
        intrinsics=intrinsics.expand(6, 3, 3).clone(),
        ego_from_cam=torch.stack([_camera_pose(index * math.pi / 3) for index in range(6)]),
        camera_available=torch.ones(6, dtype=torch.bool),
        lidar_points=_points(lidar_points, 5, generator, reach),
        lidar_available=True,
        radar_points=_points(radar_points, 7, generator, reach),
        radar_available=torch.ones(5, dtype=torch.bool),
        ego_motion=motion,
        ego_motion_valid=torch.ones(5, dtype=torch.bool),
        global_from_ego=torch.eye(4, dtype=torch.float64),
        boxes=targets,
        faults=(),
    )


def random_boxes(count: int, generator: torch.Generator, reach: float = 20.0) -> Boxes3D:
    """Boxes of all classes with centres within `reach` metres along x and y."""

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    labels = torch.randint(0, 10, (count,), generator=generator)
    picks = torch.randint(0, 6, (count,), generator=generator).tolist()
    allowed = [ATTRIBUTES_OF_CLASS[label] for label in labels.tolist()]
    attributes = [options[pick % len(options)] if options else -1 for options, pick in zip(allowed, picks, strict=True)]
    return Boxes3D(
        centers=torch.cat([uniform(-reach, reach, count, 2), uniform(0.0, 2.0, count, 1)], dim=1),
        sizes_wlh=uniform(0.5, 4.0, count, 3),
        yaws=uniform(-math.pi, math.pi, count),
        velocities=uniform(-5.0, 5.0, count, 2),
        labels=labels,
        scores=torch.ones(count),
        attributes=torch.tensor(attributes, dtype=torch.int64),
    )


def _points(count: int, columns: int, generator: torch.Generator, reach: float) -> torch.Tensor:
    points = torch.rand(count, columns, generator=generator)
    points[:, :2] = (points[:, :2] * 2 - 1) * reach
    points[:, 2] = points[:, 2] * 4 - 1
    return points


def _camera_pose(yaw: float) -> torch.Tensor:
    """ego_from_cam of a camera 1.5 m up that looks along this yaw."""
    forward = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
    right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), forward], dim=1)
    pose[:3, 3] = torch.tensor([0.0, 0.0, 1.5])
    return pose


def sample_of(batch: Batch, index: int) -> Batch:
    """One sample of a batch, as a batch of its own."""

    def cloud(points: PointBatch) -> PointBatch:
        return PointBatch.of([points.points[points.sample_index == index]])

    one = slice(index, index + 1)
    return replace(
        batch,
        tokens=batch.tokens[one],
        scene_names=batch.scene_names[one],
        timestamps_us=batch.timestamps_us[one],
        images=batch.images[one],
        intrinsics=batch.intrinsics[one],
        ego_from_cam=batch.ego_from_cam[one],
        camera_available=batch.camera_available[one],
        lidar=cloud(batch.lidar),
        lidar_available=batch.lidar_available[one],
        radar=cloud(batch.radar),
        radar_available=batch.radar_available[one],
        ego_motion=batch.ego_motion[one],
        ego_motion_valid=batch.ego_motion_valid[one],
        global_from_ego=batch.global_from_ego[one],
        boxes=None if batch.boxes is None else batch.boxes[one],
        previous=tuple(sample_of(earlier, index) for earlier in batch.previous),
    )
