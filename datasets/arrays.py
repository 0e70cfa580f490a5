"""The NumPy array type of shape annotations, for example `Float32[Array, "P 3"]`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Array = npt.NDArray[Any]
else:
    # The plain class: the tests' shape checker wants one, and from numpy 2.5 on NDArray is an alias that jaxtyping
    # refuses at import.
    Array = np.ndarray
