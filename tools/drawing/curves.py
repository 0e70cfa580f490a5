"""Curves as inline SVG, drawn here: a report needs no script and no network."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 34
# More points than this are averaged: nobody sees them, and the page stays small.
_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """Values over steps; those that are not finite are left out. `color` as CSS has it."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str


def smoothed(values: Sequence[float], half_width: int) -> list[float]:
    """Each value's mean with its neighbours up to `half_width` away; at the ends with those that there are."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        low, high = max(0, index - half_width), min(len(values), index + half_width + 1)
        means.append((sums[high] - sums[low]) / (high - low))
    return means


def chart(curves: Sequence[Curve], title: str, faint: Sequence[Curve] = ()) -> str:
    """An SVG picture of the curves over a common axis from 0; `faint` ones (raw values) lie behind, without a name.

    The axis ends at the 99th percentile of what is shown, so that a wild first step does not flatten the rest.
    """
    points = [
        (step, value)
        for curve in (*curves, *faint)
        for step, value in zip(curve.steps, curve.values, strict=True)
        if math.isfinite(step) and math.isfinite(value)
    ]
    if not points:
        return f'<p class="faint">{html.escape(title)}: no values.</p>'
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    values = sorted(value for _, value in points)
    top = _nice_above(max(values[min(len(values) - 1, int(0.99 * len(values)))], 1e-9))
    scale = _Scale(first, max(last, first + 1), top)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{html.escape(title)}</title>",
        *_axes(scale),
        *(_path(curve, scale, 0.28, 1.0) for curve in faint),
        *(_path(curve, scale, 1.0, 2.2) for curve in curves),
        *_names(curves),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    first: float
    last: float
    top: float

    def u(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def v(self, value: float) -> float:
        share = min(max(value / self.top, 0.0), 1.05)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _nice_above(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def _axes(scale: _Scale) -> list[str]:
    parts = []
    for index in range(5):
        value = scale.top * index / 4
        v = scale.v(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{v:.1f}" y2="{v:.1f}" />')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{v + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for index in range(5):
        step = scale.first + (scale.last - scale.first) * index / 4
        anchor = "start" if index == 0 else "end" if index == 4 else "middle"
        parts.append(
            f'<text class="tick" x="{scale.u(step):.1f}" y="{_HEIGHT - 12}" text-anchor="{anchor}">{step:.0f}</text>'
        )
    return parts


def _path(curve: Curve, scale: _Scale, opacity: float, width: float) -> str:
    stride = max(1, len(curve.steps) // _MOST_POINTS)
    words: list[str] = []
    for start in range(0, len(curve.steps), stride):
        block = [value for value in curve.values[start : start + stride] if math.isfinite(value)]
        if block:
            u, v = scale.u(curve.steps[start]), scale.v(sum(block) / len(block))
            words.append(f"{'L' if words else 'M'}{u:.1f} {v:.1f}")
    return (
        f'<path d="{" ".join(words)}" fill="none" stroke="{html.escape(curve.color)}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round" />'
    )


def _names(curves: Sequence[Curve]) -> list[str]:
    if len(curves) < 2:
        return []
    parts = []
    for index, curve in enumerate(curves):
        v = _TOP + 14 + 17 * index
        color = html.escape(curve.color)
        parts.append(f'<rect x="{_WIDTH - 150}" y="{v - 8}" width="12" height="4" fill="{color}" />')
        parts.append(f'<text class="tick" x="{_WIDTH - 132}" y="{v - 2}">{html.escape(curve.name)}</text>')
    return parts
