"""From image features to the BEV grid: lift, splat (Philion & Fidler 2020) without the frustum tensor.

Each pixel spreads its features over the BEV cells that its depth bins fall into, weighted by the depths'
probabilities. That is one product of a sparse matrix (BEV cells x pixels, the probabilities) with the pixels'
features, so neither the features of the frustum's points nor a sort of them is ever in memory.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor, nn

from perception.bev_neck import ConvBlock
from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.view_transform.kept_geometry import KeptGeometry
from perception.view_transform.splat import SplatPlan, splat
from perception.view_transform.view_transform import ViewTransform

# Channels of what the LiDAR measured.
_LIDAR_WIDTH = 32


@dataclass(frozen=True)
class LiftSplatConfig:
    """depth_range (metres along the optical axis) is cut into depth_bins equal bins.

    What lies outside z_range (metres, ego) is left out of the BEV. lidar_depth: the depth net sees how far away the
    nearest LiDAR point in each pixel is.
    """

    kind: Literal["lift_splat"] = "lift_splat"
    depth_range: tuple[float, float] = (1.0, 60.0)
    depth_bins: int = 118
    z_range: tuple[float, float] = (-5.0, 3.0)
    lidar_depth: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.depth_range[0] < self.depth_range[1] or self.depth_bins < 1:
            raise ValueError(f"depth_range {self.depth_range} cannot be cut into {self.depth_bins} bins")

    def depths(self) -> Float32[Tensor, "D"]:
        """The middle of each bin, metres."""
        low, high = self.depth_range
        return low + (torch.arange(self.depth_bins) + 0.5) * ((high - low) / self.depth_bins)

    def bins_of(self, depths: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The bin of each depth, metres; -1 outside the range, and of what is not finite."""
        low, high = self.depth_range
        known = (depths >= low) & (depths < high)
        index = ((torch.where(known, depths, low) - low) / (high - low) * self.depth_bins).long()
        return torch.where(known, index.clamp(max=self.depth_bins - 1), -1)


class LiftSplat(ViewTransform):
    """Each pixel's features, spread along its ray as far as its distribution of depths says."""

    def __init__(self, config: LiftSplatConfig, grid: BevGrid, in_channels: int, channels: int) -> None:
        super().__init__()
        self.config, self.grid, self.channels = config, grid, channels
        self.lidar = LidarDepthInput(in_channels, config.depth_range[1]) if config.lidar_depth else None
        self.depth_and_context = nn.Conv2d(in_channels, config.depth_bins + channels, 1)
        self._plans: KeptGeometry[SplatPlan] = KeptGeometry()

    def forward(self, images: ImageFeatures) -> Float32[Tensor, "B C Y X"]:
        """See ViewTransform."""
        rows, columns = self.grid.shape
        both = self.depth_and_context(self._features(images)).permute(0, 2, 3, 1).float().flatten(0, 2)
        depth = both[:, : self.config.depth_bins].softmax(dim=1)
        context = both[:, self.config.depth_bins :]
        with torch.autocast(images.features.device.type, enabled=False):
            bev = splat(depth, context, self._plans.of(images, self._plan))
        return bev.view(images.batch_size, rows, columns, self.channels).permute(0, 3, 1, 2)

    def depth_logits(self, images: ImageFeatures) -> Float[Tensor, "K D V U"]:
        """What `forward` makes the depths' probabilities of, for the auxiliary task (perception/tasks/depth.py)."""
        bins, layer = self.config.depth_bins, self.depth_and_context
        bias = None if layer.bias is None else layer.bias[:bins]
        return F.conv2d(self._features(images), layer.weight[:bins], bias)

    def _features(self, images: ImageFeatures) -> Float[Tensor, "K F V U"]:
        if self.lidar is None:
            return images.features
        features: Tensor = self.lidar(images)
        return features

    def _plan(self, images: ImageFeatures) -> SplatPlan:
        rows, columns = self.grid.shape
        return SplatPlan.of(self.cells(images).flatten(0, 2), images.batch_size * rows * columns)

    def cells(self, images: ImageFeatures) -> Int32[Tensor, "K V U D"]:
        """The BEV cell (sample, row, column in one number) of each feature pixel at each depth; -1 outside the grid."""
        device = images.intrinsics.device
        height, width = images.size
        u = torch.arange(width, device=device) * float(images.stride) + images.pixel_offset
        v = torch.arange(height, device=device) * float(images.stride) + images.pixel_offset
        grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
        pixels = torch.stack([grid_u, grid_v, torch.ones_like(grid_u)], dim=-1).double()
        # float64: the inverse of the intrinsics is cheap, and cells must not depend on how it was rounded.
        cam_from_img = torch.linalg.inv(images.intrinsics.double())
        ego_from_img = images.ego_from_cam[:, :3, :3].double() @ cam_from_img
        rays = torch.einsum("kij,vuj->ikvu", ego_from_img, pixels)
        origin = images.ego_from_cam[:, :3, 3].double().T[..., None, None]
        # Axis by axis, and the ground in cells from here on: points would be six times the memory of these numbers.
        scale, (rows, columns) = 1.0 / self.grid.cell_size, self.grid.shape
        depths = self.config.depths().to(device).double()
        z = torch.addcmul(origin[2, ..., None], rays[2, ..., None], depths)
        inside = (z >= self.config.z_range[0]) & (z < self.config.z_range[1])
        flat = images.sample_index.int()[:, None, None, None]
        for axis, low, length in ((1, self.grid.y_range[0], rows), (0, self.grid.x_range[0], columns)):
            start, step = (origin[axis] - low) * scale, rays[axis] * scale
            place = torch.addcmul(start[..., None], step[..., None], depths).floor_()
            inside &= (place >= 0) & (place < length)
            # Non-finite numbers (a broken calibration) compare as outside, and never become an integer.
            flat = flat * length + torch.where(inside, place, 0.0).int()
        return torch.where(inside, flat, -1)


class LidarDepthInput(nn.Module):
    """Mixes what the LiDAR measured into the image features, before the depth net (BEVFusion's depth-aware lift, Liu et
    al. 2023).

    There the points are drawn into a picture at full size; here they are sorted into feature pixels, of which the
    nearest point counts, as for BEVDepth's targets. `far`: the depth, metres, that the net sees as 1.
    """

    def __init__(self, channels: int, far: float) -> None:
        super().__init__()
        self.far = far
        self.points = ConvBlock(2, _LIDAR_WIDTH)
        self.mix = ConvBlock(channels + _LIDAR_WIDTH, channels)

    def forward(self, images: ImageFeatures) -> Float[Tensor, "K F V U"]:
        """Features of the same shape. Without a LiDAR the plane of depths and the one that says where there are any
        are both zero.
        """
        depth = images.lidar_depth
        if depth is None:
            depth = images.intrinsics.new_zeros(len(images.intrinsics), *images.size)
        planes = torch.stack([(depth / self.far).clamp(max=1.0), (depth > 0).float()], dim=1)
        measured = self.points(planes.to(images.features.dtype))
        mixed: Tensor = self.mix(torch.cat([images.features, measured], dim=1))
        return images.features + mixed
