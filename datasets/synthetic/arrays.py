"""The NumPy array type of shape annotations, for example `Float32[Array, "P 3"]`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Array = npt.NDArray[Any]
else:
    # The shape checker of the tests wants the plain class.
    Array = np.ndarray
