"""One line of the statistics, and the few ways to make one of many values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# How a figure is held against the same figure of another dataset: by ratio, by difference (decibels: there a ratio
# means nothing), or not at all (what a dataset holds, signed offsets).
Comparison = Literal["ratio", "decibels", "none"]

LOW_MIDDLE_HIGH = (0.05, 0.5, 0.95)
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Figure:
    """One or several numbers under one name. `count` records (the section says of what) are behind them.

    A figure of which the dataset knows nothing has no values and count 0.
    """

    section: str
    name: str
    values: tuple[float, ...]
    count: int
    comparison: Comparison = "ratio"


def figure_of(
    section: str, name: str, values: Sequence[float | int], count: int, comparison: Comparison = "ratio"
) -> Figure:
    """The figure, without values where nothing is behind them."""
    return Figure(section, name, tuple(float(v) for v in values) if count else (), count, comparison)


def quantiles(values: NDArray[np.generic], levels: Sequence[float]) -> tuple[float, ...]:
    """The values' quantiles, linearly interpolated; none of no values."""
    return tuple(np.quantile(values.astype(np.float64), levels).tolist()) if values.size else ()


def percentages(values: NDArray[np.generic], states: Sequence[int]) -> tuple[float, ...]:
    """The share of each state among the values, in percent; none of no values."""
    return tuple(100.0 * float((values == state).mean()) for state in states) if values.size else ()
