"""From camera images to a BEV map."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from perception.backbone import BackboneConfig, ImageBackbone
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.view_transform import LiftSplat, LiftSplatConfig


@dataclass(frozen=True)
class CameraConfig:
    """The image backbone, the way to the BEV grid with `width` channels, the dense neck there."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    lift_splat: LiftSplatConfig = field(default_factory=LiftSplatConfig)
    width: int = 80
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((80, 160), (2, 4)))

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")


class CameraBranch(nn.Module):
    """Images with their calibration to (B, C, Y, X). A sample without a camera gets zeros."""

    def __init__(self, config: CameraConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.backbone = ImageBackbone(config.backbone)
        self.lift_splat = LiftSplat(
            config.lift_splat, grid, config.backbone.channels, config.width, config.backbone.stride
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
        batch_size = len(images)
        sample, camera = torch.nonzero(camera_available, as_tuple=True)
        if len(sample) == 0:
            rows, columns = self.grid.shape
            return torch.zeros(batch_size, self.channels, rows, columns, device=images.device)
        # Only these reach the backbone: a black picture would also shift the statistics of its batch norms.
        features = self.backbone(images[sample, camera])
        lifted = self.lift_splat(features, intrinsics[sample, camera], ego_from_cam[sample, camera], sample, batch_size)
        bev: Tensor = self.neck(lifted)
        return bev * camera_available.any(dim=1)[:, None, None, None].to(bev.dtype)
