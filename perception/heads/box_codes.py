"""A box as a head regresses it: eleven numbers, seen from one cell of the BEV."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
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


@dataclass(frozen=True)
class CellIndex:
    """K places in a batch of BEVs: sample, class group, row, column."""

    sample: Int64[Tensor, "K"]
    group: Int64[Tensor, "K"]
    row: Int64[Tensor, "K"]
    column: Int64[Tensor, "K"]

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, index: Int64[Tensor, "N"]) -> "CellIndex":
        return CellIndex(self.sample[index], self.group[index], self.row[index], self.column[index])

    @classmethod
    def concatenated(cls, sets: "Sequence[CellIndex]") -> "CellIndex":
        """The places of one or more sets, one set after another."""
        return cls(
            sample=torch.cat([cells.sample for cells in sets]),
            group=torch.cat([cells.group for cells in sets]),
            row=torch.cat([cells.row for cells in sets]),
            column=torch.cat([cells.column for cells in sets]),
        )


@dataclass(frozen=True)
class BoxRegression:
    """What a network says of K boxes: codes (CODE_SLICES), logits of attributes, and of the quality where it is asked
    for (perception/heads/quality.py).
    """

    codes: Float[Tensor, "K 11"]
    attribute_logits: Float[Tensor, "K 8"]
    quality_logits: Float[Tensor, "K"] | None

    @staticmethod
    def width(quality: bool) -> int:
        """How many numbers stand for a box."""
        return CODE_SIZE + len(ATTRIBUTES) + quality

    @classmethod
    def of(cls, numbers: Float[Tensor, "K W"]) -> "BoxRegression":
        """From a layer's output of that `width`."""
        codes, attributes, quality = numbers.tensor_split((CODE_SIZE, cls.width(quality=False)), dim=1)
        return cls(codes, attributes, quality[:, 0] if quality.shape[1] else None)


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


def decode_boxes(
    regression: BoxRegression,
    cells: CellIndex,
    labels: Int64[Tensor, "K"],
    scores: Float[Tensor, "K"],
    grid: BevGrid,
) -> Boxes3D:
    """The boxes (ego, float32) of the codes at these cells; of attributes the likeliest that the class can have."""
    centers, sizes_wlh, yaws, velocities = decode_codes(regression.codes.float(), cells, grid)
    allowed = attributes_allowed(labels)
    best = regression.attribute_logits.float().masked_fill(~allowed, float("-inf")).argmax(dim=1)
    attributes = torch.where(allowed.any(dim=1), best, -1)
    return Boxes3D(centers, sizes_wlh, yaws, velocities, labels, scores, attributes)


def attributes_allowed(labels: Int64[Tensor, "K"]) -> Bool[Tensor, "K 8"]:
    """Which attributes objects of these classes can have."""
    # Filled on the CPU: on a GPU each class would wait for a copy of its list.
    table = torch.zeros(len(ATTRIBUTES_OF_CLASS), len(ATTRIBUTES), dtype=torch.bool)
    for label, allowed in enumerate(ATTRIBUTES_OF_CLASS):
        table[label, list(allowed)] = True
    return table.to(labels.device)[labels]


def learnable(boxes: Boxes3D, grid: BevGrid) -> Bool[Tensor, "M"]:
    """Boxes whose centre lies on the grid, with a finite centre, size and yaw and a positive size."""
    rows, columns = grid.shape
    position = grid.cells(boxes.centers[:, :2])
    finite = boxes.centers.isfinite().all(1) & boxes.sizes_wlh.isfinite().all(1) & boxes.yaws.isfinite()
    inside = (position >= 0).all(1) & (position < position.new_tensor([columns, rows])).all(1)
    return finite & inside & (boxes.sizes_wlh > 0).all(1)


def encode_codes(boxes: Boxes3D, offset: Float[Tensor, "K 2"]) -> Float[Tensor, "K 11"]:
    """The codes of boxes whose centres lie so far (x, y; cells) from the middle of their cell."""
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
