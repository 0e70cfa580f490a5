"""From camera images to a BEV map."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from datasets.samples.batch import Batch, PointBatch
from perception.backbone import BackboneConfig, ImageBackbone
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.image_features import FeaturePixels, ImageFeatures
from perception.image_pyramid import ImagePyramid
from perception.lidar_depth import nearest_depths
from perception.named_backbone import NamedBackbone, NamedBackboneConfig
from perception.view_transform.build import ViewConfig, build_view
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.view_transform import ViewTransform


@dataclass(frozen=True)
class CameraConfig:
    """The image backbone, the way to the BEV grid with `width` channels, the dense neck there."""

    backbone: BackboneConfig | NamedBackboneConfig = field(default_factory=BackboneConfig)
    view: ViewConfig = field(default_factory=LiftSplatConfig)
    width: int = 80
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((80, 160), (2, 4)))

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")

    def check_has_depths(self, task: str) -> None:
        """Raise ValueError where the view transform has no depths for this task to learn."""
        if not isinstance(self.view, LiftSplatConfig):
            raise ValueError(
                f"{task} is learnt by the lift_splat view transform, and the camera's is {self.view.kind}: "
                f"take lift_splat, or leave {task} out"
            )

    @property
    def uses_lidar(self) -> bool:
        """Whether the way to the BEV grid looks at LiDAR points, where there are any."""
        return isinstance(self.view, LiftSplatConfig) and self.view.lidar_depth


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
        self.config, self.grid, self.channels = config, grid, channels
        self.backbone = build_backbone(config.backbone) if backbone is None else backbone
        # Under the name of its kind: so are its weights called.
        self._view = config.view.kind
        self.add_module(self._view, build_view(config.view, grid, self.backbone.channels, config.width))
        self.neck = BevNeck(config.neck, config.width, channels)

    @property
    def view(self) -> ViewTransform:
        """The way from the pictures to the BEV grid."""
        view: ViewTransform = getattr(self, self._view)
        return view

    @property
    def depth_view(self) -> LiftSplat:
        """The view transform where it has depths to learn. Raises TypeError where it is another one."""
        if not isinstance(self.view, LiftSplat):
            raise TypeError(f"the camera branch's view transform is {self._view}, and has no depths")
        return self.view

    def forward(
        self,
        images: UInt8[Tensor, "B N 3 H W"],
        intrinsics: Float32[Tensor, "B N 3 3"],
        ego_from_cam: Float32[Tensor, "B N 4 4"],
        camera_available: Bool[Tensor, "B N"],
        lidar: PointBatch | None = None,
    ) -> Float[Tensor, "B C Y X"]:
        """The cameras' BEV map. What stands in the pixels of an unavailable camera plays no part."""
        if not camera_available.any():
            rows, columns = self.grid.shape
            return torch.zeros(len(images), self.channels, rows, columns, device=images.device)
        return self.bev(self.image_features(images, intrinsics, ego_from_cam, camera_available, lidar))

    def image_features(
        self,
        images: UInt8[Tensor, "B N 3 H W"],
        intrinsics: Float32[Tensor, "B N 3 3"],
        ego_from_cam: Float32[Tensor, "B N 4 4"],
        camera_available: Bool[Tensor, "B N"],
        lidar: PointBatch | None = None,
    ) -> ImageFeatures:
        """The first half of the way: the features of the available cameras, of which there must be one.

        lidar: the points (ego) of the samples that have a LiDAR, of use to a `lift_splat` that asks for their depth.
        """
        sample, camera = torch.nonzero(camera_available, as_tuple=True)
        features = ImageFeatures(
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
        if lidar is None or not self.config.uses_lidar:
            return features
        nearest = nearest_depths(lidar, features.pixels)
        return replace(features, lidar_depth=torch.where(nearest.isfinite(), nearest, 0.0).float())

    def feature_pixels(self, batch: Batch) -> FeaturePixels:
        """Where the features of a batch's available cameras look, without computing any."""
        sample, camera = torch.nonzero(batch.camera_available, as_tuple=True)
        stride = self.backbone.stride
        return FeaturePixels(
            batch.intrinsics[sample, camera],
            batch.ego_from_cam[sample, camera],
            sample,
            (-(-batch.images.shape[-2] // stride), -(-batch.images.shape[-1] // stride)),
            stride,
            self.backbone.offset,
        )

    def bev(self, images: ImageFeatures) -> Float[Tensor, "B C Y X"]:
        """The second half: from the images' features to the BEV map."""
        bev: Tensor = self.neck(self.view(images))
        seen = bev.new_zeros(images.batch_size).index_fill(0, images.sample_index, 1.0)
        return bev * seen[:, None, None, None]
