"""Sets of 3D boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from calibration.transforms import rotate_vectors, transform_points


@dataclass(frozen=True)
class Boxes3D:
    """M upright boxes in one frame; whoever holds them says which (`boxes_global`, otherwise ego).

    centers (M, 3): the middle of the box, metres. sizes_wlh (M, 3): width, length, height, metres.
    yaws (M): radians, from the frame's x towards its y; 0 looks along x. velocities (M, 2): over ground, m/s, in the
    frame's x-y plane, NaN where unknown. labels (M): indices into DETECTION_CLASSES. scores (M): in [0, 1], 1 for
    annotations. attributes (M): indices into ATTRIBUTES, -1 for none.
    """

    centers: Float[Tensor, "M 3"]
    sizes_wlh: Float[Tensor, "M 3"]
    yaws: Float[Tensor, "M"]
    velocities: Float[Tensor, "M 2"]
    labels: Int64[Tensor, "M"]
    scores: Float[Tensor, "M"]
    attributes: Int64[Tensor, "M"]

    @classmethod
    def empty(cls, dtype: torch.dtype = torch.float32) -> "Boxes3D":
        """No boxes at all."""
        return cls(
            centers=torch.zeros(0, 3, dtype=dtype),
            sizes_wlh=torch.zeros(0, 3, dtype=dtype),
            yaws=torch.zeros(0, dtype=dtype),
            velocities=torch.zeros(0, 2, dtype=dtype),
            labels=torch.zeros(0, dtype=torch.int64),
            scores=torch.zeros(0, dtype=dtype),
            attributes=torch.zeros(0, dtype=torch.int64),
        )

    @classmethod
    def concatenated(cls, sets: "Sequence[Boxes3D]") -> "Boxes3D":
        """All boxes of one or more sets in one frame, one set after another."""
        return cls(
            centers=torch.cat([boxes.centers for boxes in sets]),
            sizes_wlh=torch.cat([boxes.sizes_wlh for boxes in sets]),
            yaws=torch.cat([boxes.yaws for boxes in sets]),
            velocities=torch.cat([boxes.velocities for boxes in sets]),
            labels=torch.cat([boxes.labels for boxes in sets]),
            scores=torch.cat([boxes.scores for boxes in sets]),
            attributes=torch.cat([boxes.attributes for boxes in sets]),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Bool[Tensor, "M"] | Int64[Tensor, "K"]) -> "Boxes3D":
        """The boxes that a mask (M) or indices (K) choose."""
        return Boxes3D(
            centers=self.centers[index],
            sizes_wlh=self.sizes_wlh[index],
            yaws=self.yaws[index],
            velocities=self.velocities[index],
            labels=self.labels[index],
            scores=self.scores[index],
            attributes=self.attributes[index],
        )

    def to(self, target: torch.device | torch.dtype) -> "Boxes3D":
        """The same boxes on a device, or with the floating point numbers in a dtype."""
        return Boxes3D(
            centers=self.centers.to(target),
            sizes_wlh=self.sizes_wlh.to(target),
            yaws=self.yaws.to(target),
            velocities=self.velocities.to(target),
            labels=self.labels if isinstance(target, torch.dtype) else self.labels.to(target),
            scores=self.scores.to(target),
            attributes=self.attributes if isinstance(target, torch.dtype) else self.attributes.to(target),
        )

    def transformed(self, a_from_b: Float[Tensor, "4 4"]) -> "Boxes3D":
        """The same boxes seen from frame a. Boxes stay upright: a tilt between the frames moves centres, not axes."""
        headings = torch.stack([self.yaws.cos(), self.yaws.sin(), torch.zeros_like(self.yaws)], dim=1)
        headings_a = rotate_vectors(a_from_b, headings)
        velocities = torch.cat([self.velocities, torch.zeros_like(self.velocities[:, :1])], dim=1)
        return Boxes3D(
            centers=transform_points(a_from_b, self.centers),
            sizes_wlh=self.sizes_wlh,
            yaws=torch.atan2(headings_a[:, 1], headings_a[:, 0]),
            velocities=rotate_vectors(a_from_b, velocities)[:, :2],
            labels=self.labels,
            scores=self.scores,
            attributes=self.attributes,
        )

    def corners(self) -> Float[Tensor, "M 8 3"]:
        """The eight corners: 0-3 the front face (top left, top right, bottom right, bottom left as seen looking
        along the box's x), 4-7 the rear face in the same order.
        """
        signs = torch.tensor(
            [
                [1, 1, 1],
                [1, -1, 1],
                [1, -1, -1],
                [1, 1, -1],
                [-1, 1, 1],
                [-1, -1, 1],
                [-1, -1, -1],
                [-1, 1, -1],
            ],
            dtype=self.centers.dtype,
            device=self.centers.device,
        )
        lengths_xyz = self.sizes_wlh[:, [1, 0, 2]]
        x, y, z = (signs * lengths_xyz[:, None] / 2).unbind(-1)
        cos, sin = self.yaws.cos()[:, None], self.yaws.sin()[:, None]
        return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1) + self.centers[:, None]

    def points_inside(self, points: Float[Tensor, "P 3"]) -> Bool[Tensor, "M P"]:
        """Which points (P, 3), in the boxes' frame, lie in which box; points on a face count as inside."""
        offsets = points[None].to(self.centers.dtype) - self.centers[:, None]
        cos, sin = self.yaws.cos()[:, None], self.yaws.sin()[:, None]
        along = cos * offsets[..., 0] + sin * offsets[..., 1]
        across = -sin * offsets[..., 0] + cos * offsets[..., 1]
        half_w, half_l, half_h = (self.sizes_wlh / 2)[:, :, None].unbind(1)
        return (along.abs() <= half_l) & (across.abs() <= half_w) & (offsets[..., 2].abs() <= half_h)
