"""The metric's figures on scenes drawn with replacement, without matching again and without copying a single box.

A scene that was drawn twice counts as if it stood in the split twice. Its detections then follow one another in the
ranking, each as often as its scene was drawn, so what `curves.curves_of` reads off cumulative counts is read off
cumulative counts of copies here, at just those points of the ranking that the 101 recalls ask for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from numpy.typing import NDArray

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.compiled import compiled
from datasets.nuscenes.detection_metric.configuration import (
    DISTANCE_THRESHOLDS,
    ERROR_THRESHOLD,
    ERRORS,
    MEAN_AP_WEIGHT,
    MIN_PRECISION,
    MIN_RECALL,
    SKIPPED_ERRORS,
)
from datasets.nuscenes.detection_metric.matching import Matches

_RECALLS = np.linspace(0, 1, 101)
_FIRST = round(100 * MIN_RECALL) + 1  # the first recall that counts
_SKIPPED = np.array([[error in SKIPPED_ERRORS.get(name, ()) for error in ERRORS] for name in DETECTION_CLASSES])


@dataclass(frozen=True)
class ResampledFigures:
    """The figures of R replicates, K classes (DETECTION_CLASSES), T thresholds (DISTANCE_THRESHOLDS), 5 ERRORS.

    `annotated`: annotations that count, copies included. As in the official metric a class without any has AP 0 and
    errors 1, and errors that say nothing of a class are NaN.
    """

    average_precision: Float64[Array, "R K T"]
    class_errors: Float64[Array, "R K 5"]
    annotated: Int64[Array, "R K"]

    @property
    def class_precision(self) -> Float64[Array, "R K"]:
        """The mean AP over the thresholds."""
        return np.asarray(self.average_precision.mean(axis=2))


@dataclass(frozen=True)
class ResampledMeans:
    """mAP, NDS and the five mean errors (ERRORS) of R replicates."""

    mean_ap: Float64[Array, "R"]
    nds: Float64[Array, "R"]
    mean_errors: Float64[Array, "R 5"]


def resampled_figures(
    matches: Matches, scene: Int32[Array, "samples"], repeats: Int64[Array, "R S"]
) -> ResampledFigures:
    """The figures where scene s of S counts `repeats[r, s]` times in replicate r.

    `scene`: that of each sample (EvaluatedSamples.scene). Equal to the metric of a split that holds the scenes so many
    times, but for rounding in the last digits and for the order of equal scores, which is that of the whole split.
    """
    labels = range(len(DETECTION_CLASSES))
    parts = [_class_figures(matches, label, scene, np.ascontiguousarray(repeats)) for label in labels]
    precision, errors, annotated = (np.stack(columns, axis=1) for columns in zip(*parts, strict=True))
    errors[:, _SKIPPED] = np.nan
    return ResampledFigures(precision, errors, annotated)


def means(figures: ResampledFigures, present: Bool[Array, "R K"]) -> ResampledMeans:
    """The means over classes. `present`: the classes that count with their own figures; others with AP 0, errors 1.

    A class that is present but has no annotations in a replicate is left out of that replicate's means; NaN where
    nothing is left.
    """
    drawn = figures.annotated > 0
    mean_ap = _mean(figures.class_precision[:, :, None], drawn, present, np.zeros((len(DETECTION_CLASSES), 1)))[:, 0]
    mean_errors = _mean(figures.class_errors, drawn, present, np.where(_SKIPPED, np.nan, 1.0))
    scores = np.maximum(0.0, 1.0 - mean_errors).sum(axis=1)
    nds = (MEAN_AP_WEIGHT * mean_ap + scores) / (MEAN_AP_WEIGHT + len(ERRORS))
    return ResampledMeans(mean_ap, nds, mean_errors)


def _mean(
    values: NDArray[np.float64], drawn: NDArray[np.bool_], present: NDArray[np.bool_], otherwise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean (R, F) of `values` (R, K, F) over classes K; those not present have the values `otherwise` (K, F).

    What a replicate does not have is taken to be the mean of what it has, among the classes that are present.
    """
    defined = ~np.isnan(otherwise)
    known = (drawn & present)[:, :, None] & defined
    own = np.where(known, values, 0.0).sum(axis=1)
    counts, wanted = known.sum(axis=1), (present[:, :, None] & defined).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(wanted > 0, own / counts * wanted, 0.0)
    others = np.where(~present[:, :, None] & defined, otherwise, 0.0).sum(axis=1)
    return np.asarray((own + others) / defined.sum(axis=0))


