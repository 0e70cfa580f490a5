"""From image features to the BEV grid: each cell looks up what the cameras show of it.

A cell stands at several heights; each of these points is projected into every camera, takes the features there
bilinearly, and the mean over the cameras that see it (Simple-BEV, Harley et al. 2023; BEVFormer's reference points, Li
et al. 2022). A learned layer makes one feature vector of the heights. No depth is guessed.

Two forms of the same: a kept sparse matrix (cells x pixels), which is fast; and `dense`, which is made of operations
that can be exported.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from calibration.cameras import project
from calibration.transforms import transform_points
from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.sparse_product import FixedMatrix, starts_of
from perception.view_transform.kept_geometry import KeptGeometry
from perception.view_transform.view_transform import ViewTransform


@dataclass(frozen=True)
class SamplingConfig:
    """z_range (metres, ego) is cut into `heights` equal layers; a cell is looked up at the middle of each."""

    kind: Literal["sampling"] = "sampling"
    heights: int = 8
    z_range: tuple[float, float] = (-5.0, 3.0)

    def __post_init__(self) -> None:
        if self.heights < 1 or not self.z_range[0] < self.z_range[1]:
            raise ValueError(f"z_range {self.z_range} cannot be cut into {self.heights} layers")


class Sampling(ViewTransform):
    """The features that the cameras show of each cell. See the module."""

    def __init__(self, config: SamplingConfig, grid: BevGrid, in_channels: int, channels: int) -> None:
        super().__init__()
        self.grid, self.heights, self.channels = grid, config.heights, channels
        self.context = nn.Conv2d(in_channels, channels, 1)
        # Without bias: what nobody sees stays zero.
        self.reduce = nn.Linear(config.heights * channels, channels, bias=False)
        low, high = config.z_range
        z = low + (torch.arange(config.heights) + 0.5) * ((high - low) / config.heights)
        ground = grid.centers().view(-1, 1, 2).expand(-1, config.heights, 2)
        points = torch.cat([ground, z.view(1, -1, 1).expand(len(ground), -1, 1)], dim=2)
        # (Y * X * Z, 3), heights of a cell side by side.
        self.register_buffer("points_ego", points.reshape(-1, 3), persistent=False)
        self._matrices: KeptGeometry[FixedMatrix] = KeptGeometry()

    points_ego: Tensor

    def forward(self, images: ImageFeatures) -> Float32[Tensor, "B C Y X"]:
        """See ViewTransform."""
        rows, columns = self.grid.shape
        matrix = self._matrices.of(images, self.matrix)
        context = self.context(images.features).permute(0, 2, 3, 1).float().flatten(0, 2)
        with torch.autocast(images.features.device.type, enabled=False):
            # There are far fewer pixels than cells at several heights: the learned layer comes before the lookup,
            # pixel by pixel, as if it were seen at each of the heights.
            by_height = self.reduce.weight.float().view(self.channels, self.heights, self.channels)
            projected = context @ by_height.permute(2, 1, 0).reshape(self.channels, -1)
            bev = matrix.times(projected.view(-1, self.channels))
        return bev.view(images.batch_size, rows, columns, self.channels).permute(0, 3, 1, 2)

    def dense(
        self,
        features: Float[Tensor, "B N F V U"],
        intrinsics: Float32[Tensor, "B N 3 3"],
        ego_from_cam: Float32[Tensor, "B N 4 4"],
        camera_available: Bool[Tensor, "B N"],
        stride: int,
    ) -> Float[Tensor, "B C Y X"]:
        """`forward` for a fixed number of cameras, some of which may be masked, without sparse matrices: for export.

        Every operation has fixed shapes. Many times slower, with all cells at all heights in memory for each camera.
        """
        batch, cameras, _, height, width = features.shape
        rows, columns = self.grid.shape
        context = self.context(features.flatten(0, 1))
        pixels, seen = self._seen(intrinsics.flatten(0, 1), ego_from_cam.flatten(0, 1), (height, width), stride)
        seen = seen.view(batch, cameras, -1) & camera_available[:, :, None]
        # grid_sample has -1 and 1 at the outer edges of the first and the last pixel.
        places = (2 * pixels + 1) / pixels.new_tensor([width, height]) - 1
        places = places.view(batch * cameras, -1, self.heights, 2).to(context.dtype)
        sampled = F.grid_sample(context, places, mode="bilinear", padding_mode="border", align_corners=False)
        sampled = sampled.view(batch, cameras, self.channels, -1) * seen[:, :, None].to(context.dtype)
        count = seen.sum(dim=1).clamp(min=1)
        mean = sampled.sum(dim=1) / count[:, None].to(context.dtype)
        cells = mean.view(batch, self.channels, -1, self.heights).permute(0, 2, 3, 1).flatten(2)
        reduced: Tensor = self.reduce(cells)
        return reduced.view(batch, rows, columns, self.channels).permute(0, 3, 1, 2)

    def matrix(self, images: ImageFeatures) -> FixedMatrix:
        """Row: a cell (sample, row, column). Column: a feature pixel (camera, v, u) at a height.

        An entry is the weight of one of four neighbouring pixels, divided by how many cameras see the point.
        """
        height, width = images.size
        cells = self.grid.shape[0] * self.grid.shape[1]
        pixels, seen = self._seen(images.intrinsics, images.ego_from_cam, images.size, images.stride)
        count = seen.new_zeros(images.batch_size, seen.shape[1], dtype=torch.float64)
        count = count.index_add(0, images.sample_index, seen.double())
        camera, point = torch.nonzero(seen, as_tuple=True)
        sample = images.sample_index[camera]
        # By rows; stable, so that a row's sum runs in a fixed order.
        row, order = torch.sort(sample * cells + point // self.heights, stable=True)
        camera, point = camera[order], point[order]
        share = 1.0 / count[sample[order], point]
        u, v = pixels[camera, point].unbind(dim=1)
        u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
        left, top = u.floor(), v.floor()
        columns, values = [], []
        for down in (0, 1):
            for right in (0, 1):
                weight = (u - left if right else left + 1 - u) * (v - top if down else top + 1 - v)
                # Beyond the last pixel the weight is zero.
                pixel_u, pixel_v = (left + right).clamp(max=width - 1), (top + down).clamp(max=height - 1)
                pixel = (camera * height + pixel_v.long()) * width + pixel_u.long()
                columns.append(pixel * self.heights + point % self.heights)
                values.append(weight * share)
        return FixedMatrix(
            starts_of(4 * torch.bincount(row, minlength=images.batch_size * cells)),
            torch.stack(columns, dim=1).flatten(),
            torch.stack(values, dim=1).flatten().float(),
            len(images.features) * height * width * self.heights,
        )

    def _seen(
        self,
        intrinsics: Float32[Tensor, "K 3 3"],
        ego_from_cam: Float32[Tensor, "K 4 4"],
        size: tuple[int, int],
        stride: int,
    ) -> tuple[Float64[Tensor, "K P 2"], Bool[Tensor, "K P"]]:
        """Where each point lies in the features of each camera (u, v), and whether the camera sees it; 0 if not.

        Feature pixels reach half a pixel to each side. Points nearer to the edge than the first or last middle take
        the feature of that.
        """
        height, width = size
        points = self.points_ego.double().expand(len(intrinsics), -1, -1)
        points_cam = transform_points(inverse_affine(ego_from_cam.double()), points)
        pixels, depth = project(intrinsics.double(), points_cam)
        # Strided convolutions with padding look at feature pixel j around image pixel j * stride.
        pixels = pixels / stride
        u, v = pixels.unbind(dim=2)
        # What is not finite (a broken calibration) compares as not seen.
        seen = (depth > 0) & (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
        return torch.where(seen[..., None], pixels, 0.0), seen


def inverse_affine(a_from_b: Float[Tensor, "K 4 4"]) -> Float[Tensor, "K 4 4"]:
    """`b_from_a` by cross products, because ONNX has no inverse of a matrix.

    Not by the transpose: augmentation may scale and mirror, too.
    """
    x, y, z = a_from_b[:, :3, :3].unbind(dim=2)
    normals = torch.stack([torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)], dim=1)
    linear = normals / (x * normals[:, 0]).sum(dim=1)[:, None, None]
    shift = -linear @ a_from_b[:, :3, 3:]
    return torch.cat([torch.cat([linear, shift], dim=2), a_from_b[:, 3:]], dim=1)
