"""Lift-splat's pooling beside the cumsum trick of its authors, on one thread."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.splat import SplatPlan, splat
from tools.benchmarks.side_by_side import Agreement, Comparison, interleaved

# How far results may lie apart, as a share of the largest number. The running sum of the cumsum trick over all points
# is what is inexact; its gradients are not.
_OUTPUT_BOUND, _GRADIENT_BOUND, _EXACT_BOUND = 1e-3, 1e-4, 1e-5


@dataclass(frozen=True)
class PoolingSize:
    """Cameras all round, features of `rows` x `columns`, and a square BEV of `cells` x `cells` of half a metre."""

    cameras: int = 6
    rows: int = 16
    columns: int = 44
    bins: int = 41
    channels: int = 64
    cells: int = 200


def bench_pooling(size: PoolingSize, rounds: int, repeats: int) -> tuple[Comparison, ...]:
    """Forward, and forward with backward; with the geometry of the call before, and with a new one at every call."""
    lift, images = _lift(size), _images(size)
    generator = torch.Generator().manual_seed(0)
    pixels = size.cameras * size.rows * size.columns
    depth = torch.randn(pixels, size.bins, generator=generator).softmax(dim=1).requires_grad_()
    context = torch.randn(pixels, size.channels, generator=generator).requires_grad_()
    cell_count = size.cells**2
    grad = torch.randn(cell_count, size.channels, generator=generator)

    def cells() -> Int32[Tensor, "P D"]:
        return lift.cells(images).flatten(0, 2)

    kept_cells = cells()
    kept_plan = SplatPlan.of(kept_cells, cell_count)

    def backward(pool: Callable[[], Tensor]) -> Callable[[], Sequence[Tensor]]:
        return lambda: torch.autograd.grad(pool(), [depth, context], grad)

    def without_gradient(pool: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return pool()

        return run

    kept: dict[str, Callable[[], Tensor]] = {
        "bevel": lambda: splat(depth, context, kept_plan),
        "cumsum trick": lambda: cumsum_trick(depth, context, kept_cells, cell_count),
    }
    new: dict[str, Callable[[], Tensor]] = {
        "bevel": lambda: splat(depth, context, SplatPlan.of(cells(), cell_count)),
        "cumsum trick": lambda: cumsum_trick(depth, context, cells(), cell_count),
    }
    points, hit = int((kept_cells >= 0).sum()), int((kept_plan.cell_starts.diff() > 0).sum())
    work = f"lift-splat, {points} of {pixels * size.bins} points in {hit} cells, {size.channels} channels"
    outputs = _compared(without_gradient(kept["bevel"])(), without_gradient(kept["cumsum trick"])(), _OUTPUT_BOUND)
    exact = _compared(
        without_gradient(kept["bevel"])().double(),
        splat(depth.detach().double(), context.detach().double(), kept_plan),
        _EXACT_BOUND,
    )
    forward = Agreement(f"outputs {outputs.words}; {exact.words} of float64", outputs.within and exact.within)
    pairs = zip(backward(kept["bevel"])(), backward(kept["cumsum trick"])(), strict=True)
    gradients = [_compared(ours, theirs, _GRADIENT_BOUND) for ours, theirs in pairs]
    both = Agreement(
        f"gradients {gradients[0].words} (depths), {gradients[1].words} (features)",
        all(agreement.within for agreement in gradients),
    )
    comparisons = []
    for name, ways in (("kept geometry", kept), ("new geometry", new)):
        runs = {way: without_gradient(pool) for way, pool in ways.items()}
        comparisons.append(Comparison.of(f"{work}, {name}, forward", interleaved(runs, rounds, repeats), forward))
        trained = {way: backward(pool) for way, pool in ways.items()}
        times = interleaved(trained, rounds, repeats)
        comparisons.append(Comparison.of(f"{work}, {name}, forward and backward", times, both))
    return tuple(comparisons)


def cumsum_trick(
    depth: Float[Tensor, "P D"], context: Float[Tensor, "P C"], cells: Int32[Tensor, "P D"], cell_count: int
) -> Float[Tensor, "cells C"]:
    """The pooling of Lift-Splat-Shoot (Philion and Fidler 2020), written from its description.

    Every point of the frustum gets its features, the outer product of depths and context. The points on the grid are
    sorted by cell; a sum runs over all of them; a cell's sum is the difference of the running sum at its last point and
    at the last point of the cell before. The gradient of a point is that of its cell.
    """
    points = (depth[:, :, None] * context[:, None, :]).flatten(0, 1)
    owner = cells.flatten()
    points, owner = points[owner >= 0], owner[owner >= 0].long()
    order = torch.argsort(owner)
    out: Tensor = _CumsumPool.apply(points[order], owner[order], cell_count)  # type: ignore[no-untyped-call]
    return out


class _CumsumPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Float[Tensor, "E C"], owner: Tensor, cell_count: int) -> Float[Tensor, "cells C"]:
        ctx.save_for_backward(owner)
        running = points.cumsum(dim=0)
        last = torch.ones_like(owner, dtype=torch.bool)
        last[:-1] = owner[1:] != owner[:-1]
        ends = running[last]
        sums = torch.cat([ends[:1], ends[1:] - ends[:-1]])
        return points.new_zeros(cell_count, points.shape[1]).index_copy(0, owner[last], sums)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (owner,) = ctx.saved_tensors
        return grads[0][owner], None, None


def _compared(ours: Tensor, theirs: Tensor, bound: float) -> Agreement:
    off = float((ours - theirs).abs().max() / theirs.abs().max())
    return Agreement(f"within {off:.1e}, bound {bound:.0e}", off <= bound)


def _lift(size: PoolingSize) -> LiftSplat:
    half = size.cells / 4
    config = LiftSplatConfig(depth_range=(4.0, 45.0), depth_bins=size.bins, z_range=(-10.0, 10.0))
    return LiftSplat(config, BevGrid((-half, half), (-half, half), 0.5), in_channels=1, channels=size.channels)


def _images(size: PoolingSize) -> ImageFeatures:
    """The cameras' geometry, with a focal length as nuScenes' have; without features."""
    height, width = 16 * size.rows, 16 * size.columns
    intrinsics = torch.tensor([[0.79 * width, 0.0, width / 2], [0.0, 0.79 * width, height / 2], [0.0, 0.0, 1.0]])
    poses = []
    for camera in range(size.cameras):
        yaw = 2 * math.pi * camera / size.cameras
        pose = torch.eye(4)
        pose[:3, 0] = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
        pose[:3, 1] = torch.tensor([0.0, 0.0, -1.0])
        pose[:3, 2] = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
        pose[2, 3] = 1.5
        poses.append(pose)
    return ImageFeatures(
        features=torch.zeros(size.cameras, 1, size.rows, size.columns),
        intrinsics=intrinsics.repeat(size.cameras, 1, 1),
        ego_from_cam=torch.stack(poses),
        sample_index=torch.zeros(size.cameras, dtype=torch.int64),
        batch_size=1,
        image_size=(height, width),
        stride=16,
    )
