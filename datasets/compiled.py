"""Loops compiled by numba, with the types they were written with."""

import inspect
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

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


def compiled_in_lanes(function: Callable[P, T]) -> Callable[P, T]:
    """`compiled`, and the same arithmetic on numbers side by side, as on x, y and z, becomes one instruction on several
    (LLVM's superword-level parallelism). Each number is rounded as before: results are the same to the bit.

    For single functions whose results a test compares to the bit: numba leaves this off by default since older LLVMs
    got it wrong in places (its pull request 8852).
    """
    made: Any = compiled(function)
    compile_signature = made.compile

    def compile_in_lanes(signature: object) -> object:
        # numba asks for this when it compiles, and has no such option of a single function.
        default = numba.config.SLP_VECTORIZE
        numba.config.SLP_VECTORIZE = 1
        try:
            return compile_signature(signature)
        finally:
            numba.config.SLP_VECTORIZE = default

    made.compile = compile_in_lanes
    in_lanes: Callable[P, T] = made
    return in_lanes


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
