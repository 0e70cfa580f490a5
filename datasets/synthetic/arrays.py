"""The NumPy array type of shape annotations, for example `Float32[Array, "P 3"]`; and numbers in steps."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Array = npt.NDArray[Any]
else:
    # The shape checker of the tests wants the plain class.
    Array = np.ndarray


def on_grid(values: Array, step: float) -> Array:
    """Each value rounded to the nearest multiple of a step."""
    return np.asarray(np.round(values / step) * step)
