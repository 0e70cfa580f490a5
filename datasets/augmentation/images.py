"""Augmentation of pictures: each camera's is resized, cropped, mirrored, turned and coloured at random."""

import math
from dataclasses import dataclass, replace

import torch

from datasets.sensors.picture_change import ColourChange, PictureChange


@dataclass(frozen=True)
class ImageAugmentation:
    """How far a picture is changed. Sizes and turns as BEVFusion (Liu et al. 2022) for 256x704, colours as SSD (Liu et
    al. 2016) and, from there, BEVFormer. The camera matrix follows every change but the colours'.
    """

    scale_range: tuple[float, float] = (0.86, 1.25)
    """Factors on the size that fits: 0.38 to 0.55 of nuScenes' 1600 pixels where 0.44 of them make the width of 704.
    A wider picture is cropped at random, a narrower one gets a black edge; the bottom stays."""
    max_rotation: float = math.radians(5.4)
    """Largest turn about the picture's middle to either side, radians."""
    flip: bool = True
    """Mirror left to right with probability one half."""
    max_brightness: float = 0.125
    """Largest change of brightness to either side; white is 1."""
    contrast_range: tuple[float, float] = (0.5, 1.5)
    saturation_range: tuple[float, float] = (0.5, 1.5)

    def __post_init__(self) -> None:
        for name in ("scale_range", "contrast_range", "saturation_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must be two positive numbers, the smaller one first, not {(low, high)}")
        for name in ("max_rotation", "max_brightness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, and finite, not {getattr(self, name)}")

    def draw(self, fitted: PictureChange, generator: torch.Generator) -> PictureChange:
        """A random change of the picture that `fitted` (`PictureChange.fit`) would make."""
        size, shift, mirror, turn, bright, contrast, saturation = torch.rand(
            7, generator=generator, dtype=torch.float64
        ).tolist()
        scale = _between(self.scale_range, size)
        width, height = (max(1, round(side * scale)) for side in (fitted.resized_width, fitted.resized_height))
        spare = width - fitted.width
        colour = ColourChange(
            (2.0 * bright - 1.0) * self.max_brightness,
            _between(self.contrast_range, contrast),
            _between(self.saturation_range, saturation),
        )
        return replace(
            fitted,
            resized_width=width,
            resized_height=height,
            left=round(spare * shift),
            top=height - fitted.height,
            mirrored=self.flip and mirror < 0.5,
            rotation=(2.0 * turn - 1.0) * self.max_rotation,
            colour=None if colour == ColourChange() else colour,
        )


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])
