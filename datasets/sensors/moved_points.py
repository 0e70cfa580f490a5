"""Points in another frame: their place moves, whatever else is known of them stays."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from datasets.compiled import compiled


def moved_points(points_b: Float32[Tensor, "P C"], a_from_b: Float64[Tensor, "4 4"]) -> Float32[Tensor, "P C"]:
    """Points (x, y, z and any columns behind them) from b to a, on the CPU. The arithmetic is float64; `a_from_b` may
    be any affine matrix, a scale or a mirror too.
    """
    moved = torch.empty(points_b.shape)
    _move(points_b.numpy(), a_from_b.numpy(), moved.numpy())
    return moved


@compiled
def _move(points: NDArray[Any], matrix: NDArray[np.float64], moved: NDArray[np.float32]) -> None:
    m = matrix
    for row in range(points.shape[0]):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        moved[row, 0] = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
        moved[row, 1] = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
        moved[row, 2] = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        for column in range(3, points.shape[1]):
            moved[row, column] = points[row, column]
