"""The pinhole camera: projection, and how the intrinsics follow a resize and a crop."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class PinholeCamera:
    """An undistorted camera. Pixel (0, 0) is the middle of the top left pixel.

    `intrinsics` (3, 3) float64 maps cam coordinates to homogeneous img coordinates.
    """

    width: int
    height: int
    intrinsics: Float64[Tensor, "3 3"]

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"a camera needs a positive size, this one has {self.width} x {self.height}")
        if not (self.intrinsics[0, 0] > 0 and self.intrinsics[1, 1] > 0):
            raise ValueError("a camera's focal lengths must be positive")

    def resized(self, scale: float) -> "PinholeCamera":
        """The camera of the picture resized by `scale` (as cv2.resize does: pixel areas, not middles, are scaled)."""
        width, height = round(self.width * scale), round(self.height * scale)
        scale_u, scale_v = width / self.width, height / self.height
        # An image point u lies at u + 0.5 from the picture's edge; that distance is what scales.
        resize = torch.tensor(
            [[scale_u, 0.0, 0.5 * scale_u - 0.5], [0.0, scale_v, 0.5 * scale_v - 0.5], [0.0, 0.0, 1.0]],
            dtype=torch.float64,
        )
        return PinholeCamera(width, height, resize @ self.intrinsics)

    def cropped(self, left: int, top: int, width: int, height: int) -> "PinholeCamera":
        """The camera of the window whose top left pixel is (left, top); it may reach over the picture's edge."""
        shift = torch.eye(3, dtype=torch.float64)
        shift[0, 2], shift[1, 2] = -left, -top
        return PinholeCamera(width, height, shift @ self.intrinsics)


def project(
    intrinsics: Float[Tensor, "*batch 3 3"], points_cam: Float[Tensor, "*batch P 3"]
) -> tuple[Float[Tensor, "*batch P 2"], Float[Tensor, "*batch P"]]:
    """Points (P, 3) in cam to pixels (P, 2) and depths (P), metres along the optical axis.

    Points at or behind the camera (depth <= 0) get meaningless pixels: look at the depth first.
    """
    homogeneous = points_cam @ intrinsics.transpose(-1, -2)
    depth = points_cam[..., 2]
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    return homogeneous[..., :2] / safe[..., None], depth
