"""GT-paste: recorded objects put into other frames, with all that the sensors saw of them (SECOND, Yan et al. 2018).

An object keeps its place relative to the vehicle, so that its points are as dense as they should be; it may be turned
about the vehicle, with its points, its radar returns, its velocity and its picture.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from calibration.transforms import from_yaw, invert
from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.frames import RADAR_FIELDS, LogFrame
from datasets.object_paste.bev_overlap import bev_overlaps
from datasets.object_paste.database import ObjectDatabase, RecordedObject
from datasets.samples.make_sample import SampleConfig, radar_points, thinned
from datasets.samples.sample import Sample
from datasets.sensors.moved_points import moved_points
from datasets.sensors.points_in_boxes import points_in_boxes

_VELOCITIES = tuple(RADAR_FIELDS.index(name) for name in ("vx", "vx_comp"))
# Nothing is put where the recording vehicle itself stands (nuScenes: a Renault Zoe, its origin the rear axle).
_VEHICLE = Boxes3D(
    centers=torch.tensor([[1.3, 0.0, 0.8]]),
    sizes_wlh=torch.tensor([[1.8, 4.1, 1.6]]),
    yaws=torch.zeros(1),
    velocities=torch.zeros(1, 2),
    labels=torch.zeros(1, dtype=torch.int64),
    scores=torch.ones(1),
    attributes=torch.full((1,), -1),
)


@dataclass(frozen=True)
class ObjectPaste:
    """Which objects are pasted into a frame, and in which epochs."""

    database: str
    """The folder of the database (`build_object_database`)."""
    counts: tuple[int, ...] = (2, 3, 7, 4, 6, 2, 6, 6, 2, 2)
    """For each of DETECTION_CLASSES the number that a frame is filled up to: CenterPoint's and BEVFusion's (CBGS, Zhu
    et al. 2019, has the same groups)."""
    min_lidar_points: int = 5
    """Objects with fewer points teach nothing."""
    max_turn: float = 0.0
    """Largest turn of an object about the vehicle to either side, radians; 0 leaves it where it was recorded."""
    full_until_epoch: int | None = None
    """In epochs before this one every sample is pasted into; with None in all epochs."""
    off_from_epoch: int | None = None
    """From this epoch on none is; the share falls linearly between the two. With None as `full_until_epoch`: paste
    ends at once, as in the published trainings (15 of 20 epochs)."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(DETECTION_CLASSES) or min(self.counts) < 0:
            raise ValueError(f"counts must be {len(DETECTION_CLASSES)} numbers, none negative, not {self.counts}")
        if self.min_lidar_points < 1 or not 0 <= self.max_turn <= math.pi:
            raise ValueError("min_lidar_points must be at least 1, max_turn must lie in [0, pi]")
        full, off = self.full_until_epoch, self.off_from_epoch
        if (full is None and off is not None) or (full is not None and off is not None and off < full):
            raise ValueError("off_from_epoch needs a full_until_epoch that is not after it")

    def share(self, epoch: int) -> float:
        """The share of samples that are pasted into in an epoch."""
        if self.full_until_epoch is None or epoch < self.full_until_epoch:
            return 1.0
        off = self.full_until_epoch if self.off_from_epoch is None else self.off_from_epoch
        # The first epoch of the fade is already below one, the one of off_from_epoch is zero.
        return max(0.0, (off - epoch) / (off - self.full_until_epoch + 1))


@dataclass(frozen=True)
class PlacedObjects:
    """Objects of a database (rows) and their boxes where they are put, in the frame's ego."""

    rows: tuple[int, ...]
    boxes: Boxes3D


