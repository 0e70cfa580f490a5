"""Which detection is which track's."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def associate(
    expected: Float64[Tensor, "T 2"],
    expected_labels: Int64[Tensor, "T"],
    found: Float64[Tensor, "M 2"],
    found_labels: Int64[Tensor, "M"],
    gates: Float64[Tensor, "T"],
) -> tuple[Int64[Tensor, "K"], Int64[Tensor, "K"]]:
    """Pairs (rows of tracks, rows of detections) of one class, nearer than the track's gate (metres).

    The sum over all tracks of the distance, or of the gate for one without a detection, is the least there is: a track
    that fits is not given up for the sake of two pairs that barely do.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second: not for commands that track nothing

    distances = torch.cdist(expected, found, compute_mode="donot_use_mm_for_euclid_dist")
    gains = gates[:, None] - distances
    gains[(expected_labels[:, None] != found_labels) | (gains <= 0)] = 0.0
    rows, columns = map(torch.from_numpy, linear_sum_assignment(gains.numpy(), maximize=True))
    paired = gains[rows, columns] > 0
    return rows[paired], columns[paired]
