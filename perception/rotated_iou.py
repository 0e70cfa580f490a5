"""How much upright boxes overlap, in BEV and in space; exact for any two headings."""

import torch
from jaxtyping import Float64
from torch import Tensor

from datasets.boxes import Boxes3D


def bev_intersections(a: Boxes3D, b: Boxes3D) -> Float64[Tensor, "M"]:
    """The area (square metres) that box i of `a` and box i of `b` have in common on the ground. No gradient.

    By Green's theorem: the area is the integral of clamp(x) dy round a's outline, seen from b's frame, where x is
    clamped to b's length and only what lies within b's width counts. Along an edge x is linear in y, so each edge has
    a closed form; nothing is sorted, and equal or touching boxes are no special case.
    """
    turn = (a.yaws - b.yaws).double()
    shift = (a.centers - b.centers)[:, :2].double()
    cos_b, sin_b = b.yaws.double().cos(), b.yaws.double().sin()
    x = cos_b * shift[:, 0] + sin_b * shift[:, 1]
    y = cos_b * shift[:, 1] - sin_b * shift[:, 0]
    half_a, half_b = a.sizes_wlh.double() / 2, b.sizes_wlh.double() / 2
    # Corners of a against the clock, as (along, across) of its own half sides.
    along = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=turn.device) * half_a[:, 1, None]
    across = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64, device=turn.device) * half_a[:, 0, None]
    corner_x = x[:, None] + turn.cos()[:, None] * along - turn.sin()[:, None] * across
    corner_y = y[:, None] + turn.sin()[:, None] * along + turn.cos()[:, None] * across
    edges = _edge_integrals(
        corner_x, corner_y, corner_x.roll(-1, 1), corner_y.roll(-1, 1), half_b[:, 1, None], half_b[:, 0, None]
    )
    return edges.sum(dim=1).clamp(min=0)


def bev_iou(a: Boxes3D, b: Boxes3D) -> Float64[Tensor, "M"]:
    """Intersection over union on the ground of box i of `a` with box i of `b`; boxes of no area: 0."""
    common = bev_intersections(a, b)
    union = a.sizes_wlh[:, :2].double().prod(1) + b.sizes_wlh[:, :2].double().prod(1) - common
    return _ratio(common, union)


def iou_3d(a: Boxes3D, b: Boxes3D) -> Float64[Tensor, "M"]:
    """Intersection over union in space of box i of `a` with box i of `b`; boxes of no volume: 0."""
    low, high = [], []
    for boxes in (a, b):
        middle, half = boxes.centers[:, 2].double(), boxes.sizes_wlh[:, 2].double() / 2
        low.append(middle - half)
        high.append(middle + half)
    height = (torch.minimum(*high) - torch.maximum(*low)).clamp(min=0)
    common = bev_intersections(a, b) * height
    union = a.sizes_wlh.double().prod(1) + b.sizes_wlh.double().prod(1) - common
    return _ratio(common, union)


def iou_3d_of_all(a: Boxes3D, b: Boxes3D) -> Float64[Tensor, "K M"]:
    """Intersection over union in space of each of K boxes with each of M."""
    index = torch.cartesian_prod(torch.arange(len(a)), torch.arange(len(b))).to(a.labels.device).reshape(-1, 2)
    return iou_3d(a[index[:, 0]], b[index[:, 1]]).view(len(a), len(b))


def _edge_integrals(
    x0: Float64[Tensor, "M 4"],
    y0: Float64[Tensor, "M 4"],
    x1: Float64[Tensor, "M 4"],
    y1: Float64[Tensor, "M 4"],
    half_length: Float64[Tensor, "M 1"],
    half_width: Float64[Tensor, "M 1"],
) -> Float64[Tensor, "M 4"]:
    """The integral of clamp(x, -half_length, half_length) dy from (x0, y0) to (x1, y1), where |y| < half_width."""
    clipped_0, clipped_1 = _clamp(y0, half_width), _clamp(y1, half_width)
    rise = y1 - y0
    slope = (x1 - x0) / torch.where(rise == 0, 1.0, rise)
    start, end = x0 + (clipped_0 - y0) * slope, x0 + (clipped_1 - y0) * slope
    return _mean_clamped(start, end, half_length) * (clipped_1 - clipped_0)


def _mean_clamped(
    start: Float64[Tensor, "M 4"], end: Float64[Tensor, "M 4"], limit: Float64[Tensor, "M 1"]
) -> Float64[Tensor, "M 4"]:
    """The mean of clamp(x, -limit, limit) for x between start and end."""
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    length = high - low
    below = (torch.minimum(high, -limit) - low).clamp(min=0)
    above = (high - torch.maximum(low, limit)).clamp(min=0)
    inner_low, inner_high = _clamp(low, limit), _clamp(high, limit)
    between = (inner_high - inner_low) * (inner_high + inner_low) / 2
    mean = (limit * (above - below) + between) / torch.where(length == 0, 1.0, length)
    # So short a way has no mean that float64 could tell from its ends.
    return torch.where(length < 1e-9, inner_low, mean)


def _clamp(values: Float64[Tensor, "M 4"], limit: Float64[Tensor, "M 1"]) -> Float64[Tensor, "M 4"]:
    return torch.maximum(torch.minimum(values, limit), -limit)


def _ratio(common: Float64[Tensor, "M"], union: Float64[Tensor, "M"]) -> Float64[Tensor, "M"]:
    return torch.where(union > 0, common / torch.where(union > 0, union, 1.0), 0.0)
