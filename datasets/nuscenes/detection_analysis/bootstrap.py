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

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_analysis.resampling import ResampledFigures, means, resampled_figures
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
    """Where 95 of 100 replicates lie; NaN where fewer than two scenes have what the figure is about."""

    low: float
    high: float


@dataclass(frozen=True)
class Replicates:
    """Each figure (by name: mAP, NDS, the ERRORS, the classes for their AP) of the split and of R replicates (R).

    Where none of a class's annotations was drawn, its AP is NaN and the means go over the other classes: that draw
    says nothing of it. (A split of just these scenes would officially have AP 0 there, and the interval would tell
    how rare the class is instead of how well it is found.) A class that the whole split does not have counts with AP
    0 and errors 1 in all means, as it officially does. `scenes`: how many scenes have annotations that a figure is of.
    """

    figures: Mapping[str, float]
    replicates: Mapping[str, Float64[Array, "R"]]
    scenes: Mapping[str, int]

    def intervals(self) -> dict[str, Interval]:
        """The interval of each figure."""
        return {name: interval(values, self.scenes[name]) for name, values in self.replicates.items()}


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
    of_scene = scene[matches.truth.sample]
    scenes = {name: len(np.unique(of_scene[matches.truth.label == row])) for row, name in enumerate(DETECTION_CLASSES)}
    return Replicates(
        {name: float(values[0]) for name, values in whole.items()},
        {name: np.concatenate([part[name] for part in parts]) for name in whole},
        {name: scenes.get(name, len(np.unique(of_scene))) for name in whole},
    )


def interval(values: Float64[Array, "R"], scenes: int) -> Interval:
    """The percentile interval of those replicates that have the figure, which is of so many scenes."""
    known = values[np.isfinite(values)]
    if scenes < FEWEST_SCENES or not known.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def p_value(differences: Float64[Array, "R"], scenes: int) -> float:
    """Two-sided, of "there is no difference": twice the share of replicates on the rarer side of 0; NaN as `interval`.

    Replicates of exactly 0 are on both sides. Never below 2 / (R + 1), nor below 2 / 2^scenes: that all of so many
    scenes favour the same one has this probability even where neither is better.
    """
    known = differences[np.isfinite(differences)]
    if scenes < FEWEST_SCENES or not known.size:
        return float("nan")
    rarer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, max(2 * (rarer + 1) / (len(known) + 1), 2.0 ** (1 - scenes)))


def _by_name(figures: ResampledFigures, present: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    over_classes = means(figures, np.broadcast_to(present, figures.annotated.shape))
    precision = np.where(figures.annotated > 0, figures.class_precision, np.nan)
    return {
        MEAN_AP: over_classes.mean_ap,
        NDS: over_classes.nds,
        **{name: over_classes.mean_errors[:, column] for column, name in enumerate(ERRORS)},
        **{name: precision[:, label] for label, name in enumerate(DETECTION_CLASSES)},
    }
