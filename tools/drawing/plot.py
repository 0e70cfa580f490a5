"""Lines over two axes, drawn into a picture: small panels that stand side by side and share their scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from tools.drawing.canvas import Text, fill, stroke
from tools.drawing.palette import FAINT, GROUND, INK, RING, SOFT, TILE, Color

_TICK_SIZE, _TITLE_SIZE = 17, 21
# Between a panel's edges and its axes: room for the ticks and the title.
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 54, 46


@dataclass(frozen=True)
class Panel:
    """Plot at (`left`, `top`), `width` by `height` pixels with title and ticks; x from 0 to 1, y from 0 to `y_top`."""

    left: int
    top: int
    width: int
    height: int
    y_top: float = 1.0

    def place(self, x: Float64[Tensor, "K"], y: Float64[Tensor, "K"]) -> Float64[Tensor, "K 2"]:
        """Where points are in the picture, pixels; values above the axis lie on its end."""
        u = self.left + _LEFT + x * (self.width - _LEFT - _RIGHT)
        v = self.top + self.height - _BOTTOM - (y / self.y_top).clamp(0, 1) * (self.height - _TOP - _BOTTOM)
        return torch.stack([u, v], dim=1)


def blended(color: Color, ground: Color, share: float) -> Color:
    """`share` of the colour, the rest of the ground."""
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(color, ground, strict=True))
    return red, green, blue


def draw_panel(
    picture: UInt8[Tensor, "H W 3"], panel: Panel, title: str, note: str, color: Color | None, *, faint: bool
) -> list[Text]:
    """The ground, the grid, and a square of the colour, if any; returns the ticks, the title and the note.

    Writing them takes the whole picture, so the words of all panels are better written at once.
    """
    right, bottom = panel.left + panel.width, panel.top + panel.height
    fill(picture, _rectangle(panel.left, panel.top, right, bottom), GROUND)
    texts = []
    for step in range(5):
        share = torch.tensor([step / 4, step / 4], dtype=torch.float64)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        stroke(picture, panel.place(ends, share * panel.y_top), RING if step == 0 else TILE, 2)
        stroke(picture, panel.place(share, ends * panel.y_top), RING if step == 0 else TILE, 2)
        u, v = panel.place(share[:1], share[:1] * panel.y_top)[0].tolist()
        texts.append(Text(panel.left + _LEFT - 10, v, f"{step / 4 * panel.y_top:g}", _TICK_SIZE, FAINT, "rm"))
        texts.append(Text(u, bottom - _BOTTOM + 10, f"{step / 4:g}", _TICK_SIZE, FAINT, "ma"))
    edge, baseline = panel.left + _LEFT, panel.top + 34
    if color is not None:
        fill(picture, _rectangle(edge, baseline - 13, edge + 13, baseline), color)
        edge += 23
    texts.append(Text(edge, baseline, title, _TITLE_SIZE, FAINT if faint else INK, "ls", "bold"))
    texts.append(Text(right - _RIGHT, baseline, note, _TITLE_SIZE, FAINT if faint else SOFT, "rs"))
    return texts


def shade(picture: UInt8[Tensor, "H W 3"], panel: Panel, x: tuple[float, float], y: tuple[float, float]) -> None:
    """A part of the plot that does not count, a little darker."""
    corners = panel.place(
        torch.tensor([x[0], x[1], x[1], x[0]], dtype=torch.float64),
        torch.tensor([y[0], y[0], y[1], y[1]], dtype=torch.float64),
    )
    fill(picture, corners, (0, 0, 0), 0.28)


def draw_line(
    picture: UInt8[Tensor, "H W 3"],
    panel: Panel,
    x: Sequence[float],
    y: Sequence[float],
    color: Color,
    thickness: int = 3,
) -> None:
    """A line through the points, broken where a value is not finite."""
    run: list[tuple[float, float]] = []
    for point in [*zip(x, y, strict=True), (math.nan, math.nan)]:
        if math.isfinite(point[0]) and math.isfinite(point[1]):
            run.append(point)
        elif run:
            points = torch.tensor(run, dtype=torch.float64)
            stroke(picture, panel.place(points[:, 0], points[:, 1]), color, thickness)
            run = []


def nice_top(values: Sequence[float]) -> float:
    """An end for an axis from 0 that shows all finite values: 1, 2, 4 or 8 times a power of ten, which has quarters."""
    largest = max([value for value in values if math.isfinite(value)], default=1.0)
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= largest * 0.999)


def _rectangle(left: int, top: int, right: int, bottom: int) -> Float32[Tensor, "4 2"]:
    corners = [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]
    return torch.tensor(corners, dtype=torch.float32)
