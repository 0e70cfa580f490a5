"""Distances between annotated and predicted centres of each frame, to the last bit as the devkit has them.

The devkit asks scikit-learn's `euclidean_distances`, which squares coordinates of a kilometre before it subtracts:
of equal positions it may find 1e-5 m, and these count. What it finds also depends on which routine of the BLAS a
product of this shape gets. Hence the same product here, frame by frame; and once more for the box with the best
score, because at a high threshold that may be the only one of its frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from datasets.arrays import Array


@dataclass(frozen=True)
class FrameDistances:
    """Of F frames with A annotated boxes in all. Metres.

    `flat`: frame after frame the distances of its annotations (rows) to its predictions (columns), from `starts`
    (F) on. `to_best_alone` (A): the distance to the frame's best prediction where no other one is left.
    """

    flat: Float64[Array, "D"]
    starts: Int64[Array, "F"]
    to_best_alone: Float64[Array, "A"]


def frame_distances(
    truth: Float64[Array, "A 2"],
    truth_starts: Int64[Array, "E"],
    found: Float64[Array, "B 2"],
    found_starts: Int64[Array, "E"],
    scores: Float64[Array, "B"],
) -> FrameDistances:
    """Distances of the boxes of F frames (E: F + 1); those of frame f are the rows from `*_starts[f]` to the next."""
    sizes = np.diff(truth_starts) * np.diff(found_starts)
    starts = np.cumsum(sizes) - sizes
    flat = np.empty(int(sizes.sum()))
    alone = np.full(len(truth), np.nan)
    for frame in np.flatnonzero(sizes).tolist():
        rows = slice(int(truth_starts[frame]), int(truth_starts[frame + 1]))
        columns = slice(int(found_starts[frame]), int(found_starts[frame + 1]))
        flat[starts[frame] : starts[frame] + sizes[frame]] = _distances(truth[rows], found[columns]).ravel()
        best = columns.start + int(scores[columns].argmax())
        alone[rows] = _distances(truth[rows], found[best : best + 1])[:, 0]
    return FrameDistances(flat, starts, alone)


def _distances(a: Float64[Array, "_ 2"], b: Float64[Array, "_ 2"]) -> Float64[Array, "_ _"]:
    squared = -2 * (a @ b.T)
    squared += np.einsum("ij,ij->i", a, a)[:, None]
    squared += np.einsum("ij,ij->i", b, b)[None]
    return np.asarray(np.sqrt(np.maximum(squared, 0)))
