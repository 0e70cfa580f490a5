"""Numbers in steps."""

import numpy as np

from datasets.arrays import Array


def on_grid(values: Array, step: float) -> Array:
    """Each value rounded to the nearest multiple of a step."""
    return np.asarray(np.round(values / step) * step)
