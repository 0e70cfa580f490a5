"""Fog, rain and snow in pictures that were taken in clear air.

All of them veil what is far: of a contrast exp(-extinction d) is left after d metres, the rest is the light of the air
(Koschmieder), for which the picture's bright parts stand. Distances: datasets/corruptions/picture_depth.py.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from datasets.arrays import Array
from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.lens import line_kernel
from datasets.corruptions.lidar_weather import rain_extinction
from datasets.corruptions.picture_depth import airlight, picture_distances
from datasets.corruptions.pictures import REFERENCE_WIDTH, Picture, as_bytes, with_changed_pictures
from datasets.frames import LogFrame

# The guided filter's window, in cells of the map of distances, and what it takes for a flat part of the picture.
_WINDOW, _FLATNESS = 9, 1e-3
# Streaks of rain: their length in pixels of a picture 1600 wide, their width, the share of all of them, how opaque.
_STREAKS = ((22.0, 0.7, 0.7, 0.5), (55.0, 1.2, 0.3, 0.6))


@dataclass(frozen=True)
class PictureFog:
    """Fog of so much extinction (1/m)."""

    extinction: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.extinction == 0:
            return frame
        return with_changed_pictures(
            frame, lambda channel, pixels: as_bytes(_veiled(pixels, frame, channel, self.extinction))
        )


@dataclass(frozen=True)
class PictureRain:
    """Rain: streaks over `share` of a picture, and the veil of so many millimetres an hour."""

    share: float
    rain_rate: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.share == 0 and self.rain_rate == 0:
            return frame
        # Wind and the vehicle's own speed: all drops of an instant fall alike.
        slant = generator_of(seed, "rain", frame.token).uniform(-0.2, 0.2)

        def rainy(channel: str, pixels: Picture) -> Picture:
            veiled = _veiled(pixels, frame, channel, rain_extinction(self.rain_rate))
            streaks = _streaks(pixels, self.share, slant, generator_of(seed, "rain", frame.token, channel))
            # Drops are lenses: they show the bright sky upside down.
            return as_bytes(veiled + streaks[..., None] * np.maximum(1.25 * airlight(pixels) - veiled, 0.0))

        return with_changed_pictures(frame, rainy)


@dataclass(frozen=True)
class PictureSnow:
    """Snow as ImageNet-C has it (Hendrycks and Dietterich 2019), in its order of parameters.

    Normal noise of `mean` and `deviation`, enlarged `zoom` times, what is above `threshold` blurred along a line by a
    half normal of `blur_radius` pixels and `blur_deviation`; put over the picture, and once more upside down, of which
    1 - `kept` has been whitened. Pixels are those of a picture 1600 wide.
    """

    mean: float
    deviation: float
    zoom: float
    threshold: float
    blur_radius: float
    blur_deviation: float
    kept: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.kept == 1 and self.deviation == 0:
            return frame
        slant = generator_of(seed, "snow", frame.token).uniform(-math.pi / 4, math.pi / 4)

        def snowy(channel: str, pixels: Picture) -> Picture:
            flakes = self._flakes(pixels, slant, generator_of(seed, "snow", frame.token, channel))
            light = pixels.astype(np.float32) / 255.0
            grey = light @ np.array([0.114, 0.587, 0.299], np.float32)
            whitened = np.maximum(light, 1.5 * grey[..., None] + 0.5)
            snow = (flakes + flakes[::-1, ::-1])[..., None]
            return as_bytes(255.0 * (self.kept * light + (1.0 - self.kept) * whitened + snow))

        return with_changed_pictures(frame, snowy)

    def _flakes(self, pixels: Picture, slant: float, draws: np.random.Generator) -> Float32[Array, "H W"]:
        """Made at the reference's size and shrunk: noise of fewer pixels would be more of it."""
        height, width = pixels.shape[:2]
        full = REFERENCE_WIDTH, round(REFERENCE_WIDTH * height / width)
        rows, columns = math.ceil(full[1] / self.zoom), math.ceil(full[0] / self.zoom)
        noise = np.float32(self.mean) + np.float32(self.deviation) * draws.standard_normal((rows, columns), np.float32)
        flakes = cv2.resize(noise, full, interpolation=cv2.INTER_LINEAR)
        flakes[flakes < self.threshold] = 0.0
        taps = np.arange(2 * round(self.blur_radius) + 1)
        weights = np.exp(-0.5 * (taps / self.blur_deviation) ** 2).astype(np.float32)
        blurred = cv2.filter2D(np.clip(flakes, 0.0, 1.0), -1, _falling(weights / weights.sum(), slant))
        return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _veiled(pixels: Picture, frame: LogFrame, channel: str, extinction: float) -> Float32[Array, "H W 3"]:
    """The picture, 0..255, through so much air."""
    left = np.exp(-extinction * picture_distances(frame, channel, pixels))
    grey = pixels.astype(np.float32).mean(axis=2) / 255.0
    left = np.clip(_along_edges(left, grey), 0.0, 1.0)[..., None]
    return np.asarray(pixels * left + airlight(pixels) * (1.0 - left), np.float32)


def _along_edges(coarse: Float32[Array, "h w"], guide: Float32[Array, "H W"]) -> Float32[Array, "H W"]:
    """A coarse map in the guide's size and with its edges: the guided filter (He, Sun and Tang 2013; He and Sun 2015).

    Around each cell the map is taken to be a linear function of the guide.
    """
    small = cv2.resize(guide, coarse.shape[::-1], interpolation=cv2.INTER_AREA)

    def mean(values: Float32[Array, "h w"]) -> Float32[Array, "h w"]:
        return np.asarray(cv2.blur(values, (_WINDOW, _WINDOW)), np.float32)

    slope = (mean(small * coarse) - mean(small) * mean(coarse)) / (mean(small * small) - mean(small) ** 2 + _FLATNESS)
    offset = mean(coarse) - slope * mean(small)
    size = guide.shape[::-1]
    slope, offset = (cv2.resize(mean(part), size, interpolation=cv2.INTER_LINEAR) for part in (slope, offset))
    return np.asarray(slope * guide + offset, np.float32)


def _streaks(pixels: Picture, share: float, slant: float, draws: np.random.Generator) -> Float32[Array, "H W"]:
    """How much of each pixel is covered by drops that fall while the shutter is open, 0..1."""
    height, width = pixels.shape[:2]
    scale = width / REFERENCE_WIDTH
    clear = np.ones((height, width), np.float32)
    for length, thickness, part, opacity in _STREAKS:
        # One drop becomes a streak of `length` pixels.
        count = round(share * part * height * width / max(length * scale, 1.0))
        drops = np.zeros((height, width), np.float32)
        drops[draws.integers(0, height, count), draws.integers(0, width, count)] = 1.0
        kernel = line_kernel(max(length * scale, 1.0), math.pi / 2 + slant)
        covered = cv2.filter2D(drops, -1, kernel / kernel.max(), borderType=cv2.BORDER_REFLECT)
        covered = cv2.GaussianBlur(covered, (0, 0), max(thickness * scale, 0.3))
        clear *= 1.0 - np.clip(opacity * covered, 0.0, opacity)
    return np.asarray(1.0 - clear, np.float32)


def _falling(weights: Float32[Array, "K"], slant: float) -> Float32[Array, "N N"]:
    """A kernel with these weights one pixel after the other, from the middle downwards, `slant` radians off plumb."""
    reach = len(weights)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step, weight in enumerate(weights):
        kernel[reach + round(step * math.cos(slant)), reach + round(step * math.sin(slant))] += weight
    return kernel
