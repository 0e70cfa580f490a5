"""What the centre head should say: heatmaps with a peak at every object, and what belongs to each peak."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.grid import BevGrid
from perception.heads.box_codes import GROUP_OF_CLASS, CellIndex, encode_codes, learnable

# The cells around an object's own are eight; they must not outvote the one that is nearly always read.
_NEIGHBOUR_WEIGHT = 0.1


@dataclass(frozen=True)
class CenterTargets:
    """heatmap: 1 at the cell of each object's centre, falling off around it. For the K cells that belong to an object:
    where they are, how much they count (1 at the object's own cell), the object's code seen from there (CODE_SLICES;
    velocity NaN where unknown), label and attribute (-1: none).
    """

    heatmap: Float[Tensor, "B 10 Y X"]
    cells: CellIndex
    weights: Float[Tensor, "K"]
    codes: Float[Tensor, "K 11"]
    labels: Int64[Tensor, "K"]
    attributes: Int64[Tensor, "K"]


def center_targets(
    boxes: Sequence[Boxes3D], grid: BevGrid, min_radius: int, reach: int, device: torch.device
) -> CenterTargets:
    """The targets of B sets of boxes (ego) on the head's grid. `min_radius`: of a peak, cells.

    An object's code is asked for at its own cell and at those up to `reach` cells away (CenterPoint: 0). So a peak that
    comes out one cell off still reads the right box, and the cells of one object agree on where it is. A cell belongs,
    within a class group, to the object whose centre lies in it, otherwise to the one with the nearest centre; where
    several centres lie in it, to that nearest to its middle.

    Left out are boxes whose centre lies off the grid, and boxes with a centre, size or yaw that is not finite or a
    size that is not positive.
    """
    rows, columns = grid.shape
    heatmap = torch.zeros(len(boxes), len(DETECTION_CLASSES), rows, columns, device=device)
    groups = torch.tensor(GROUP_OF_CLASS, device=device)
    parts: list[CenterTargets] = []
    for index, given in enumerate(boxes):
        kept = given.to(device).to(torch.float32)
        kept = kept[learnable(kept, grid)]
        position = grid.cells(kept.centers[:, :2])
        _draw_peaks(heatmap[index], kept, position, grid, min_radius)
        owner, cell = _owned_cells(position, groups[kept.labels], grid.shape, reach)
        owners = kept[owner]
        own = (position[owner].floor().long() == cell).all(dim=1)
        parts.append(
            CenterTargets(
                heatmap=heatmap[index : index + 1],
                cells=CellIndex(torch.full_like(owner, index), groups[owners.labels], cell[:, 1], cell[:, 0]),
                weights=torch.where(own, 1.0, _NEIGHBOUR_WEIGHT),
                codes=encode_codes(owners, position[owner] - cell - 0.5),
                labels=owners.labels,
                attributes=owners.attributes,
            )
        )
    return CenterTargets(
        heatmap=heatmap,
        cells=CellIndex.concatenated([part.cells for part in parts]),
        weights=torch.cat([part.weights for part in parts]),
        codes=torch.cat([part.codes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        attributes=torch.cat([part.attributes for part in parts]),
    )


def gaussian_radius(
    lengths: Float[Tensor, "M"], widths: Float[Tensor, "M"], min_overlap: float = 0.1
) -> Float[Tensor, "M"]:
    """How many cells the corners of a box (length, width in cells) may be off and the boxes still overlap this much.

    CornerNet's rule (Law and Deng 2018): the least of three cases, with the roots of the quadratic equations as they
    should be (the published code divides two of them by 2 instead of by 2a).
    """
    total, area = lengths + widths, lengths * widths
    # One box shifted against the other by r both ways: (l - r)(w - r) / (2 l w - (l - r)(w - r)) = overlap.
    shifted = (total - (total.square() - 4 * area * (1 - min_overlap) / (1 + min_overlap)).clamp(min=0).sqrt()) / 2
    # Smaller by r on all sides: (l - 2 r)(w - 2 r) / (l w) = overlap.
    smaller = (total - (total.square() - 4 * area * (1 - min_overlap)).clamp(min=0).sqrt()) / 4
    # Larger by r on all sides: (l w) / ((l + 2 r)(w + 2 r)) = overlap.
    larger = (-total + (total.square() + 4 * area * (1 / min_overlap - 1)).sqrt()) / 4
    return torch.stack([shifted, smaller, larger]).amin(dim=0)


def _draw_peaks(
    heatmap: Float[Tensor, "10 Y X"], boxes: Boxes3D, position: Float[Tensor, "M 2"], grid: BevGrid, min_radius: int
) -> None:
    """Raise the heatmap, in place, to a Gaussian around each object's cell."""
    rows, columns = heatmap.shape[1:]
    radii = gaussian_radius(boxes.sizes_wlh[:, 1] / grid.cell_size, boxes.sizes_wlh[:, 0] / grid.cell_size)
    whole = radii.long().clamp(min=min_radius).tolist()
    for label, (column, row), radius in zip(boxes.labels.tolist(), position.long().tolist(), whole, strict=True):
        steps = torch.arange(-radius, radius + 1, device=heatmap.device)
        bell = torch.exp(-steps.square() / (2 * ((2 * radius + 1) / 6) ** 2))
        top, left = min(row, radius), min(column, radius)
        bottom, right = min(rows - row, radius + 1), min(columns - column, radius + 1)
        patch = heatmap[label, row - top : row + bottom, column - left : column + right]
        around = bell[radius - top : radius + bottom, None] * bell[radius - left : radius + right]
        torch.maximum(patch, around, out=patch)


def _owned_cells(
    position: Float[Tensor, "M 2"], groups: Int64[Tensor, "M"], shape: tuple[int, int], reach: int
) -> tuple[Int64[Tensor, "K"], Int64[Tensor, "K 2"]]:
    """Each cell (column, row) that belongs to an object, and which object that is."""
    rows, columns = shape
    steps = torch.arange(-reach, reach + 1, device=position.device)
    around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    cell = (position.floor().long()[:, None] + around).reshape(-1, 2)
    owner = torch.arange(len(position), device=position.device).repeat_interleave(len(around))
    inside = ((cell >= 0) & (cell < cell.new_tensor([columns, rows]))).all(1)
    cell, owner = cell[inside], owner[inside]
    place = (groups[owner] * rows + cell[:, 1]) * columns + cell[:, 0]
    foreign = (position[owner].floor().long() != cell).any(1)
    # A distance is below the window's size: what is added puts a cell's own object before all others.
    claim = (position[owner] - cell - 0.5).norm(dim=1) + foreign * 4.0 * (reach + 1)
    best_first = torch.argsort(claim, stable=True)
    best_first = best_first[torch.argsort(place[best_first], stable=True)]
    sorted_place = place[best_first]
    first = torch.ones_like(sorted_place, dtype=torch.bool)
    first[1:] = sorted_place[1:] != sorted_place[:-1]
    winners = best_first[first]
    return owner[winners], cell[winners]
