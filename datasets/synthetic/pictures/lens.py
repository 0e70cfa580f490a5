"""From the light in front of a camera to the file: optics, exposure, noise, drops on the lens, JPEG."""

import math

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt32

from datasets.arrays import Array
from datasets.compiled import compiled

_JPEG_QUALITY = 90
# How far exposure may go from 1.
_EXPOSURE_RANGE = (0.4, 20.0)
# The share of the light of what is too bright for the sensor that spreads around it.
_BLOOM = 0.12
# Noise of one picture value at gain 1: constant, and growing with the root of the signal (of 255).
_READ_NOISE, _SHOT_NOISE = 0.9, 0.09
# Linear light (0..2 in even steps) to what a picture stores, 0..255: a shoulder holds back what is bright.
_STEPS, _BRIGHTEST = 4096, 2.0
_LIGHT = np.linspace(0.0, _BRIGHTEST, _STEPS)
_TONES = (np.where(_LIGHT < 0.6, _LIGHT, 0.6 + 0.4 * (1 - np.exp((0.6 - _LIGHT) / 0.4))) ** (1 / 2.2) * 255.0).astype(
    np.float32
)

Linear = Float32[Array, "H W 3"]


def photograph(
    light: Linear, brightness: float, gain: float, drops: int, rng: np.random.Generator
) -> UInt8[Array, "H W 3"]:
    """The picture (blue, green, red) that a camera takes of linear red, green, blue light.

    It exposes for a mean of `brightness`; `gain` makes noise, `drops` of water are on the lens.
    """
    blurred = cv2.GaussianBlur(light, (0, 0), max(light.shape[1] / 2400.0, 0.25))
    if drops:
        blurred = _through_drops(blurred, drops, rng)
    # Lamps must not make everything else dark.
    mean = float(np.minimum(light[::4, ::4], 1.0).mean())
    exposure = float(np.clip(brightness / max(mean, 1e-6), *_EXPOSURE_RANGE))
    halos = _halos(blurred, exposure)
    chance = rng.integers(0, 2**32, size=light.shape, dtype=np.uint32)
    return _develop(blurred, halos, exposure, gain**0.5, chance, _TONES)


@compiled
def _develop(
    light: Linear,
    halos: Linear,
    exposure: float,
    noise: float,
    chance: UInt32[Array, "H W 3"],
    tones: Float32[Array, "K"],
) -> UInt8[Array, "H W 3"]:
    """Exposed light and halos as blue, green, red with noise.

    The sum of the four bytes of a random number is near enough to a normal distribution.
    """
    height, width, _ = light.shape
    picture = np.empty((height, width, 3), np.uint8)
    steps = (len(tones) - 1) / _BRIGHTEST
    for row in range(height):
        for column in range(width):
            for channel in range(3):
                value = light[row, column, channel] * exposure + halos[row, column, channel]
                tone = tones[int(min(max(value * steps, 0.0), len(tones) - 1.0))]
                bits = chance[row, column, channel]
                drawn = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
                # Four bytes have a mean of 510 and a standard deviation of 148.
                spread = noise * (_READ_NOISE + _SHOT_NOISE * math.sqrt(tone))
                tone += spread * (np.float64(drawn) - 510.0) / 148.0
                picture[row, column, 2 - channel] = np.uint8(min(max(tone + 0.5, 0.0), 255.0))
    return picture


def encode(picture: UInt8[Array, "H W 3"]) -> bytes:
    """As JPEG."""
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def _halos(light: Linear, exposure: float) -> Linear:
    """What is beyond the sensor's range, spread over a few per cent of the picture."""
    height, width = light.shape[:2]
    small = cv2.resize(light[::2, ::2], (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    small = np.clip(small * np.float32(exposure) - 1.0, 0.0, 20.0)
    if not small.any():
        return np.zeros_like(light)
    near, far = (cv2.GaussianBlur(small, (0, 0), max(width / part, 0.5)) for part in (400.0, 100.0))
    halos = (near + 0.5 * far) * np.float32(_BLOOM)
    return np.asarray(cv2.resize(halos, (width, height), interpolation=cv2.INTER_LINEAR))


def _through_drops(light: Linear, drops: int, rng: np.random.Generator) -> Linear:
    """Drops of water on the lens: each shows the scene small, upside down and out of focus."""
    height, width = light.shape[:2]
    soft = cv2.GaussianBlur(light, (0, 0), max(width / 110.0, 0.5))
    result = light.copy()
    for _ in range(drops):
        radius = width * float(rng.uniform(0.006, 0.022))
        u, v = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        left, right = max(int(u - radius), 0), min(int(u + radius) + 1, width)
        top, bottom = max(int(v - radius * 1.2), 0), min(int(v + radius * 1.2) + 1, height)
        x, y = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
        x, y = (x - np.float32(u)) / np.float32(radius), (y - np.float32(v)) / np.float32(1.2 * radius)
        inside = np.clip(2.5 * (1 - np.hypot(x, y)), 0, 1)[..., None] * np.float32(0.85)
        seen = cv2.remap(
            soft,
            np.clip(u - x * width * 0.2, 0, width - 1).astype(np.float32),
            np.clip(v - y * height * 0.3, 0, height - 1).astype(np.float32),
            cv2.INTER_LINEAR,
        )
        patch = result[top:bottom, left:right]
        result[top:bottom, left:right] = patch + inside * (seen - patch)
    return result