def _class_figures(
    matches: Matches, label: int, scene: NDArray[np.int32], repeats: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """AP (R, T), errors (R, 5) and annotations (R) of one class."""
    here = slice(int(matches.first[label]), int(matches.first[label + 1]))
    rows = matches.ranked[here]
    found = [np.flatnonzero(matches.match[number, here] >= 0) for number in range(len(DISTANCE_THRESHOLDS))]
    number = DISTANCE_THRESHOLDS.index(ERROR_THRESHOLD)
    in_scene = np.bincount(
        scene[matches.truth.sample[matches.truth.label == label]], minlength=repeats.shape[1]
    ).astype(np.int64)
    annotated = repeats @ in_scene
    precision, errors = _resampled(
        repeats,
        annotated,
        scene[matches.detections.sample[rows]],
        matches.detections.score[rows],
        np.concatenate(found),
        np.cumsum([0, *map(len, found)]),
        number,
        matches.errors[matches.match[number, here][found[number]]],
        _RECALLS,
        _FIRST,
    )
    above = np.maximum(precision[:, :, _FIRST:] - MIN_PRECISION, 0.0)
    return above.mean(axis=2) / (1.0 - MIN_PRECISION), errors, annotated


@compiled
def _resampled(
    repeats: NDArray[np.int64],
    annotated: NDArray[np.int64],
    scene: NDArray[np.int32],
    score: NDArray[np.float64],
    found: NDArray[np.int64],
    first: NDArray[np.int64],
    error_number: int,
    errors: NDArray[np.float64],
    recalls: NDArray[np.float64],
    first_recall: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (R, T, 101) and errors (R, 5) of a class's D detections by falling score.

    `scene`, `score` (D). `found[first[t]:first[t + 1]]`: the ranks that match at threshold t. `errors` (F, 5): of those
    at threshold `error_number`.
    """
    count, thresholds = len(scene), len(first) - 1
    precision = np.zeros((len(repeats), thresholds, len(recalls)))
    means = np.ones((len(repeats), errors.shape[1]))
    before = np.zeros(count + 1, dtype=np.int64)  # copies of all detections of a higher rank
    found_before = np.zeros(count + 1, dtype=np.int64)  # copies of the found ones among them
    for replicate in range(len(repeats)):
        times, positives = repeats[replicate], annotated[replicate]
        for rank in range(count):
            before[rank + 1] = before[rank] + times[scene[rank]]
        for number in range(thresholds):
            ranks = found[first[number] : first[number + 1]]
            for place in range(len(ranks)):
                found_before[place + 1] = found_before[place] + times[scene[ranks[place]]]
            if found_before[len(ranks)] == 0 or positives == 0:
                continue
            confidence = np.zeros(len(recalls))
            for step in range(len(recalls)):
                precision[replicate, number, step], confidence[step] = _at_recall(
                    recalls[step], positives, times, scene, score, ranks, before, found_before
                )
            if number == error_number:
                means[replicate] = _mean_errors(confidence, first_recall, times, scene, score, ranks, errors)
    return precision, means


@compiled
def _at_recall(
    recall: float,
    positives: int,
    times: NDArray[np.int64],
    scene: NDArray[np.int32],
    score: NDArray[np.float64],
    ranks: NDArray[np.int64],
    before: NDArray[np.int64],
    found_before: NDArray[np.int64],
) -> tuple[float, float]:
    """Precision and confidence at a recall: what np.interp finds between the copies to either side; 0 behind all."""
    total = found_before[len(ranks)]
    reached = min(int(recall * positives), total)
    while reached < total and (reached + 1) / positives <= recall:
        reached += 1
    while reached > 0 and reached / positives > recall:
        reached -= 1
    if reached == total:
        if recall > total / positives:
            return 0.0, 0.0
        return total / before[len(scene)], score[_drawn_before(len(scene), times, scene)]
    place = np.searchsorted(found_before[: len(ranks) + 1], reached, side="right") - 1
    rank = ranks[place]
    false = before[rank] - found_before[place]
    next_precision, next_score = (reached + 1) / (false + reached + 1), score[rank]
    if reached + false == 0:  # nothing stands before: np.interp holds the first value
        return next_precision, next_score
    # What stands before may be a copy of the same detection.
    own_score = next_score if reached > found_before[place] else score[_drawn_before(rank, times, scene)]
    own_precision, own_recall = reached / (false + reached), reached / positives
    step, along = (reached + 1) / positives - own_recall, recall - own_recall
    return (
        (next_precision - own_precision) / step * along + own_precision,
        (next_score - own_score) / step * along + own_score,
    )


@compiled
def _drawn_before(rank: int, times: NDArray[np.int64], scene: NDArray[np.int32]) -> int:
    """The last rank before this one whose scene was drawn."""
    rank -= 1
    while times[scene[rank]] == 0:
        rank -= 1
    return rank


@compiled
def _mean_errors(
    confidence: NDArray[np.float64],
    first_recall: int,
    times: NDArray[np.int64],
    scene: NDArray[np.int32],
    score: NDArray[np.float64],
    ranks: NDArray[np.int64],
    errors: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The five errors, each the mean of its curve from the first recall that counts to the last that was reached."""
    kinds = errors.shape[1]
    means = np.ones(kinds)
    last = len(confidence) - 1
    while last > 0 and confidence[last] == 0:
        last -= 1
    if last < first_recall:
        return means
    sums, counts = np.zeros((len(ranks) + 1, kinds)), np.zeros((len(ranks) + 1, kinds))
    for place in range(len(ranks)):
        weight = times[scene[ranks[place]]]
        for kind in range(kinds):
            known = not np.isnan(errors[place, kind])
            sums[place + 1, kind] = sums[place, kind] + (weight * errors[place, kind] if known else 0.0)
            counts[place + 1, kind] = counts[place, kind] + (weight if known else 0)
    totals = np.zeros(kinds)
    for step in range(first_recall, last + 1):
        # The matches to either side of the confidence, among those that were drawn.
        low, high = 0, len(ranks)
        while low < high:
            middle = (low + high) // 2
            if score[ranks[middle]] <= confidence[step]:
                high = middle
            else:
                low = middle + 1
        above, below = low - 1, low
        while below < len(ranks) and times[scene[ranks[below]]] == 0:
            below += 1
        while above >= 0 and times[scene[ranks[above]]] == 0:
            above -= 1
        for kind in range(kinds):
            if below == len(ranks):
                totals[kind] += _ratio(sums[below, kind], counts[below, kind])
                continue
            # Of equal scores np.interp takes the first copy from below, and the last one from above.
            known = not np.isnan(errors[below, kind])
            value = _ratio(
                sums[below, kind] + (errors[below, kind] if known else 0.0), counts[below, kind] + (1 if known else 0)
            )
            if above >= 0:
                width = score[ranks[above]] - score[ranks[below]]
                upper = _ratio(sums[above + 1, kind], counts[above + 1, kind])
                value += (upper - value) / width * (confidence[step] - score[ranks[below]])
            totals[kind] += value
    for kind in range(kinds):
        if counts[len(ranks), kind] > 0:
            means[kind] = totals[kind] / (last + 1 - first_recall)
    return means


@compiled
def _ratio(total: float, count: float) -> float:
    return total / count if count > 0 else 0.0
