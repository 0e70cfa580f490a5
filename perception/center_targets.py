"""What the centre head should say: heatmaps with a peak at every object, and what belongs to each peak."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.grid import BevGrid

# Classes that share one set of regressions (CenterPoint, Yin et al. 2021): objects of one group cannot stand in one
# cell, objects of two groups can (a traffic cone before a truck's bumper).
CLASS_GROUPS: tuple[tuple[str, ...], ...] = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
# Label -> index of its group.
GROUP_OF_CLASS: tuple[int, ...] = tuple(
    next(index for index, group in enumerate(CLASS_GROUPS) if name in group) for name in DETECTION_CLASSES
)

# A box as the head regresses it, relative to its cell: offset of the centre from the cell's middle (x, y; cells),
# height of the centre (metres), log of width, length, height (metres), sin and cos of twice the yaw (the axis along
# which the box lies), on which side of the axis its front is (+1 or -1; the network puts out a logit), velocity (x, y;
# m/s). A network that sees along which axis a car stands, but not yet where its front is, would regress the mean of
# two opposite headings, which is neither; so axis and front are apart (SECOND, Yan et al. 2018, has a class for the
# front too).
CODE_SLICES: dict[str, slice] = {
    "offset": slice(0, 2),
    "height": slice(2, 3),
    "size": slice(3, 6),
    "axis": slice(6, 8),
    "front": slice(8, 9),
    "velocity": slice(9, 11),
}
CODE_SIZE = 11
# Where a heading turns from one side of its axis to the other: at -45 and 135 degrees, away from the streets along and
# across the vehicle's own, so that a small turn of such a car never changes the answer.
_FRONT_SEAM = -math.pi / 4
_SMALLEST_SIZE = 0.01  # metres
# The cells around an object's own are eight; they must not outvote the one that is nearly always read.
_NEIGHBOUR_WEIGHT = 0.1


@dataclass(frozen=True)
class CellIndex:
    """K places in a batch of BEVs: sample, class group, row, column."""

    sample: Int64[Tensor, "K"]
    group: Int64[Tensor, "K"]
    row: Int64[Tensor, "K"]
    column: Int64[Tensor, "K"]

    def __len__(self) -> int:
        return len(self.sample)


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
        position = grid.cells(kept.centers[:, :2])
        kept = kept[_usable(kept) & (position >= 0).all(1) & (position < position.new_tensor([columns, rows])).all(1)]
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
                codes=_encode(owners, position[owner] - cell - 0.5),
                labels=owners.labels,
                attributes=owners.attributes,
            )
        )
    return CenterTargets(
        heatmap=heatmap,
        cells=CellIndex(
            sample=torch.cat([part.cells.sample for part in parts]),
            group=torch.cat([part.cells.group for part in parts]),
            row=torch.cat([part.cells.row for part in parts]),
            column=torch.cat([part.cells.column for part in parts]),
        ),
        weights=torch.cat([part.weights for part in parts]),
        codes=torch.cat([part.codes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        attributes=torch.cat([part.attributes for part in parts]),
    )


def decode_codes(
    codes: Float[Tensor, "K 11"], cells: CellIndex, grid: BevGrid
) -> tuple[Float[Tensor, "K 3"], Float[Tensor, "K 3"], Float[Tensor, "K"], Float[Tensor, "K 2"]]:
    """Centres, sizes_wlh, yaws and velocities (ego) of the codes at these cells: the inverse of the targets."""
    origin = codes.new_tensor([grid.x_range[0], grid.y_range[0]])
    middle = torch.stack([cells.column, cells.row], dim=1) + 0.5
    centers_xy = (middle + codes[:, CODE_SLICES["offset"]]) * grid.cell_size + origin
    centers = torch.cat([centers_xy, codes[:, CODE_SLICES["height"]]], dim=1)
    sin, cos = codes[:, CODE_SLICES["axis"]].unbind(1)
    axis = torch.atan2(sin, cos) / 2
    axis = torch.where(axis < _FRONT_SEAM, axis + math.pi, axis)  # in [-45, 135) degrees
    turned = torch.where(codes[:, CODE_SLICES["front"]][:, 0] > 0, axis, axis + math.pi)
    yaws = torch.atan2(turned.sin(), turned.cos())
    return centers, codes[:, CODE_SLICES["size"]].exp(), yaws, codes[:, CODE_SLICES["velocity"]]


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


def _usable(boxes: Boxes3D) -> Bool[Tensor, "M"]:
    finite = boxes.centers.isfinite().all(1) & boxes.sizes_wlh.isfinite().all(1) & boxes.yaws.isfinite()
    return finite & (boxes.sizes_wlh > 0).all(1)


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


def _encode(boxes: Boxes3D, offset: Float[Tensor, "K 2"]) -> Float[Tensor, "K 11"]:
    return torch.cat(
        [
            offset,
            boxes.centers[:, 2:],
            boxes.sizes_wlh.clamp(min=_SMALLEST_SIZE).log(),
            torch.stack([(2 * boxes.yaws).sin(), (2 * boxes.yaws).cos(), _front(boxes.yaws)], dim=1),
            boxes.velocities,
        ],
        dim=1,
    )


def _front(yaws: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """+1 for headings in [-45, 135) degrees, -1 for the others."""
    return torch.where((yaws - _FRONT_SEAM) % (2 * math.pi) < math.pi, 1.0, -1.0)
