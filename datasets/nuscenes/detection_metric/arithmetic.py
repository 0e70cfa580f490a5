"""The devkit's arithmetic on columns, to the last bit.

The devkit works box by box with NumPy, which hands products of vectors and matrices to the machine's linear algebra
library; how that rounds (fused multiply-adds or not) differs from machine to machine. np.matmul on stacked arrays
hands each one to the same routines. Source of each formula: nuscenes/eval/common/utils.py of nuscenes-devkit 1.2, and
pyquaternion 0.9.
"""

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from datasets.arrays import Array

# Rows that are worked on at once: their matrices take some megabytes.
_BLOCK = 1 << 15
_UNIT_TOLERANCE = 1e-14


def dots(first: Float64[Array, "N K"], second: Float64[Array, "N K"]) -> Float64[Array, "N"]:
    """Inner products, row by row."""
    products: NDArray[np.float64] = np.matmul(first[:, None, :], second[:, :, None])[:, 0, 0]
    return products


def norms(vectors: Float64[Array, "N K"]) -> Float64[Array, "N"]:
    """Lengths of vectors: np.linalg.norm of each."""
    lengths: NDArray[np.float64] = np.sqrt(dots(vectors, vectors))
    return lengths


def rotation_matrices(rotations: Float64[Array, "N 4"]) -> Float64[Array, "N 3 3"]:
    """pyquaternion's rotation_matrix of quaternions (w, x, y, z), which need not be of length 1."""
    squares = dots(rotations, rotations)
    lengths = np.where((np.abs(1.0 - squares) < _UNIT_TOLERANCE) | (squares <= 0), 1.0, np.sqrt(squares))
    w, x, y, z = (rotations / lengths[:, None]).T
    left = np.stack([w, -x, -y, -z, x, w, -z, y, y, z, w, -x, z, -y, x, w], axis=1).reshape(-1, 4, 4)
    right = np.stack([w, -x, -y, -z, x, w, z, -y, y, -z, w, x, z, y, -x, w], axis=1).reshape(-1, 4, 4)
    matrices: NDArray[np.float64] = np.matmul(left, right.transpose(0, 2, 1))[:, 1:, 1:]
    return matrices


def yaws(rotations: Float64[Array, "N 4"]) -> Float64[Array, "N"]:
    """Where rotations (w, x, y, z) turn the x axis to in the x-y plane, radians: `quaternion_yaw`."""
    parts = [np.zeros(0)]
    for start in range(0, len(rotations), _BLOCK):
        x_axes = np.matmul(rotation_matrices(rotations[start : start + _BLOCK]), np.array([1.0, 0.0, 0.0]))
        parts.append(np.arctan2(x_axes[:, 1], x_axes[:, 0]))
    return np.concatenate(parts)


def angle_differences(
    first: Float64[Array, "N"], second: Float64[Array, "N"], period: Float64[Array, "N"]
) -> Float64[Array, "N"]:
    """The smallest angles between directions that repeat after `period`, in [0, pi], radians: `yaw_diff`."""
    difference = (first - second + period / 2) % period - period / 2
    difference = np.where(difference > np.pi, difference - 2 * np.pi, difference)
    return np.asarray(np.abs(difference))


def scale_ious(first: Float64[Array, "N 3"], second: Float64[Array, "N 3"]) -> Float64[Array, "N"]:
    """IoU of boxes of two sizes, one placed upon the other: `scale_iou`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # sizes beyond all measure, as in the devkit
        intersection = _products(np.minimum(first, second))
        return np.asarray(intersection / (_products(first) + _products(second) - intersection))


def _products(sizes: Float64[Array, "N 3"]) -> Float64[Array, "N"]:
    return np.asarray(sizes[:, 0] * sizes[:, 1] * sizes[:, 2])


def cumulative_means(values: Float64[Array, "N"]) -> Float64[Array, "N"]:
    """The mean of all values up to each, without NaN: `cummean`. All 1 where all values are NaN."""
    unknown = np.isnan(values)
    if unknown.all():
        return np.ones(len(values))
    sums, counts = np.nancumsum(values), np.cumsum(~unknown)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.zeros_like(sums), where=counts != 0)
    return means
