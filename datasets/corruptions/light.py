"""Too little light, too much of it, and a noisy sensor."""

from dataclasses import dataclass

import numpy as np

from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.pictures import Picture, as_bytes, with_changed_pictures
from datasets.frames import LogFrame


@dataclass(frozen=True)
class Darkened:
    """Pictures in the dark: raised to `gamma`, scaled by `factor` (1 white), with the noise of little light.

    `photons`: how many make a white pixel (shot noise; 0: none is added); `read_noise`: standard deviation, 1 is white.
    """

    factor: float
    gamma: float = 1.0
    photons: int = 0
    read_noise: float = 0.0

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self == Darkened(1.0):
            return frame

        # By recorded value. The normal distribution stands for Poisson's: it is drawn ten times as fast.
        light = self.factor * np.linspace(0.0, 1.0, 256) ** self.gamma
        deviation = np.sqrt(self.read_noise**2 + (light / self.photons if self.photons else 0.0 * light))
        values, deviations = (255.0 * light).astype(np.float32), (255.0 * deviation).astype(np.float32)

        def dark(channel: str, pixels: Picture) -> Picture:
            draws = generator_of(seed, "dark", frame.token, channel)
            noise = draws.standard_normal(pixels.shape, np.float32)
            return as_bytes(values[pixels] + deviations[pixels] * noise)

        return with_changed_pictures(frame, dark)


@dataclass(frozen=True)
class Brightened:
    """Overexposed pictures: `shift` (1 is white) is added to the value of hue, saturation and value."""

    shift: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        return with_changed_pictures(frame, self._bright) if self.shift else frame

    def _bright(self, channel: str, pixels: Picture) -> Picture:
        value = pixels.max(axis=2, keepdims=True).astype(np.float32)
        shifted = np.minimum(value + 255.0 * self.shift, 255.0)
        # Hue and saturation are kept where all three are scaled alike; black has neither and becomes grey.
        return as_bytes(np.where(value > 0, pixels * (shifted / np.maximum(value, 1.0)), shifted))


@dataclass(frozen=True)
class Noisy:
    """Normal noise in each value of each pixel; `deviation` 1 is white."""

    deviation: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.deviation == 0:
            return frame

        def noisy(channel: str, pixels: Picture) -> Picture:
            draws = generator_of(seed, "noise", frame.token, channel)
            return as_bytes(
                pixels + np.float32(255.0 * self.deviation) * draws.standard_normal(pixels.shape, np.float32)
            )

        return with_changed_pictures(frame, noisy)
