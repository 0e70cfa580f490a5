"""A table of shares as a picture: a row for each corruption, a tile for each severity, warm where little is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import UInt8
from torch import Tensor

from tools.drawing.canvas import Text, blank, letter, text_width
from tools.drawing.palette import FAINT, INK, PAGE, SOFT, TILE, Color

_PAD, _NAME_WIDTH, _TILE_WIDTH, _TILE_HEIGHT, _GAP, _END_WIDTH = 28, 232, 146, 46, 3, 92
_HEADER, _FOOTER = 92, 56
# From nothing kept to all of it.
_STOPS: tuple[tuple[float, Color], ...] = (
    (0.0, (122, 28, 66)),
    (0.35, (204, 74, 60)),
    (0.65, (226, 150, 74)),
    (0.85, (196, 196, 120)),
    (1.0, (72, 158, 148)),
)


@dataclass(frozen=True)
class HeatCell:
    """One tile: its column (from 1), what it is called, the share that gives its colour (None: not defined), and the
    value that is written on it."""

    column: int
    label: str
    share: float | None
    value: str


@dataclass(frozen=True)
class HeatRow:
    """A row of tiles and what stands at its end, their mean."""

    name: str
    cells: tuple[HeatCell, ...]
    mean: float | None


def draw_heat_table(title: str, rows: Sequence[HeatRow]) -> UInt8[Tensor, "H W 3"]:
    """The picture. A row with more tiles than the longest of six columns goes on in the next line."""
    columns = max(6, min(8, max((cell.column for row in rows for cell in row.cells), default=1)))
    lines = [(row, part) for row in rows for part in _in_lines(row, columns)]
    width = 2 * _PAD + _NAME_WIDTH + columns * (_TILE_WIDTH + _GAP) + _END_WIDTH
    height = _HEADER + len(lines) * (_TILE_HEIGHT + _GAP) + _FOOTER
    picture = blank(height, width, PAGE)
    texts = [
        Text(_PAD, 40, title, 24, INK, "ls", "bold"),
        Text(_PAD, 66, "share of the clean NDS that is kept, and the NDS", 15, SOFT, "ls"),
        Text(width - _PAD, 66, "mean kept", 15, SOFT, "rs"),
    ]
    seen: set[str] = set()
    for line, (row, cells) in enumerate(lines):
        top = _HEADER + line * (_TILE_HEIGHT + _GAP)
        middle = top + _TILE_HEIGHT / 2
        if row.name not in seen:
            texts.append(Text(_PAD, middle, row.name, 16, INK, "lm"))
            if row.mean is not None:
                texts.append(Text(width - _PAD, middle, f"{row.mean:.0%}", 17, INK, "rm", "bold"))
            seen.add(row.name)
        for place, cell in cells:
            left = _PAD + _NAME_WIDTH + place * (_TILE_WIDTH + _GAP)
            texts += _tile(picture, cell, left, top)
    texts += _scale(picture, height - _FOOTER + 18)
    letter(picture, texts)
    return picture


def _in_lines(row: HeatRow, columns: int) -> list[list[tuple[int, HeatCell]]]:
    """The tiles with their places, line by line."""
    count = max(-(-cell.column // columns) for cell in row.cells) if row.cells else 1
    lines: list[list[tuple[int, HeatCell]]] = [[] for _ in range(count)]
    for cell in row.cells:
        lines[(cell.column - 1) // columns].append(((cell.column - 1) % columns, cell))
    return [line for line in lines if line] or [[]]


def _tile(picture: UInt8[Tensor, "H W 3"], cell: HeatCell, left: int, top: int) -> list[Text]:
    color = TILE if cell.share is None else share_color(cell.share)
    picture[top : top + _TILE_HEIGHT, left : left + _TILE_WIDTH] = torch.tensor(color, dtype=torch.uint8)
    light = sum(weight * value for weight, value in zip((0.299, 0.587, 0.114), color, strict=True))
    ink: Color = (16, 18, 22) if light > 120 else INK
    kept = "-" if cell.share is None else f"{cell.share:.0%}"
    label = cell.label
    while text_width(label, 12) > _TILE_WIDTH - 12 and len(label) > 1:
        label = label[:-1]
    return [
        Text(left + 8, top + 21, kept, 16, ink, "ls", "bold"),
        Text(left + _TILE_WIDTH - 8, top + 21, cell.value, 13, ink, "rs"),
        Text(left + 8, top + 38, label, 12, ink, "ls"),
    ]


def _scale(picture: UInt8[Tensor, "H W 3"], top: int) -> list[Text]:
    left, width = _PAD + _NAME_WIDTH, 320
    for step in range(width):
        color = torch.tensor(share_color(step / (width - 1)), dtype=torch.uint8)
        picture[top : top + 12, left + step] = color
    return [
        Text(left - 10, top + 11, "nothing", 13, FAINT, "rs"),
        Text(left + width + 10, top + 11, "all", 13, FAINT, "ls"),
    ]


def share_color(share: float) -> Color:
    """The colour of a share; below 0 and above 1 that of the end."""
    clamped = min(max(share, 0.0), 1.0)
    for (low, start), (high, end) in pairwise(_STOPS):
        if clamped <= high:
            part = (clamped - low) / (high - low)
            red, green, blue = (round(a + part * (b - a)) for a, b in zip(start, end, strict=True))
            return red, green, blue
    return _STOPS[-1][1]
