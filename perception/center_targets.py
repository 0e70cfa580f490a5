"""What the centre head should say: heatmaps with a peak at every object, and what belongs to each peak."""

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
# height of the centre (metres), log of width, length, height (metres), sin and cos of yaw, velocity (x, y; m/s).
CODE_SLICES: dict[str, slice] = {
    "offset": slice(0, 2),
    "height": slice(2, 3),
    "size": slice(3, 6),
    "yaw": slice(6, 8),
    "velocity": slice(8, 10),
}
CODE_SIZE = 10
_SMALLEST_SIZE = 0.01  # metres


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
    """heatmap: 1 at the cell of each object's centre, falling off around it. For the K objects: where they are, their
    codes (CODE_SLICES; velocity NaN where unknown), labels and attributes (-1: none).
    """

    heatmap: Float[Tensor, "B 10 Y X"]
    cells: CellIndex
    codes: Float[Tensor, "K 10"]
    labels: Int64[Tensor, "K"]
    attributes: Int64[Tensor, "K"]


def center_targets(boxes: Sequence[Boxes3D], grid: BevGrid, min_radius: int, device: torch.device) -> CenterTargets:
    """The targets of B sets of boxes (ego) on the head's grid.

    Left out are boxes whose centre lies off the grid, and boxes with a centre, size or yaw that is not finite or a
    size that is not positive. Where two objects of one group have their centres in one cell, the one with the larger
    footprint gets the cell's regression; the other keeps its peak in its own class's heatmap.
    """
    rows, columns = grid.shape
    heatmap = torch.zeros(len(boxes), len(DETECTION_CLASSES), rows, columns, device=device)
    groups = torch.tensor(GROUP_OF_CLASS, device=device)
    samples, kept_boxes, positions = [], [], []
    for index, given in enumerate(boxes):
        usable = given.to(device).to(torch.float32)
        position = grid.cells(usable.centers[:, :2])
        inside = _usable(usable) & (position >= 0).all(1) & (position < position.new_tensor([columns, rows])).all(1)
        usable, position = usable[inside], position[inside]
        _draw_peaks(heatmap[index], usable, position, grid, min_radius)
        chosen = _one_per_cell(usable, position.floor().long(), groups, columns)
        kept_boxes.append(usable[chosen])
        positions.append(position[chosen])
        samples.append(torch.full_like(chosen, index))
    labels = torch.cat([kept.labels for kept in kept_boxes])
    position = torch.cat(positions)
    cell = position.floor().long()
    return CenterTargets(
        heatmap=heatmap,
        cells=CellIndex(torch.cat(samples), groups[labels], cell[:, 1], cell[:, 0]),
        codes=torch.cat([_encode(kept, p - p.floor() - 0.5) for kept, p in zip(kept_boxes, positions, strict=True)]),
        labels=labels,
        attributes=torch.cat([kept.attributes for kept in kept_boxes]),
    )


def decode_codes(
    codes: Float[Tensor, "K 10"], cells: CellIndex, grid: BevGrid
) -> tuple[Float[Tensor, "K 3"], Float[Tensor, "K 3"], Float[Tensor, "K"], Float[Tensor, "K 2"]]:
    """Centres, sizes_wlh, yaws and velocities (ego) of the codes at these cells: the inverse of the targets."""
    origin = codes.new_tensor([grid.x_range[0], grid.y_range[0]])
    middle = torch.stack([cells.column, cells.row], dim=1) + 0.5
    centers_xy = (middle + codes[:, CODE_SLICES["offset"]]) * grid.cell_size + origin
    centers = torch.cat([centers_xy, codes[:, CODE_SLICES["height"]]], dim=1)
    sin, cos = codes[:, CODE_SLICES["yaw"]].unbind(1)
    return centers, codes[:, CODE_SLICES["size"]].exp(), torch.atan2(sin, cos), codes[:, CODE_SLICES["velocity"]]


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


def _one_per_cell(
    boxes: Boxes3D, cell: Int64[Tensor, "M 2"], groups: Int64[Tensor, "10"], columns: int
) -> Int64[Tensor, "K"]:
    """Indices of the boxes, in order, that own the regression of their group at their cell."""
    place = (groups[boxes.labels] * 2**20 + cell[:, 1]) * columns + cell[:, 0]
    by_size = torch.argsort(boxes.sizes_wlh[:, 0] * boxes.sizes_wlh[:, 1], descending=True, stable=True)
    owners, owner_of_box = torch.unique(place[by_size], return_inverse=True)
    rank = torch.arange(len(by_size), device=place.device)
    first = torch.full((len(owners),), len(by_size), device=place.device, dtype=torch.int64)
    return by_size[first.scatter_reduce(0, owner_of_box, rank, "amin")].sort().values


def _encode(boxes: Boxes3D, offset: Float[Tensor, "K 2"]) -> Float[Tensor, "K 10"]:
    return torch.cat(
        [
            offset,
            boxes.centers[:, 2:],
            boxes.sizes_wlh.clamp(min=_SMALLEST_SIZE).log(),
            torch.stack([boxes.yaws.sin(), boxes.yaws.cos()], dim=1),
            boxes.velocities,
        ],
        dim=1,
    )
