"""The figures of several datasets side by side, as Markdown that a terminal shows well, and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from datasets.nuscenes.statistics.figures import Figure

FACTOR = 1.5
# The same factor in decibels.
_DECIBELS = 10 * math.log10(FACTOR)
_NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A dataset (or several taken together): its name, and all figures in the order of the measurement."""

    name: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Difference:
    """One number of the first column held against the same of the second; `outside`: by more than FACTOR."""

    text: str
    outside: bool


def markdown(columns: Sequence[Column]) -> str:
    """One table. Rows that know nothing, or are 0, in every column are left out.

    With several columns the last one holds the first against the second.
    """
    compared = len(columns) > 1
    header = ["statistic", *(cell for column in columns for cell in (column.name, "n"))]
    rows = [[*header, "ratio"] if compared else header]
    for section, figures in groupby(_rows(columns), key=lambda row: row[0].section):
        rows.append([f"**{section}**", *[""] * (len(rows[0]) - 1)])
        for row in figures:
            cells = [cell for figure in row for cell in (_text(figure), f"{figure.count:,}" if figure.count else "")]
            ratio = [" / ".join(d.text + "!" * d.outside for d in differences(row[0], row[1]))] if compared else []
            rows.append([row[0].name, *cells, *ratio])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # Names to the left, numbers to the right.
    lines = [
        "| "
        + " | ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:], "", *([_LEGEND] if compared else [])]).rstrip() + "\n"


_LEGEND = (
    "`ratio` is that of the first dataset to the second, number by number (of strengths in dBsm: their difference); "
    f"`!` marks more than a factor of {FACTOR:g} ({_DECIBELS:.1f} dB). `n` counts what is behind a row."
)


def as_json(columns: Sequence[Column]) -> dict[str, object]:
    """The same rows: section, name, and by column its values and n; numbers that are not finite do not occur."""
    rows: list[dict[str, object]] = []
    for row in _rows(columns):
        entry: dict[str, object] = {"section": row[0].section, "name": row[0].name}
        entry["columns"] = [{"values": list(figure.values), "n": figure.count} for figure in row]
        if len(row) > 1:
            entry["outside_factor"] = [difference.outside for difference in differences(row[0], row[1])]
        rows.append(entry)
    return {"columns": [column.name for column in columns], "factor": FACTOR, "rows": rows}


def differences(one: Figure, other: Figure) -> list[Difference]:
    """Each number of a figure held against the other's; none where either knows nothing or nothing is to compare."""
    if one.comparison == "none" or not one.values or not other.values:
        return []
    return [_difference(a, b, one.comparison == "decibels") for a, b in zip(one.values, other.values, strict=True)]


def _difference(one: float, other: float, decibels: bool) -> Difference:
    if decibels:
        return Difference(f"{one - other:+.1f} dB", abs(one - other) > _DECIBELS)
    if one == other:
        return Difference("1", False)
    if one == 0 or other == 0:
        return Difference("0" if one == 0 else "∞", True)
    return Difference(_number(one / other), not 1 / FACTOR <= one / other <= FACTOR)


def _rows(columns: Sequence[Column]) -> list[tuple[Figure, ...]]:
    rows = zip(*(column.figures for column in columns), strict=True)
    return [row for row in rows if any(any(figure.values) for figure in row)]


def _text(figure: Figure) -> str:
    return " / ".join(map(_number, figure.values)) if figure.values else _NOTHING


def _number(value: float) -> str:
    """Three digits, no exponents: 25,131, 104, 9.24, 0.081, 0."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{float(f'{value:.2g}' if abs(value) < 1 else f'{value:.3g}'):.4f}".rstrip("0").rstrip(".") or "0"
