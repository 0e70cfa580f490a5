"""mAP, NDS and the five errors: the devkit's DetectionMetrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.configuration import (
    CLASS_RANGES,
    DISTANCE_THRESHOLDS,
    ERROR_THRESHOLD,
    ERRORS,
    MEAN_AP_WEIGHT,
    SKIPPED_ERRORS,
)
from datasets.nuscenes.detection_metric.curves import Curves, class_curves
from datasets.nuscenes.detection_metric.matching import Matches


@dataclass(frozen=True)
class DetectionMetrics:
    """What was measured. Errors: metres, 1 - IoU, radians, m/s, 1 - accuracy; NaN where not defined.

    As in the official score a class without ground truth counts with AP 0 and errors 1; `ground_truth` holds the
    number of boxes that were evaluated, by class, and `mean_ap_present` averages only the classes that have some.
    `mean_errors`: by the names of configuration.ERRORS. `average_precision`: class -> distance threshold (m) -> AP.
    `class_errors`: class -> name of the error -> error. `curves`: class -> distance threshold (m) -> the curves.
    """

    mean_ap: float
    nds: float
    mean_errors: Mapping[str, float]
    average_precision: Mapping[str, Mapping[float, float]]
    class_errors: Mapping[str, Mapping[str, float]]
    ground_truth: Mapping[str, int]
    curves: Mapping[str, Mapping[float, Curves]] = field(repr=False)

    @property
    def mean_ap_present(self) -> float:
        """The mean AP of the classes with ground truth; not the official figure. NaN where there is none."""
        present = [self.average_precision[name] for name, count in self.ground_truth.items() if count]
        values = [sum(by_threshold.values()) / len(by_threshold) for by_threshold in present]
        return sum(values) / len(values) if values else float("nan")


def measure(matches: Matches, repeats: Int64[Array, "S"] | None = None) -> DetectionMetrics:
    """The figures of matched detections.

    `repeats`: how many times each sample counts, as if it occurred so often (a bootstrap over scenes draws
    `drawn[samples.scene]`); otherwise each counts once. Where there is no ground truth at all, which the devkit
    refuses, every class counts as one without: AP 0, errors 1.
    """
    curves = {
        name: {
            threshold: class_curves(matches, DETECTION_CLASSES.index(name), number, repeats)
            for number, threshold in enumerate(DISTANCE_THRESHOLDS)
        }
        for name in CLASS_RANGES
    }
    times = None if repeats is None else repeats[matches.truth.sample]
    counts = np.bincount(matches.truth.label, weights=times, minlength=len(DETECTION_CLASSES)).astype(np.int64)
    return metrics_of(curves, counts)


def metrics_of(curves: Mapping[str, Mapping[float, Curves]], counts: Int64[Array, "10"]) -> DetectionMetrics:
    """The figures of the curves of each class (in the order of CLASS_RANGES) and threshold.

    `counts`: the annotations that were evaluated, by DETECTION_CLASSES.
    """
    precision = {
        name: {threshold: one.average_precision() for threshold, one in by_threshold.items()}
        for name, by_threshold in curves.items()
    }
    errors = {
        name: {
            error: float("nan") if error in SKIPPED_ERRORS.get(name, ()) else by_threshold[ERROR_THRESHOLD].error(error)
            for error in ERRORS
        }
        for name, by_threshold in curves.items()
    }
    mean_ap = float(np.mean(list(class_precisions(precision).values())))
    means = {error: float(np.nanmean([errors[name][error] for name in CLASS_RANGES])) for error in ERRORS}
    return DetectionMetrics(
        mean_ap=mean_ap,
        nds=detection_score(mean_ap, means),
        mean_errors=means,
        average_precision=precision,
        class_errors=errors,
        ground_truth=dict(zip(DETECTION_CLASSES, counts.tolist(), strict=True)),
        curves=curves,
    )


def class_precisions(average_precision: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """The mean AP over the thresholds, by class."""
    return {name: float(np.mean(list(values.values()))) for name, values in average_precision.items()}


def error_scores(errors: Mapping[str, float]) -> dict[str, float]:
    """What the five errors count in the score: 1 - error, at least 0."""
    return {name: max(0.0, 1.0 - error) for name, error in errors.items()}


def detection_score(mean_ap: float, mean_errors: Mapping[str, float]) -> float:
    """NDS of the mean AP and the five mean errors, in the order of configuration.ERRORS."""
    scores = list(error_scores(mean_errors).values())
    return float(MEAN_AP_WEIGHT * mean_ap + np.sum(scores)) / float(MEAN_AP_WEIGHT + len(scores))
