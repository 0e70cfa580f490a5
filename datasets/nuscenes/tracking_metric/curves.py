"""The figures of a class at forty recalls, and what is made of them.

Source: nuscenes-devkit 1.2, `eval/tracking/algo.py` and `evaluate.py`; AMOTA after Weng et al., AB3DMOT, 2020.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.nuscenes.tracking_metric.accumulate import (
    ClassFrames,
    ClearCounts,
    count_from_score,
    scores_of_matches,
)
from datasets.nuscenes.tracking_metric.config import TrackingMetricConfig

# The figures in the devkit's order; all but the first two stand at each recall as well.
METRICS = (
    "amota", "amotp", "recall", "motar", "gt", "mota", "motp", "mt", "ml", "faf", "tp", "fp", "fn", "ids", "frag",
    "tid", "lgd",
)  # fmt: skip
_AT_RECALL = METRICS[2:]
# Added up over classes; all others are averaged.
_SUMMED = ("mt", "ml", "tp", "fp", "fn", "ids", "frag")


@dataclass(frozen=True)
class ClassCurves:
    """One class at T recalls, the highest first; NaN where a recall was not reached, or there is no ground truth.

    `confidence` (T): the score from which on predictions count, `recall_hypo` (T): the recall it was chosen for.
    `values`: the figures by name, each (T).
    """

    confidence: Float64[Array, "T"]
    recall_hypo: Float64[Array, "T"]
    values: Mapping[str, Float64[Array, "T"]]


def class_curves(frames: ClassFrames, config: TrackingMetricConfig) -> ClassCurves:
    """Measure one class at every recall."""
    size = config.thresholds
    unknown = np.full(size, math.nan)
    boxes = len(frames.truth_track)
    if boxes == 0:
        return ClassCurves(unknown, unknown, dict.fromkeys(_AT_RECALL, unknown))
    confidence, recalls = _thresholds(frames, config)
    reached = np.unique(confidence[np.isfinite(confidence)])
    if len(reached) == 0:
        tracks = int(frames.truth_track.max()) + 1
        values = {name: np.full(size, _worst(name, boxes, tracks, config)) for name in _AT_RECALL}
        return ClassCurves(confidence, recalls, values)
    figures = [_figures(count_from_score(frames, score, config.match_distance), boxes) for score in reached.tolist()]
    values = {name: unknown.copy() for name in _AT_RECALL}
    for score, at_score in zip(reached.tolist(), figures, strict=True):
        for name, value in at_score.items():
            values[name][confidence == score] = value
    return ClassCurves(confidence, recalls, values)


def summarized(curves: ClassCurves, config: TrackingMetricConfig) -> dict[str, float]:
    """The figures of a class: AMOTA and AMOTP over all recalls, the others at the recall with the best MOTA.

    A recall that was not reached counts with the worst value. All NaN for a class without ground truth.
    """
    summary = dict.fromkeys(METRICS, math.nan)
    mota = curves.values["mota"]
    if not np.isnan(mota).all():
        best = int(np.nanargmax(mota))  # of equal ones that of the highest recall
        summary |= {name: float(curves.values[name][best]) for name in _AT_RECALL}
    for name, source in (("amota", "motar"), ("amotp", "motp")):
        values = curves.values[source]
        if not np.isnan(values).all():
            summary[name] = float(np.mean(np.where(np.isnan(values), config.worst[name], values)))
    return summary


def over_classes(by_class: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of each figure the sum (counts) or mean over the classes that have it; NaN where none has."""
    overall = {}
    for name in METRICS:
        values = np.array([figures[name] for figures in by_class.values()])
        known = values[~np.isnan(values)]
        if name in _SUMMED:
            overall[name] = float(np.sum(known))
        else:
            overall[name] = float(np.sum(known) / len(known)) if len(known) else math.nan
    return overall


def _thresholds(frames: ClassFrames, config: TrackingMetricConfig) -> tuple[Float64[Array, "T"], Float64[Array, "T"]]:
    """Scores (T) at which the recalls (T) would be reached, highest recall first; NaN for recalls that are not."""
    scores = np.sort(scores_of_matches(frames, config.match_distance))[::-1]
    if len(scores) == 0:
        return np.full(config.thresholds, math.nan), np.full(config.thresholds, math.nan)
    recall = np.arange(1, len(scores) + 1) / len(frames.truth_track)
    wanted = np.linspace(config.min_recall, 1, config.thresholds).round(12)
    thresholds = np.interp(wanted, recall, scores, right=0)
    thresholds[wanted > np.max(recall)] = math.nan
    return thresholds[::-1].copy(), wanted[::-1].copy()


def _figures(counts: ClearCounts, boxes: int) -> dict[str, float]:
    detected = counts.matches + counts.switches
    wrong = counts.misses + counts.switches + counts.false_positives
    figures = {
        "recall": detected / boxes,
        "motar": _motar(counts, boxes),
        "gt": boxes,
        "mota": max(0.0, 1.0 - wrong / boxes),
        "motp": counts.distance / detected if detected else math.nan,
        "mt": counts.mostly_tracked,
        "ml": counts.mostly_lost,
        "faf": counts.false_positives / counts.frames * 100,
        "tp": counts.matches,
        "fp": counts.false_positives,
        "fn": counts.misses,
        "ids": counts.switches,
        "frag": counts.fragments,
        "tid": counts.until_found / counts.tracked if counts.tracked else math.nan,
        "lgd": counts.longest_gaps / counts.tracked if counts.tracked else math.nan,
    }
    return {name: float(value) for name, value in figures.items()}


def _motar(counts: ClearCounts, boxes: int) -> float:
    """1 - (errors beyond those that this recall has anyhow) / matches, not below 0."""
    recall = counts.matches / boxes
    wrong = counts.misses + counts.switches + counts.false_positives
    if recall * boxes == 0:
        return math.nan
    return max(0.0, 1 - (wrong - (1 - recall) * boxes) / (recall * boxes))


def _worst(name: str, boxes: int, tracks: int, config: TrackingMetricConfig) -> float:
    """What a figure counts with where no prediction matches at all."""
    if config.worst[name] != -1:
        return config.worst[name]
    return float({"ml": tracks, "gt": boxes, "fn": boxes}.get(name, math.nan))
