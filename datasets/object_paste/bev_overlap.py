"""Which boxes overlap as seen from above."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from datasets.boxes import Boxes3D


def bev_overlaps(first: Boxes3D, second: Boxes3D) -> Bool[Tensor, "M K"]:
    """Whether the footprints of box m of `first` and box k of `second` have any area in common; touching is none.

    By the separating axis theorem: two rectangles are apart if and only if they are along one of their four sides.
    """
    corners_a, axes_a = _footprint(first)
    corners_b, axes_b = _footprint(second)
    overlap = torch.ones(len(first), len(second), dtype=torch.bool)
    for axes, per_first in ((axes_a, True), (axes_b, False)):
        for side in range(2):
            # (M, 1, 2) or (1, K, 2): the axis on which both are measured.
            axis = axes[:, None, side] if per_first else axes[None, :, side]
            along_a = (corners_a[:, None] * axis[:, :, None]).sum(dim=-1)
            along_b = (corners_b[None] * axis[:, :, None]).sum(dim=-1)
            overlap &= (along_a.amin(dim=-1) < along_b.amax(dim=-1)) & (along_b.amin(dim=-1) < along_a.amax(dim=-1))
    return overlap


def _footprint(boxes: Boxes3D) -> tuple[Float64[Tensor, "M 4 2"], Float64[Tensor, "M 2 2"]]:
    """The corners of each box on the ground and the directions of its length and its width."""
    centers, sizes, yaws = boxes.centers[:, :2].double(), boxes.sizes_wlh.double(), boxes.yaws.double()
    along = torch.stack([yaws.cos(), yaws.sin()], dim=1)
    across = torch.stack([-yaws.sin(), yaws.cos()], dim=1)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    offsets = signs[None, :, :1] * (along * sizes[:, 1:2] / 2)[:, None]
    offsets = offsets + signs[None, :, 1:] * (across * sizes[:, :1] / 2)[:, None]
    return centers[:, None] + offsets, torch.stack([along, across], dim=1)
