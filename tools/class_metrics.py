"""The metrics of each class in rows, as the commands print them and the report shows them."""

import math
from dataclasses import dataclass

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.configuration import ERRORS
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics


@dataclass(frozen=True)
class ClassMetrics:
    """One class: how many boxes were evaluated, the mean AP, the AP at each distance (m), the five errors.

    A class without boxes counts with AP 0 and errors 1 in the official means; these say nothing here, so its figures
    are NaN. The errors, in order: translation (m), scale, orientation (rad), velocity (m/s), attribute.
    """

    name: str
    box_count: int
    mean_precision: float
    precisions: tuple[float, ...]
    errors: tuple[float, ...]


def distance_thresholds(metrics: DetectionMetrics) -> list[float]:
    """The distances (m) between centres at which AP was measured, ascending."""
    return sorted(next(iter(metrics.average_precision.values())))


def class_metrics(metrics: DetectionMetrics) -> list[ClassMetrics]:
    """A row for each of the ten classes, in nuScenes' order."""
    thresholds = distance_thresholds(metrics)
    rows = []
    for name in DETECTION_CLASSES:
        count = metrics.ground_truth[name]
        precisions = [metrics.average_precision[name][threshold] if count else math.nan for threshold in thresholds]
        errors = [metrics.class_errors[name][error] if count else math.nan for error in ERRORS]
        mean = sum(precisions) / len(precisions)
        rows.append(ClassMetrics(name, count, mean, tuple(precisions), tuple(errors)))
    return rows
