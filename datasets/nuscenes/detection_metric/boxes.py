"""What the metric compares, as columns: the samples of a split, its annotations, and detections."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from numpy.typing import NDArray

from datasets.arrays import Array

Boxes = TypeVar("Boxes", bound="BoxColumns")


@dataclass(frozen=True)
class EvaluatedSamples:
    """The S samples of a split: scene by scene, as the split names them, and by time.

    `scene` (S): rows of `scene_names`. `timestamp` (S): microseconds. `ego_translation` (S, 3): metres, global: the
    ego pose of the keyframe of LIDAR_TOP or, in a sample without one, of the keyframe closest in time.
    """

    tokens: tuple[str, ...]
    scene_names: tuple[str, ...]
    scene: Int32[Array, "S"]
    timestamp: Int64[Array, "S"]
    ego_translation: Float64[Array, "S 3"]

    def __len__(self) -> int:
        return len(self.tokens)

    def ego_distance(self, sample: Int32[Array, "N"], translation: Float64[Array, "N 3"]) -> Float64[Array, "N"]:
        """How far (m, in x and y) positions, each in a sample, are from the ego vehicle."""
        with np.errstate(over="ignore"):
            x, y = (translation[:, :2] - self.ego_translation[sample, :2]).T
            distance: NDArray[np.float64] = np.sqrt(x * x + y * y)
        return distance


@dataclass(frozen=True)
class BoxColumns:
    """N boxes, global. `sample`: rows of EvaluatedSamples. `label`: indices into DETECTION_CLASSES.

    `translation`, `size` (width, length, height): metres. `rotation`: (w, x, y, z), of any length but 0. `velocity`:
    m/s in x and y, NaN where unknown. `attribute`: indices into ATTRIBUTES, -1 for none. `ego_distance`: metres from
    the ego vehicle in x and y.
    """

    sample: Int32[Array, "N"]
    label: Int32[Array, "N"]
    translation: Float64[Array, "N 3"]
    size: Float64[Array, "N 3"]
    rotation: Float64[Array, "N 4"]
    velocity: Float64[Array, "N 2"]
    attribute: Int32[Array, "N"]
    ego_distance: Float64[Array, "N"]

    def __len__(self) -> int:
        return len(self.label)

    def take(self: Boxes, rows: Bool[Array, "N"] | Int64[Array, "K"]) -> Boxes:
        """The boxes that a mask (N) or rows (K) choose, in that order."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class TruthBoxes(BoxColumns):
    """Annotations of the ten classes, sample by sample and in the order of their table.

    `annotation`: rows within the scene's annotations in the index, `instance` and `visibility` rows of the index (-1:
    no visibility).
    """

    num_lidar_pts: Int64[Array, "N"]
    num_radar_pts: Int64[Array, "N"]
    annotation: Int32[Array, "N"]
    instance: Int32[Array, "N"]
    visibility: Int32[Array, "N"]

    @property
    def num_pts(self) -> Int64[Array, "N"]:
        """LiDAR and radar points in each box."""
        return np.asarray(self.num_lidar_pts + self.num_radar_pts)


@dataclass(frozen=True)
class DetectedBoxes(BoxColumns):
    """Detections in the order of the results file, which decides between equal scores.

    `num_pts`: points in the box, where a results file has such a field, otherwise -1.
    """

    score: Float64[Array, "N"]
    num_pts: Int64[Array, "N"]


@dataclass(frozen=True)
class BicycleRacks:
    """The R annotated bicycle racks, sample by sample: metres, (w, x, y, z), global."""

    sample: Int32[Array, "R"]
    translation: Float64[Array, "R 3"]
    size: Float64[Array, "R 3"]
    rotation: Float64[Array, "R 4"]


@dataclass(frozen=True)
class DetectionTruth:
    """The ground truth of a split, before any filter."""

    samples: EvaluatedSamples
    boxes: TruthBoxes
    racks: BicycleRacks


@dataclass(frozen=True)
class DetectionResults:
    """Detections of all samples of a split, before any filter.

    `meta`: as the file has it. `left_out`: how many samples the file has that are not in the split; official splits
    allow none.
    """

    meta: Mapping[str, Any]
    boxes: DetectedBoxes
    left_out: int
