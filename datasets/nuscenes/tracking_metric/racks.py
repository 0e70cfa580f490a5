"""Bicycle racks: what stands in one is neither to be found nor counted as found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from calibration.transforms import from_quaternion
from datasets.nuscenes.index.records import Array, NuScenesIndex, SceneRecords

_CATEGORY = "static_object.bicycle_rack"


@dataclass(frozen=True)
class Rack:
    """A bicycle rack: centre (global, metres), half its length, width and height, and its axes as columns."""

    center: Float64[Array, "3"]
    half_lwh: Float64[Array, "3"]
    axes: Float64[Array, "3 3"]


def racks_of_sample(index: NuScenesIndex, scene: SceneRecords, sample: int) -> list[Rack]:
    """The racks annotated in a sample (its row in the scene)."""
    if _CATEGORY not in index.categories:
        return []
    records = scene.annotations
    first, last = scene.samples.first_annotation[sample : sample + 2].tolist()
    category = index.category_of_instance[records.instance[first:last]]
    racks = []
    for row in (first + np.flatnonzero(category == index.categories.index(_CATEGORY))).tolist():
        axes = from_quaternion(records.rotation[row].tolist(), (0.0, 0.0, 0.0))[:3, :3].numpy()
        racks.append(Rack(records.translation[row], records.size[row, [1, 0, 2]] / 2, axes))
    return racks


def inside_any(racks: Sequence[Rack], point: Float64[Array, "3"]) -> bool:
    """Whether a point (global) lies in one of the racks; on a face counts."""
    return any(bool((np.abs((point - rack.center) @ rack.axes) <= rack.half_lwh).all()) for rack in racks)
