"""A `.npy` file in memory, read only after its header is compared with what follows it."""

import io
import math
import tokenize
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npy(content: bytes, dtypes: Collection[str]) -> NDArray[Any]:
    """The array of a `.npy` file (version 1.0) of one of these dtypes ("float32", ...), its numbers copied.

    Nothing is allocated for what a header merely claims. Raises ValueError for anything else than such a file.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    if version != (1, 0):
        raise ValueError(f"a .npy file of version {version}")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
    except (SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        # The header is a Python literal: a damaged one fails in all the ways that a literal can.
        raise ValueError(f"a .npy file whose header is not understood: {error}") from None
    if dtype.name not in dtypes:
        raise ValueError(f"a .npy file of {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"a .npy file that announces {shape} numbers and holds {len(content) - file.tell()} bytes")
    numbers = np.frombuffer(content, dtype=dtype, offset=file.tell())
    return numbers.reshape(shape, order="F" if fortran_order else "C").copy()
