"""Precision, confidence and errors over recall, and the figures that are read off them: the devkit's algo.py."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from datasets.arrays import Array
from datasets.nuscenes.detection_metric.arithmetic import cumulative_means
from datasets.nuscenes.detection_metric.configuration import ERRORS, MIN_PRECISION, MIN_RECALL
from datasets.nuscenes.detection_metric.matching import Matches

_RECALLS = 101  # 0, 0.01, ... 1
_FIRST = round(100 * MIN_RECALL) + 1  # the first recall that counts
Curve = Float64[Array, "101"]


@dataclass(frozen=True)
class Curves:
    """One class at one distance threshold: what is reached at each of 101 recalls.

    `precision` and `confidence` (the score) are 0 behind the largest recall that was reached; an error is the mean
    over all matches down to the confidence. Units: configuration.ERRORS. `count`: detections of the class.
    """

    recall: Curve
    precision: Curve
    confidence: Curve
    trans_err: Curve
    vel_err: Curve
    scale_err: Curve
    orient_err: Curve
    attr_err: Curve

    @property
    def max_recall_index(self) -> int:
        """The last recall that was reached, as the devkit sees it: the last confidence that is not 0."""
        reached = np.flatnonzero(self.confidence)
        return int(reached[-1]) if reached.size else 0

    def average_precision(self) -> float:
        """The mean of what lies above a precision of 0.1, for recalls above 0.1, over its largest: `calc_ap`."""
        precision = self.precision[_FIRST:] - MIN_PRECISION
        precision[precision < 0] = 0
        return float(np.mean(precision)) / (1.0 - MIN_PRECISION)

    def error(self, name: str) -> float:
        """The mean error from a recall of 0.1 up to the largest; 1 where that is not reached: `calc_tp`."""
        last = self.max_recall_index
        if last < _FIRST:
            return 1.0
        return float(np.mean(getattr(self, name)[_FIRST : last + 1]))


def nothing_found() -> Curves:
    """The curves of a class of which nothing was annotated, or nothing found."""
    zeros, ones = np.zeros(_RECALLS), np.ones(_RECALLS)
    return Curves(np.linspace(0, 1, _RECALLS), zeros, zeros, **dict.fromkeys(ERRORS, ones))


def curves_of(
    scores: Float64[Array, "N"], matches: Int32[Array, "N"], errors: Float64[Array, "M 5"], positives: int
) -> Curves:
    """The curves of N detections of one class, by falling score: `accumulate` behind its loops.

    `matches`: rows of `errors`, -1 for detections that found nothing. `positives`: how many annotations there are.
    """
    found = matches >= 0
    if positives == 0 or not found.any():
        return nothing_found()
    true, false = np.cumsum(found).astype(float), np.cumsum(~found).astype(float)
    recall = np.linspace(0, 1, _RECALLS)
    reached = true / float(positives)
    precision = np.interp(recall, reached, true / (false + true), right=0)
    confidence = np.interp(recall, reached, scores, right=0)
    # np.interp wants rising scores. That the curves are then turned round and not copied decides, behind, in which
    # order their means are added up.
    rising, of_match = scores[found][::-1], errors[matches[found]]
    curves = {
        name: np.interp(confidence[::-1], rising, cumulative_means(of_match[:, column])[::-1])[::-1]
        for column, name in enumerate(ERRORS)
    }
    return Curves(recall, precision, confidence, **curves)


def class_curves(matches: Matches, label: int, threshold: int, repeats: Int64[Array, "S"] | None = None) -> Curves:
    """The curves of a class (an index into DETECTION_CLASSES) at a threshold (into DISTANCE_THRESHOLDS).

    `repeats`: how many times each sample counts, as if it occurred so often; otherwise each counts once.
    """
    here = slice(int(matches.first[label]), int(matches.first[label + 1]))
    rows, found = matches.ranked[here], matches.match[threshold, here]
    annotated = matches.truth.sample[matches.truth.label == label]
    positives = len(annotated)
    if repeats is not None:
        times = repeats[matches.detections.sample[rows]]
        rows, found = np.repeat(rows, times), np.repeat(found, times)
        positives = int(repeats[annotated].sum())
    return curves_of(matches.detections.score[rows], found, matches.errors, positives)
