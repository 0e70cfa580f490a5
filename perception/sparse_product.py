"""The product of a sparse matrix with a dense one: how sums over points and pixels are taken.

On the CPU it is many times as fast as index_add, and it sums in the same order on every run. On CUDA cuSPARSE promises
no order; after torch.use_deterministic_algorithms(True) the sums are taken in order there, too, with all their terms in
memory.

In the numbers' own type under autocast, too: it takes the product of a sparse matrix for one of those that bfloat16 is
good enough for, and the mean of a voxel's points would come out half a metre off.
"""

import warnings
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

# torch calls its CSR layout beta, once in every process; nothing beyond construction and product is used here.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def sparse_product(
    row_starts: Int[Tensor, "_"],
    columns: Int[Tensor, "E"],
    values: Float[Tensor, "E"],
    dense: Float[Tensor, "P C"],
) -> Float[Tensor, "R C"]:
    """Row r of the result: the sum of values[e] * dense[columns[e]] over e from row_starts[r] to row_starts[r + 1].

    row_starts has one number more than there are rows. A column may stand twice in a row. No gradients: the callers
    know them in a cheaper form than autograd does.
    """
    if in_order_on_cuda(dense):
        return product_in_order(row_starts, columns, values, dense)
    size = (len(row_starts) - 1, len(dense))
    matrix = torch.sparse_csr_tensor(row_starts, columns, values, size=size, check_invariants=False)
    with torch.autocast(dense.device.type, enabled=False):
        return matrix @ dense


def sampled_product(
    row_starts: Int[Tensor, "_"],
    columns: Int[Tensor, "E"],
    left: Float[Tensor, "R C"],
    right: Float[Tensor, "P C"],
) -> Float[Tensor, "E"]:
    """left[row] . right[columns[e]] for each entry e: the gradient of a sparse product's values. No gradients."""
    if in_order_on_cuda(right):
        rows = torch.repeat_interleave(torch.arange(len(left), device=left.device), row_starts.diff())
        return (left.index_select(0, rows) * right.index_select(0, columns)).sum(dim=1)
    size, no_values = (len(left), len(right)), left.new_zeros(len(columns))
    pattern = torch.sparse_csr_tensor(row_starts, columns, no_values, size=size, check_invariants=False)
    values: Tensor = torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
    return values


def product_in_order(
    row_starts: Int[Tensor, "_"], columns: Int[Tensor, "E"], values: Float[Tensor, "E"], dense: Float[Tensor, "P C"]
) -> Float[Tensor, "R C"]:
    """`sparse_product`, each row's terms added one after the other."""
    terms = values[:, None] * dense.index_select(0, columns)
    # Offsets of the type of lengths: int64.
    return torch.segment_reduce(terms, "sum", offsets=row_starts.long(), initial=0.0)


def in_order_on_cuda(tensor: Tensor) -> bool:
    """Whether cuSPARSE would take a sum that must have an order."""
    return tensor.is_cuda and torch.are_deterministic_algorithms_enabled()


def starts_of(counts: Int64[Tensor, "R"]) -> Int64[Tensor, "_"]:
    """Where each of R rows starts, and the end of the last, from the number of entries in each."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class FixedMatrix:
    """A sparse matrix (CSR) that many dense ones are multiplied by. Its transpose is made at the first gradient."""

    def __init__(
        self,
        row_starts: Int[Tensor, "_"],
        columns: Int[Tensor, "E"],
        values: Float[Tensor, "E"],
        column_count: int,
    ) -> None:
        self.row_starts, self.columns = row_starts.int(), columns.int()
        self.values, self.column_count = values, column_count

    @cached_property
    def transposed(self) -> "FixedMatrix":
        """Columns as rows."""
        order = torch.argsort(self.columns, stable=True)
        row_count = len(self.row_starts) - 1
        row = torch.repeat_interleave(torch.arange(row_count, device=order.device), self.row_starts.diff())
        starts = starts_of(torch.bincount(self.columns, minlength=self.column_count))
        return FixedMatrix(starts, row[order], self.values[order], row_count)

    def times(self, dense: Float[Tensor, "P C"]) -> Float[Tensor, "R C"]:
        """The product. Gradients flow to the dense factor."""
        out: Tensor = _FixedProduct.apply(dense, self)  # type: ignore[no-untyped-call]
        return out


class _FixedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Float[Tensor, "P C"], matrix: FixedMatrix) -> Float[Tensor, "R C"]:
        ctx.matrix = matrix
        return sparse_product(matrix.row_starts, matrix.columns, matrix.values, dense.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        matrix = ctx.matrix.transposed
        return sparse_product(matrix.row_starts, matrix.columns, matrix.values, grads[0].contiguous()), None
