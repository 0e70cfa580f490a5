"""The loops of voxelisation on a CPU, compiled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.compiled import compiled

_RADIX_BITS = 11  # the 2048 counters of a pass stay in the first cache
_RADIX = 1 << _RADIX_BITS
# A voxel's number and a point's row share 63 bits.
_ROW_BITS = 24
MAX_POINTS, MAX_VOXELS = 1 << _ROW_BITS, 1 << (63 - _ROW_BITS)


@compiled
def voxels_of_points(
    points: NDArray[np.float32],
    samples: NDArray[np.int64],
    origin: NDArray[np.float32],
    sizes: NDArray[np.float32],
    batch_size: int,
    layers: int,
    rows: int,
    columns: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What `voxelize` finds out about points (P, C) of samples (P): the indices (V, 4; int32) of their voxels in
    rising order, the rows of the points in range, voxel after voxel, the voxel of each of these, points in each voxel.

    For fewer than MAX_POINTS points and MAX_VOXELS cells. float32 as on any device: in which cell a point on an edge
    lies depends on it.
    """
    packed = np.empty(points.shape[0], np.int64)
    count = 0
    for row in range(points.shape[0]):
        x = (points[row, 0] - origin[0]) / sizes[0]
        y = (points[row, 1] - origin[1]) / sizes[1]
        z = (points[row, 2] - origin[2]) / sizes[2]
        # Compared as floats: a NaN or an infinity has no integer. What is not negative is cut to its floor below.
        if not (0 <= x < columns and 0 <= y < rows and 0 <= z < layers):
            continue
        # Nothing finite times zero is zero, everything else NaN.
        zero = points[row, 0] * 0
        for column in range(3, points.shape[1]):
            zero += points[row, column] * 0
        if zero == 0:
            key = ((samples[row] * layers + np.int64(z)) * rows + np.int64(y)) * columns + np.int64(x)
            packed[count] = (key << _ROW_BITS) | row
            count += 1
    packed, spare = _sorted(packed[:count], batch_size * layers * rows * columns)
    return _runs(packed, spare, layers, rows, columns)


@compiled
def _sorted(packed: NDArray[np.int64], keys: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In rising order of the keys, equal ones as they came: a radix sort from the keys' lowest digit to the highest.

    Also the memory that it worked in: fresh memory costs more than the sort.
    """
    spare = np.empty_like(packed)
    places = np.empty(_RADIX + 1, np.int64)
    shift, highest = _ROW_BITS, keys - 1
    while highest > 0:
        places[:] = 0
        for entry in range(packed.shape[0]):
            places[((packed[entry] >> shift) & (_RADIX - 1)) + 1] += 1
        for digit in range(_RADIX):
            places[digit + 1] += places[digit]
        for entry in range(packed.shape[0]):
            digit = (packed[entry] >> shift) & (_RADIX - 1)
            spare[places[digit]] = packed[entry]
            places[digit] += 1
        packed, spare = spare, packed
        shift, highest = shift + _RADIX_BITS, highest >> _RADIX_BITS
    return packed, spare


@compiled
def _runs(
    packed: NDArray[np.int64], spare: NDArray[np.int64], layers: int, rows: int, columns: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs of equal keys are voxels. Overwrites both arrays and returns them as the points' rows and voxels."""
    voxels = 0
    for entry in range(packed.shape[0]):
        if entry == 0 or packed[entry] >> _ROW_BITS != packed[entry - 1] >> _ROW_BITS:
            voxels += 1
    indices, counts = np.empty((voxels, 4), np.int32), np.zeros(voxels, np.int64)
    voxel, previous = -1, -1
    for entry in range(packed.shape[0]):
        key = packed[entry] >> _ROW_BITS
        spare[entry] = packed[entry] & (MAX_POINTS - 1)
        if key != previous:
            voxel, previous = voxel + 1, key
            line, layer = key // columns, key // columns // rows
            indices[voxel, 0], indices[voxel, 1] = layer // layers, layer % layers
            indices[voxel, 2], indices[voxel, 3] = line % rows, key % columns
        packed[entry] = voxel
        counts[voxel] += 1
    return indices, spare, packed, counts


@compiled
def row_means(values: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    """Means (V, K) of consecutive rows of values (P, K), counts (V; at least one) at a time."""
    means = np.zeros((counts.shape[0], values.shape[1]), values.dtype)
    row = 0
    for voxel in range(counts.shape[0]):
        for _ in range(counts[voxel]):
            for column in range(values.shape[1]):
                means[voxel, column] += values[row, column]
            row += 1
        for column in range(values.shape[1]):
            means[voxel, column] /= counts[voxel]
    return means
