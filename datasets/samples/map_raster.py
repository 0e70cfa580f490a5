"""The map under a sample, cell by cell: what map segmentation learns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from datasets.samples.sample import MAP_CLASSES, MapRaster, Sample


@dataclass(frozen=True)
class MapMask:
    """A picture of the ground from above, one bit for each pixel; row 0 in the north, as nuScenes' masks are.

    bits: rows of pixels in bytes, the first pixel in the highest bit. `resolution`: metres for each pixel. Pixel
    (row, column) has its middle at global x = column * resolution, y = (height - row) * resolution, as in
    nuscenes-devkit.
    """

    bits: UInt8[Tensor, "V W"]
    width: int
    resolution: float

    def at(self, points_global: Float64[Tensor, "P 2"]) -> tuple[Bool[Tensor, "P"], Bool[Tensor, "P"]]:
        """Whether the mask is set at global x, y (metres), and whether the picture reaches there at all."""
        height = len(self.bits)
        column = torch.round(points_global[:, 0] / self.resolution)
        row = torch.round(height - points_global[:, 1] / self.resolution)
        known = (column >= 0) & (column < self.width) & (row >= 0) & (row < height)
        column, row = torch.where(known, column, 0.0).long(), torch.where(known, row, 0.0).long()
        byte = self.bits[row, column // 8].long()
        return ((byte >> (7 - column % 8)) & 1).bool() & known, known


@runtime_checkable
class MapSource(Protocol):
    """Where masks come from."""

    def of_scene(self, name: str) -> Mapping[str, MapMask]:
        """The masks of the place of a scene, by class. Raises InputRefused where there are none."""
        ...


def rasterize(
    masks: Mapping[str, MapMask], global_from_ego: Float64[Tensor, "4 4"], centers: Float[Tensor, "Y X 2"]
) -> MapRaster:
    """The masks at the middles of BEV cells (ego x, y, metres), on the ground of the vehicle."""
    rows, columns = centers.shape[:2]
    flat = torch.zeros(rows * columns, 3, dtype=torch.float64)
    flat[:, :2] = centers.reshape(-1, 2)
    points_global = flat @ global_from_ego[:3, :3].T + global_from_ego[:3, 3]
    read = [masks[name].at(points_global[:, :2]) for name in MAP_CLASSES]
    known = torch.stack([part for _, part in read]).all(dim=0)
    return MapRaster(torch.stack([part for part, _ in read]).view(-1, rows, columns), known.view(rows, columns))


class MapTargets:
    """Puts the map into samples. A sample's `global_from_ego` knows how the sample was augmented, so does its map."""

    def __init__(self, source: MapSource, centers: Float[Tensor, "Y X 2"]) -> None:
        self._source, self._centers = source, centers

    def __call__(self, sample: Sample) -> Sample:
        """The same sample with its map."""
        masks = self._source.of_scene(sample.scene_name)
        return replace(sample, map_raster=rasterize(masks, sample.global_from_ego, self._centers))
