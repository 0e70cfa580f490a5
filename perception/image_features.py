"""What the image backbone hands on: the features of the cameras that are there, and where those cameras look."""

from dataclasses import dataclass

from jaxtyping import Float, Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class FeaturePixels:
    """Where the feature pixels of K cameras look: feature (v, u) of `size` (V, U) lies around the picture's pixel
    (v, u) * stride + pixel_offset. sample_index (K): whose each camera is.
    """

    intrinsics: Float32[Tensor, "K 3 3"]
    ego_from_cam: Float32[Tensor, "K 4 4"]
    sample_index: Int64[Tensor, "K"]
    size: tuple[int, int]
    stride: int
    pixel_offset: float = 0.0


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the K cameras that are there. Feature (v, u) is of the pixel (v, u) * stride + pixel_offset.

    sample_index (K): whose each camera is. image_size: (H, W) of the pictures. lidar_depth: metres to the nearest LiDAR
    point of the camera's sample in each feature pixel, 0 where there is none; None where nobody asks for it.
    """

    features: Float[Tensor, "K F V U"]
    intrinsics: Float32[Tensor, "K 3 3"]
    ego_from_cam: Float32[Tensor, "K 4 4"]
    sample_index: Int64[Tensor, "K"]
    batch_size: int
    image_size: tuple[int, int]
    stride: int
    lidar_depth: Float32[Tensor, "K V U"] | None = None
    pixel_offset: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Rows (V) and columns (U) of the features."""
        return self.features.shape[2], self.features.shape[3]

    @property
    def pixels(self) -> FeaturePixels:
        """Where the features look."""
        return FeaturePixels(
            self.intrinsics, self.ego_from_cam, self.sample_index, self.size, self.stride, self.pixel_offset
        )
