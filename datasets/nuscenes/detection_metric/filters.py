"""Which boxes count: the devkit's `filter_eval_boxes`."""

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy.typing import NDArray

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.arithmetic import dots, rotation_matrices
from datasets.nuscenes.detection_metric.boxes import BicycleRacks, DetectedBoxes, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import CLASS_RANGES, CYCLES

_RANGES = np.array([CLASS_RANGES[name] for name in DETECTION_CLASSES], dtype=np.float64)
_IS_CYCLE = np.array([name in CYCLES for name in DETECTION_CLASSES])
# The corners of a box in halves of (length, width, height): the first, and its neighbours along x, y and z.
_CORNERS = np.array(
    [[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, -1, 1, 1, -1, -1, 1], [1, 1, -1, -1, 1, 1, -1, -1]], dtype=np.float64
)
_FIRST, _ALONG_X, _ALONG_Y, _ALONG_Z = 0, 4, 1, 3


def counted(boxes: TruthBoxes | DetectedBoxes, racks: BicycleRacks) -> Bool[Array, "N"]:
    """The boxes nearer to the ego vehicle than their class's range, not known to be without any LiDAR or radar point,
    and no cycles with their centre in a bicycle rack.
    """
    kept: NDArray[np.bool_] = (boxes.ego_distance < _RANGES[boxes.label]) & (boxes.num_pts != 0)
    cycles = np.flatnonzero(kept & _IS_CYCLE[boxes.label])
    kept[cycles[in_a_rack(boxes.sample[cycles], boxes.translation[cycles], racks)]] = False
    return kept


def in_a_rack(sample: Int[Array, "K"], center: Float64[Array, "K 3"], racks: BicycleRacks) -> Bool[Array, "K"]:
    """Which centres (metres, global), each in a sample, are in or on a rack of that sample."""
    first, last = (np.searchsorted(racks.sample, sample, side=side) for side in ("left", "right"))
    counts = last - first
    of_pair = np.repeat(np.arange(len(sample)), counts)
    rack = np.arange(len(of_pair)) - np.repeat(np.cumsum(counts) - counts, counts) + first[of_pair]
    half = racks.size[:, [1, 0, 2]] / 2
    corners = np.matmul(rotation_matrices(racks.rotation), half[:, :, None] * _CORNERS)
    corners = (corners + racks.translation[:, :, None])[rack]
    origin = corners[:, :, _FIRST]
    offset = center[of_pair] - origin
    inside = np.ones(len(rack), dtype=np.bool_)
    for neighbour in (_ALONG_X, _ALONG_Y, _ALONG_Z):
        edge = corners[:, :, neighbour] - origin
        along = dots(edge, offset)
        inside &= (along >= 0) & (along <= dots(edge, edge))
    return np.bincount(of_pair[inside], minlength=len(sample)) > 0
