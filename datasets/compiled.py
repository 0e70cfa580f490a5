"""Loops compiled by numba, with the types they were written with."""

import inspect
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function at its first call, for one thread; the machine code is kept on disk.

    Tables that may change with the source of another module must be arguments: numba would keep their old values.
    """
    # The tests wrap functions to check shapes; numba wants the function itself.
    made: Callable[P, T] = numba.njit(cache=True)(inspect.unwrap(function))
    return made


def _folder() -> Path:
    """Where machine code is kept: a folder for each state of all sources that are compiled.

    By itself numba looks at the file of a function alone, and would go on with what it once compiled from the other
    files that the function calls.
    """
    root = Path(__file__).parents[1]
    digest = sha256()
    for package in ("calibration", "datasets", "perception", "tools"):
        for source in sorted((root / package).rglob("*.py")):
            content = source.read_bytes()
            if b"import compiled" in content:
                digest.update(content)
    return Path(__file__).parent / "__pycache__" / f"compiled-{digest.hexdigest()[:16]}"


# Read by numba when a function is given to it; where the folder cannot be written, it takes one of the user's.
numba.config.CACHE_DIR = str(_folder())
