"""Random numbers as a function of the place: the same wherever and whenever it is looked at (value noise)."""

import math

from datasets.compiled import compiled


@compiled
def _hashed(i: int, j: int, k: int) -> float:
    """0..1 from three whole numbers: multiply by odd constants, mix high bits into low ones."""
    mixed = (i * 374761393 + j * 668265263 + k * 1440662683) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF) * (1.0 / 65535.0)


@compiled
def cell_noise(x: float, y: float, z: float) -> float:
    """A random number in 0..1 for each unit cell of space."""
    return _hashed(math.floor(x), math.floor(y), math.floor(z))


@compiled
def smooth_noise(x: float, y: float, layer: int) -> float:
    """0..1, varying smoothly over about a unit of x and y; each layer is another pattern."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    below = _hashed(i, j, layer) * (1 - u) + _hashed(i + 1, j, layer) * u
    above = _hashed(i, j + 1, layer) * (1 - u) + _hashed(i + 1, j + 1, layer) * u
    return below * (1 - v) + above * v


@compiled
def fractal_noise(x: float, y: float, layer: int, octaves: int) -> float:
    """0..1: smooth noise of several scales, each half as large and half as strong as the one before."""
    total, weight, size = 0.0, 0.0, 1.0
    for octave in range(octaves):
        total += size * smooth_noise(x, y, layer + octave)
        weight += size
        size *= 0.5
        x, y = 2 * x + 17.3, 2 * y + 9.1
    return total / weight
