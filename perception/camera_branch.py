"""From camera images to a BEV map."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn

from perception.backbone import BackboneConfig, ImageBackbone
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.image_pyramid import ImagePyramid
from perception.named_backbone import NamedBackbone, NamedBackboneConfig
from perception.view_transform import LiftSplat, LiftSplatConfig


@dataclass(frozen=True)
class CameraConfig:
    """The image backbone, the way to the BEV grid with `width` channels, the dense neck there."""

    backbone: BackboneConfig | NamedBackboneConfig = field(default_factory=BackboneConfig)
    lift_splat: LiftSplatConfig = field(default_factory=LiftSplatConfig)
    width: int = 80
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((80, 160), (2, 4)))

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the K cameras that are there. Feature (v, u) is of the pixel (v, u) * stride + pixel_offset.

    sample_index (K): whose each camera is. image_size: (H, W) of the pictures.
    """

    features: Float[Tensor, "K F V U"]
    intrinsics: Float32[Tensor, "K 3 3"]
    ego_from_cam: Float32[Tensor, "K 4 4"]
    sample_index: Int64[Tensor, "K"]
    batch_size: int
    image_size: tuple[int, int]
    stride: int
    pixel_offset: float = 0.0


def build_backbone(config: BackboneConfig | NamedBackboneConfig) -> ImagePyramid:
    """The backbone of this config; its type decides. Raises as ImageBackbone and NamedBackbone do."""
    return NamedBackbone(config) if isinstance(config, NamedBackboneConfig) else ImageBackbone(config)


class CameraBranch(nn.Module):
    """Images with their calibration to (B, C, Y, X). A sample without a camera gets zeros.

    backbone: one around a network of one's own, in place of the config's.
    """

    def __init__(
        self, config: CameraConfig, grid: BevGrid, channels: int, backbone: ImagePyramid | None = None
    ) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.backbone = build_backbone(config.backbone) if backbone is None else backbone
        self.lift_splat = LiftSplat(
            config.lift_splat,
            grid,
            self.backbone.channels,
            config.width,
            self.backbone.stride,
            self.backbone.offset,
        )
        self.neck = BevNeck(config.neck, config.width, channels)

    def forward(
        self,
        images: UInt8[Tensor, "B N 3 H W"],
        intrinsics: Float32[Tensor, "B N 3 3"],
        ego_from_cam: Float32[Tensor, "B N 4 4"],
        camera_available: Bool[Tensor, "B N"],
    ) -> Float[Tensor, "B C Y X"]:
        """The cameras' BEV map. What stands in the pixels of an unavailable camera plays no part."""
        if not camera_available.any():
            rows, columns = self.grid.shape
            return torch.zeros(len(images), self.channels, rows, columns, device=images.device)
        return self.bev(self.image_features(images, intrinsics, ego_from_cam, camera_available))

    def image_features(
        self,
        images: UInt8[Tensor, "B N 3 H W"],
        intrinsics: Float32[Tensor, "B N 3 3"],
        ego_from_cam: Float32[Tensor, "B N 4 4"],
        camera_available: Bool[Tensor, "B N"],
    ) -> ImageFeatures:
        """The first half of the way: the features of the available cameras, of which there must be one."""
        sample, camera = torch.nonzero(camera_available, as_tuple=True)
        return ImageFeatures(
            # Only these reach the backbone: a black picture would also shift the statistics of its batch norms.
            features=self.backbone(images[sample, camera]),
            intrinsics=intrinsics[sample, camera],
            ego_from_cam=ego_from_cam[sample, camera],
            sample_index=sample,
            batch_size=len(images),
            image_size=(images.shape[3], images.shape[4]),
            stride=self.backbone.stride,
            pixel_offset=self.backbone.offset,
        )

    def bev(self, images: ImageFeatures) -> Float[Tensor, "B C Y X"]:
        """The second half: from the images' features to the BEV map."""
        lifted = self.lift_splat(
            images.features, images.intrinsics, images.ego_from_cam, images.sample_index, images.batch_size
        )
        bev: Tensor = self.neck(lifted)
        seen = bev.new_zeros(images.batch_size).index_fill(0, images.sample_index, 1.0)
        return bev * seen[:, None, None, None]
