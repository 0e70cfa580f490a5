"""Which points lie in which boxes: exact, in one pass over the points.

A raster in the x-y plane lists for each cell the boxes that reach into it; a point is tested against those of its own
cell alone, of which there are none for most.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.compiled import compiled

_CELL = 2.0  # metres
_LARGEST = 1e15  # no length or position in metres comes near it
_MAX_CELLS_A_SIDE = 512  # of boxes that lie far apart, in larger cells


@dataclass(frozen=True)
class PointsInBoxes:
    """The points of each of M boxes, box after box: those of box m are rows[starts[m] : starts[m + 1]], rising."""

    starts: Int64[Tensor, "_"]
    rows: Int64[Tensor, "K"]

    @property
    def counts(self) -> Int64[Tensor, "M"]:
        """How many points each box holds."""
        return self.starts.diff()

    def of(self, box: int) -> Int64[Tensor, "_"]:
        """The rows of the points in one box."""
        return self.rows[int(self.starts[box]) : int(self.starts[box + 1])]


def points_in_boxes(boxes: Boxes3D, points: Float[Tensor, "P C"]) -> PointsInBoxes:
    """The points (x, y, z and any columns behind them, in the boxes' frame) that lie in each box.

    Points on a face count as inside. The arithmetic is float64 whatever the dtypes; the result is that of
    `Boxes3D.points_inside` in float64. A point that is not finite lies in no box, and a box with a number beyond 1e15
    holds none. Raises ValueError for tensors that are not on the CPU.
    """
    devices = {boxes.centers.device.type, points.device.type}
    if devices != {"cpu"}:
        raise ValueError(f"points_in_boxes works on the CPU only, not on {', '.join(sorted(devices))}")
    geometry = torch.cat([boxes.centers, boxes.sizes_wlh / 2, boxes.yaws[:, None]], dim=1).double().numpy()
    turns = np.stack([boxes.yaws.double().cos().numpy(), boxes.yaws.double().sin().numpy()], axis=1)
    if len(boxes) == 0 or len(points) == 0:
        return PointsInBoxes(torch.zeros(len(boxes) + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    # A box that is not finite, or so large that its extent is not, holds no point and has no place in the raster.
    geometry[~(np.abs(geometry) <= _LARGEST).all(axis=1)] = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0, 0.0)
    reach = np.hypot(geometry[:, 3], geometry[:, 4]) + 1e-3
    lows, highs = geometry[:, :2] - reach[:, None], geometry[:, :2] + reach[:, None]
    low, high = lows.min(axis=0), highs.max(axis=0)
    cell = max(_CELL, float((high - low).max()) / _MAX_CELLS_A_SIDE)
    first = np.floor((lows - low) / cell).astype(np.int64)
    last = np.floor((highs - low) / cell).astype(np.int64)
    shape = last.max(axis=0) + 1
    cell_starts, boxes_of_cell = _rasterise(first, last, shape)
    starts, rows = _find(points.numpy(), geometry, turns, low, cell, shape, cell_starts, boxes_of_cell)
    return PointsInBoxes(torch.from_numpy(starts), torch.from_numpy(rows))


@compiled
def _rasterise(
    first: NDArray[np.int64], last: NDArray[np.int64], shape: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes by cell: those of cell c are boxes_of_cell[cell_starts[c] : cell_starts[c + 1]]."""
    cell_starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
    for box in range(first.shape[0]):
        for x in range(first[box, 0], last[box, 0] + 1):
            for y in range(first[box, 1], last[box, 1] + 1):
                cell_starts[x * shape[1] + y + 1] += 1
    cell_starts = np.cumsum(cell_starts)
    boxes_of_cell = np.empty(cell_starts[-1], np.int64)
    free = cell_starts.copy()
    for box in range(first.shape[0]):
        for x in range(first[box, 0], last[box, 0] + 1):
            for y in range(first[box, 1], last[box, 1] + 1):
                boxes_of_cell[free[x * shape[1] + y]] = box
                free[x * shape[1] + y] += 1
    return cell_starts, boxes_of_cell


@compiled
def _find(
    points: NDArray[np.floating[Any]],
    geometry: NDArray[np.float64],
    turns: NDArray[np.float64],
    low: NDArray[np.float64],
    cell: float,
    shape: NDArray[np.int64],
    cell_starts: NDArray[np.int64],
    boxes_of_cell: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and rows of PointsInBoxes. geometry (M, 7): centre, half of width, length and height, yaw."""
    counts = np.zeros(geometry.shape[0], np.int64)
    pairs = np.empty((1024, 2), np.int64)
    found = 0
    width, height = shape[0] * cell, shape[1] * cell
    for row in range(points.shape[0]):
        x, y, z = np.float64(points[row, 0]), np.float64(points[row, 1]), np.float64(points[row, 2])
        east, north = x - low[0], y - low[1]
        if not (0.0 <= east < width and 0.0 <= north < height):
            continue
        column, line = min(int(east / cell), shape[0] - 1), min(int(north / cell), shape[1] - 1)
        place = column * shape[1] + line
        for entry in range(cell_starts[place], cell_starts[place + 1]):
            box = boxes_of_cell[entry]
            dx, dy, dz = x - geometry[box, 0], y - geometry[box, 1], z - geometry[box, 2]
            cos, sin = turns[box, 0], turns[box, 1]
            along, across = cos * dx + sin * dy, -sin * dx + cos * dy
            if abs(along) <= geometry[box, 4] and abs(across) <= geometry[box, 3] and abs(dz) <= geometry[box, 5]:
                if found == pairs.shape[0]:
                    longer = np.empty((2 * found, 2), np.int64)
                    longer[:found] = pairs
                    pairs = longer
                pairs[found, 0], pairs[found, 1] = box, row
                counts[box] += 1
                found += 1
    starts = np.zeros(geometry.shape[0] + 1, np.int64)
    starts[1:] = np.cumsum(counts)
    rows, free = np.empty(found, np.int64), starts.copy()
    for pair in range(found):
        rows[free[pairs[pair, 0]]] = pairs[pair, 1]
        free[pairs[pair, 0]] += 1
    return starts, rows