class ObjectPaster:
    """Draws objects from a database and puts them into samples. Raises InputRefused as ObjectDatabase does, and where
    the database was made of other numbers of sweeps than samples are: its objects would be too dense or too thin.
    """

    def __init__(self, paste: ObjectPaste, config: SampleConfig) -> None:
        self.database = ObjectDatabase(Path(paste.database))
        found = (self.database.lidar_sweeps, self.database.radar_sweeps)
        if found != (config.lidar_sweeps, config.radar_sweeps):
            raise InputRefused(
                f"{paste.database} was built from {found[0]} LiDAR and {found[1]} radar sweeps, the samples have "
                f"{config.lidar_sweeps} and {config.radar_sweeps}: build a database of this config."
            )
        self._paste, self._config = paste, config
        labels, enough = self.database.labels, self.database.lidar_counts >= paste.min_lidar_points
        self._rows = [np.flatnonzero(enough & (labels == label)) for label in range(len(DETECTION_CLASSES))]
        self._pictured_rows = [rows[self.database.pictured[rows]] for rows in self._rows]

    def draw(self, frame: LogFrame, generator: torch.Generator, epoch: int) -> PlacedObjects:
        """Which objects are put where in this frame: none overlaps another, an annotated one or the vehicle itself.

        Into a frame with pictures only objects that have one are put: cameras must not contradict the LiDAR.
        """
        nothing = PlacedObjects((), Boxes3D.empty())
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        if frame.annotations is None or share >= self._paste.share(epoch):
            return nothing
        present = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego)).to(torch.float32)
        rows_of_class = self._pictured_rows if frame.images else self._rows
        drawn = [np.zeros(0, np.int64)]
        for label, (count, candidates) in enumerate(zip(self._paste.counts, rows_of_class, strict=True)):
            wanted = count - int((present.labels == label).sum())
            if wanted > 0 and len(candidates) > 0:
                picks = np.unique(torch.randint(len(candidates), (wanted,), generator=generator).numpy())
                drawn.append(candidates[picks])
        rows = np.concatenate(drawn)
        turns = torch.rand(len(rows), generator=generator, dtype=torch.float64) * 2.0 - 1.0
        boxes = self.database.boxes(rows)
        if self._paste.max_turn > 0:
            boxes = _turned(boxes, (turns * self._paste.max_turn).float())
        kept = _without_overlap(boxes, Boxes3D.concatenated([present, _VEHICLE]))
        return PlacedObjects(tuple(rows[kept].tolist()), boxes[torch.from_numpy(kept)])

    def objects(self, placed: PlacedObjects) -> list[RecordedObject]:
        """What was recorded of the drawn objects."""
        return [self.database[row] for row in placed.rows]

    def paste_points(self, sample: Sample, placed: PlacedObjects, objects: list[RecordedObject]) -> Sample:
        """The sample with the objects' boxes, points and returns; what it had in the places of the boxes is gone.

        The cloud stays within `max_lidar_points` of the config.
        """
        if not objects or sample.boxes is None:
            return sample
        lidar, radar = sample.lidar_points, sample.radar_points
        poses = [from_yaw(float(box.yaws), box.centers[0].tolist()) for box in _single(placed.boxes)]
        if sample.lidar_available:
            clouds = [moved_points(recorded.lidar_points, pose) for pose, recorded in zip(poses, objects, strict=True)]
            lidar = thinned(torch.cat([_outside(placed.boxes, lidar), *clouds]), self._config.max_lidar_points)
        if bool(sample.radar_available.any()):
            returns = torch.cat(
                [_turned_returns(pose, o.radar_returns) for pose, o in zip(poses, objects, strict=True)]
            )
            returns = returns[self._config.returns_kept.kept(returns)]
            points = radar_points(returns, self._config.radar_fields or "basic")
            radar = torch.cat([_outside(placed.boxes, radar), points])
        boxes = Boxes3D.concatenated([sample.boxes, placed.boxes])
        return replace(sample, lidar_points=lidar, radar_points=radar, boxes=boxes)


def _without_overlap(boxes: Boxes3D, occupied: Boxes3D) -> NDArray[np.int64]:
    """The boxes that overlap nothing that is there, nor one of them that was kept before."""
    free = ~bev_overlaps(boxes, occupied).any(dim=1).numpy()
    overlaps = bev_overlaps(boxes, boxes).numpy()
    kept: list[int] = []
    for index in np.flatnonzero(free).tolist():
        if not overlaps[index, kept].any():
            kept.append(index)
    return np.array(kept, np.int64)


def _turned(boxes: Boxes3D, angles: Float32[Tensor, "M"]) -> Boxes3D:
    """Each box turned about the vehicle by an angle of its own: its place, its heading, its velocity."""
    cos, sin = angles.cos(), angles.sin()

    def turned(vectors: Float32[Tensor, "M 2"]) -> Float32[Tensor, "M 2"]:
        x, y = vectors.unbind(dim=1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)

    return replace(
        boxes,
        centers=torch.cat([turned(boxes.centers[:, :2]), boxes.centers[:, 2:]], dim=1),
        yaws=boxes.yaws + angles,
        velocities=turned(boxes.velocities),
    )


def _single(boxes: Boxes3D) -> list[Boxes3D]:
    return [boxes[torch.tensor([index])] for index in range(len(boxes))]


def _turned_returns(ego_from_box: Float64[Tensor, "4 4"], returns: Float32[Tensor, "R 19"]) -> Float32[Tensor, "R 19"]:
    """Radar returns from the box's frame to ego: places and velocities."""
    moved = moved_points(returns, ego_from_box)
    for column in _VELOCITIES:
        moved[:, column : column + 2] = returns[:, column : column + 2] @ ego_from_box[:2, :2].float().T
    return moved


def returns_in_box_frame(box: Boxes3D, returns: Float32[Tensor, "R 19"]) -> Float32[Tensor, "R 19"]:
    """Radar returns from ego to the frame of one box: what a database holds."""
    return _turned_returns(invert(from_yaw(float(box.yaws), box.centers[0].tolist())), returns)


def points_in_box_frame(box: Boxes3D, points: Float32[Tensor, "P C"]) -> Float32[Tensor, "P C"]:
    """LiDAR points from ego to the frame of one box: what a database holds."""
    return moved_points(points, invert(from_yaw(float(box.yaws), box.centers[0].tolist())))


def _outside(boxes: Boxes3D, points: Float32[Tensor, "P C"]) -> Float32[Tensor, "K C"]:
    """Only the points that lie in none of the boxes."""
    outside = torch.ones(len(points), dtype=torch.bool)
    outside[points_in_boxes(boxes, points).rows] = False
    return points[outside]
