"""A camera that shakes, and dirt on its lens."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from datasets.arrays import Array
from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.pictures import Picture, as_bytes, with_changed_pictures
from datasets.frames import LogFrame

# Blue, green, red of dried mud, and how much of it comes through.
_MUD, _THROUGH = (38.0, 52.0, 66.0), 0.06
# The coarsest spots' number across a picture, and how much of the next finer ones is mixed in, twice.
_SPOTS, _FINER = 6, 0.55
# The dirt is drawn on so many cells across a picture, its edges as soft as so many of them.
_CELLS, _SOFT = 400, 1.5


@dataclass(frozen=True)
class MotionBlurred:
    """Pictures blurred along a line of `length` (a share of their width), up to 45 degrees from the horizontal."""

    length: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.length == 0:
            return frame

        def blurred(channel: str, pixels: Picture) -> Picture:
            angle = generator_of(seed, "motion", frame.token, channel).uniform(-math.pi / 4, math.pi / 4)
            kernel = line_kernel(self.length * pixels.shape[1], angle)
            return np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.uint8)

        return with_changed_pictures(frame, blurred)


@dataclass(frozen=True)
class Dirty:
    """Dirt on the lenses covers `share` of each picture: soft spots, out of focus, the same ones for a whole scene."""

    share: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.share == 0:
            return frame

        def dirty(channel: str, pixels: Picture) -> Picture:
            draws = generator_of(seed, "dirt", frame.scene_name, channel)
            height, width = pixels.shape[:2]
            rows, columns = math.ceil(height * _CELLS / width), _CELLS
            field = clouds(rows, columns, _SPOTS, _FINER, draws)
            thickness = (field - np.quantile(field, 1.0 - self.share)) / field.std()
            # Dirt is far out of focus: its edges are soft. What is thick is dark.
            cover = cv2.GaussianBlur(np.clip(thickness / 0.12 + 0.5, 0.0, 1.0), (0, 0), _SOFT)
            mud = np.clip(1.25 - 0.35 * thickness, 0.6, 1.4)
            cover, mud = (cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in (cover, mud))
            # Light from all over the picture reaches what is so near to the lens.
            light = np.array(_MUD, np.float32) * np.float32(0.3 + pixels.mean() / 180.0)
            cover = np.clip(cover, 0.0, 1.0)[..., None] * np.float32(1.0 - _THROUGH)
            return as_bytes(pixels * (1.0 - cover) + light * mud[..., None] * cover)

        return with_changed_pictures(frame, dirty)


def line_kernel(length: float, angle: float) -> Float32[Array, "K K"]:
    """An anti-aliased line of so many pixels through the middle of a kernel that sums to 1; `angle` in radians."""
    half = length / 2.0
    size = 2 * math.ceil(half) + 1
    kernel = np.zeros((size, size), np.float32)
    middle = size // 2
    # Each of many points on the line shares itself out among its four neighbours.
    for step in np.linspace(-half, half, 4 * size):
        u, v = middle + step * math.cos(angle), middle + step * math.sin(angle)
        left, top = min(int(u), size - 1), min(int(v), size - 1)
        right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
        for row, column, share in (
            (top, left, (1 - (u - left)) * (1 - (v - top))),
            (top, right, (u - left) * (1 - (v - top))),
            (bottom, left, (1 - (u - left)) * (v - top)),
            (bottom, right, (u - left) * (v - top)),
        ):
            kernel[row, column] += share
    return np.asarray(kernel / kernel.sum(), np.float32)


def clouds(height: int, width: int, across: int, finer: float, draws: np.random.Generator) -> Float32[Array, "H W"]:
    """Smooth noise with about `across` spots to a picture's width, and twice as fine ones, twice, by `finer` each."""
    field = np.zeros((height, width), np.float32)
    for octave in range(3):
        columns = across * 2**octave
        rows = max(round(columns * height / width), 1)
        grid = draws.standard_normal((rows + 2, columns + 2)).astype(np.float32)
        field += finer**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return field
