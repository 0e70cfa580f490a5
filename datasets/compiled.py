"""Loops compiled by numba, with the types they were written with."""

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function at its first call, for one thread; the machine code is kept on disk beside the source.

    Tables that may change with the source of another module must be arguments: numba would keep their old values.
    """
    # The tests wrap functions to check shapes; numba wants the function itself.
    made: Callable[P, T] = njit(cache=True)(inspect.unwrap(function))
    return made
