"""How sure the figures are: percentile intervals over scenes drawn with replacement.

Samples of one scene show the same street and the same objects twice a second and are far from independent, so whole
scenes are drawn (a cluster bootstrap). Source of the percentile interval and of the two-sided p-value from the
replicates: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numpy.typing import NDArray

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_analysis.resampling import ResampledFigures, means, resampled_figures
from datasets.nuscenes.detection_metric.boxes import Array
from datasets.nuscenes.detection_metric.configuration import ERRORS
from datasets.nuscenes.detection_metric.matching import Matches

CONFIDENCE = 0.95
FEWEST_SCENES = 2  # one scene, drawn again and again, says nothing of others
# With fewer scenes than these an interval is a rough guess: percentile intervals are too narrow then.
FEW_SCENES = 20
MEAN_AP, NDS = "mAP", "NDS"
# Replicates that are worked on at once; their curves take some megabytes.
_BLOCK = 250


@dataclass(frozen=True)
class Interval:
    """Where 95 of 100 replicates lie; NaN where no replicate has the figure. `replicates`: how many have it."""

    low: float
    high: float
    replicates: int


@dataclass(frozen=True)
class Replicates:
    """Each figure (by name: mAP, NDS, the ERRORS, the classes for their AP) of the split and of R replicates (R).

    Where none of a class's annotations was drawn, its AP is NaN and the means go over the other classes: that draw
    says nothing of it. (A split of just these scenes would officially have AP 0 there, and the interval would tell
    how rare the class is instead of how well it is found.) A class that the whole split does not have counts with AP
    0 and errors 1 in all means, as it officially does.
    """

    figures: Mapping[str, float]
    replicates: Mapping[str, Float64[Array, "R"]]

    def intervals(self) -> dict[str, Interval]:
        """The interval of each figure."""
        return {name: interval(values) for name, values in self.replicates.items()}


def drawn_scenes(scenes: int, replicates: int, seed: int) -> Int64[Array, "R S"]:
    """How many times each of S scenes is drawn in each of R replicates, S draws in each.

    The first replicates of a seed are the same whatever R is.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(scenes, np.full(scenes, 1.0 / scenes), replicates).astype(np.int64)


def replicate(
    matches: Matches,
    scene: Int32[Array, "samples"],
    repeats: Int64[Array, "R S"],
    advance: Callable[[int], None] = lambda _: None,
) -> Replicates:
    """The figures of a split and of scenes drawn from it (drawn_scenes). `scene`: EvaluatedSamples.scene.

    `advance` is called with the number of replicates done since the last call.
    """
    split = resampled_figures(matches, scene, np.ones((1, repeats.shape[1]), np.int64))
    present = split.annotated[0] > 0
    whole, parts = _by_name(split, present), []
    for start in range(0, len(repeats), _BLOCK):
        parts.append(_by_name(resampled_figures(matches, scene, repeats[start : start + _BLOCK]), present))
        advance(min(_BLOCK, len(repeats) - start))
    return Replicates(
        {name: float(values[0]) for name, values in whole.items()},
        {name: np.concatenate([part[name] for part in parts]) for name in whole},
    )


def interval(values: Float64[Array, "R"]) -> Interval:
    """The percentile interval of those replicates that have the figure."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Interval(float("nan"), float("nan"), 0)
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), len(known))


def p_value(differences: Float64[Array, "R"]) -> float:
    """Two-sided: twice the share of replicates on the rarer side of 0, themselves on both; NaN where there is none.

    Never below 1 / (R + 1): so many replicates cannot tell more.
    """
    known = differences[np.isfinite(differences)]
    if not known.size:
        return float("nan")
    rarer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(known) + 1))


def _by_name(figures: ResampledFigures, present: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    over_classes = means(figures, np.broadcast_to(present, figures.annotated.shape))
    precision = np.where(figures.annotated > 0, figures.class_precision, np.nan)
    return {
        MEAN_AP: over_classes.mean_ap,
        NDS: over_classes.nds,
        **{name: over_classes.mean_errors[:, column] for column, name in enumerate(ERRORS)},
        **{name: precision[:, label] for label, name in enumerate(DETECTION_CLASSES)},
    }
