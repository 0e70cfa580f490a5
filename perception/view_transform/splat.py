"""Pixels' features to the cells that their depths fall into: one product with a sparse matrix of probabilities."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from perception.sparse_product import sampled_product, sparse_product, starts_of


@dataclass(frozen=True)
class SplatPlan:
    """The pattern of the sparse matrix, which follows from the geometry alone. An entry: a pixel at a depth bin.

    entries (E): pixel * bins + bin of those that fall on the grid. by_cell: the same in the order of their cells.
    pixels: the pixel of each of those; cell_starts: where each cell's begin.
    """

    entries: Int32[Tensor, "E"]
    cells: Int32[Tensor, "E"]
    by_cell: Int32[Tensor, "E"]
    pixels: Int32[Tensor, "E"]
    cell_starts: Int32[Tensor, "_"]
    pixel_count: int
    bins: int

    @classmethod
    def of(cls, cells: Int32[Tensor, "P D"], cell_count: int) -> "SplatPlan":
        """From the cell of each pixel at each depth, -1 where that is nowhere."""
        flat = cells.flatten()
        # int32 throughout: what is numbered is in memory, and MKL and cuSPARSE need no conversion.
        entries = torch.nonzero(flat >= 0)[:, 0].int()
        cell = flat.index_select(0, entries)
        # Stable: within a cell the sum runs in a fixed order.
        ordered, order = torch.sort(cell, stable=True)
        by_cell = entries.index_select(0, order)
        starts = starts_of(torch.bincount(ordered, minlength=cell_count)).int()
        # Two bins of a pixel may fall into one cell: such a pixel stands twice in the cell's row.
        return cls(entries, cell, by_cell, by_cell // cells.shape[1], starts, *cells.shape)

    @cached_property
    def pixel_starts(self) -> Int32[Tensor, "_"]:
        """Where the entries of each pixel begin: they are in the order of the pixels, as the transposed matrix."""
        return starts_of(torch.bincount(self.entries // self.bins, minlength=self.pixel_count)).int()


def splat(depth: Float[Tensor, "P D"], context: Float[Tensor, "P C"], plan: SplatPlan) -> Float[Tensor, "cells C"]:
    """out[cell] = the sum over the plan's pixels p and bins d that fall into the cell of depth[p, d] * context[p]."""
    out: Tensor = _Splat.apply(depth, context, plan)  # type: ignore[no-untyped-call]
    return out


class _Splat(torch.autograd.Function):
    """The sparse product. Its gradients: the transposed product for the features, inner products for the depths."""

    @staticmethod
    def forward(
        ctx: Any, depth: Float[Tensor, "P D"], context: Float[Tensor, "P C"], plan: SplatPlan
    ) -> Float[Tensor, "cells C"]:
        context = context.contiguous()
        ctx.save_for_backward(depth, context)
        ctx.plan = plan
        return sparse_product(plan.cell_starts, plan.pixels, depth.flatten().index_select(0, plan.by_cell), context)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        depth, context = ctx.saved_tensors
        plan, grad = ctx.plan, grads[0].contiguous()
        values = depth.flatten().index_select(0, plan.entries)
        grad_context = sparse_product(plan.pixel_starts, plan.cells, values, grad)
        grad_values = sampled_product(plan.pixel_starts, plan.cells, context, grad)
        grad_depth = depth.new_zeros(depth.numel()).index_copy(0, plan.entries.long(), grad_values).view_as(depth)
        return grad_depth, grad_context, None
