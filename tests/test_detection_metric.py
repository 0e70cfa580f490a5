"""The detection metric on columns is the devkit's, to the last bit, in thousands of generated cases."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetricData
from nuscenes.eval.detection.data_classes import DetectionMetrics as DevkitMetrics

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.boxes import Boxes, DetectedBoxes, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import CONFIGURATION_NAME, as_written
from datasets.nuscenes.detection_metric.matching import match
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, measure
from datasets.nuscenes.detection_metric.summary_files import summary
from tests.detection_cases import CASES, devkit_boxes, noisy

Accumulated = dict[str, dict[float, DetectionMetricData]]
# BEVEL_METRIC_CASES=1000 takes minutes.
CASES_OF_A_KIND = int(os.environ.get("BEVEL_METRIC_CASES", "15"))
CURVES = ("recall", "precision", "confidence", "trans_err", "vel_err", "scale_err", "orient_err", "attr_err")
NOTHING = DetectionMetricData.no_predictions()


def test_the_configuration_is_the_devkits() -> None:
    assert as_written() == config_factory(CONFIGURATION_NAME).serialize()
    assert list(as_written()["class_range"]) == list(config_factory(CONFIGURATION_NAME).class_names)


@pytest.mark.parametrize("kind", CASES)
def test_generated_cases_equal_the_devkits(kind: str) -> None:
    for seed in range(CASES_OF_A_KIND):
        truth, detections = CASES[kind](np.random.default_rng(seed))
        assert_equal(measure(match(truth, detections)), devkit_metrics(truth, detections))


def test_scores_of_zero_count_as_not_reached_as_in_the_devkit() -> None:
    truth, detections = noisy(np.random.default_rng(5))
    detections.score[::2] = 0.0
    assert_equal(measure(match(truth, detections)), devkit_metrics(truth, detections))


@pytest.mark.parametrize("kind", ["noisy", "velocities_unknown", "attributes_missing"])
def test_a_sample_that_counts_twice_counts_as_two_samples(kind: str) -> None:
    repeats = np.array([2, 0, 3])
    for seed in range(5):
        truth, detections = CASES[kind](np.random.default_rng(seed))
        several = repeated(truth, repeats), repeated(detections, repeats)
        ours = measure(match(truth, detections), repeats)
        assert ours.ground_truth == measure(match(*several)).ground_truth
        tokens = tuple(map(str, range(repeats.sum())))
        assert_equal(ours, devkit_metrics(*several, tokens))


def repeated(boxes: Boxes, repeats: np.ndarray) -> Boxes:  # type: ignore[type-arg]
    """Each sample so many times, under numbers of their own."""
    copies = [(sample, copy) for sample, times in enumerate(repeats) for copy in range(times)]
    rows = [np.flatnonzero(boxes.sample == sample) for sample, _ in copies]
    numbers = np.repeat(np.arange(len(copies), dtype=np.int32), list(map(len, rows)))
    return replace(boxes.take(np.concatenate(rows)), sample=numbers)


def devkit_metrics(
    truth: TruthBoxes, detections: DetectedBoxes, tokens: tuple[str, ...] = ("0", "1", "2")
) -> tuple[DevkitMetrics, Accumulated]:
    """What DetectionEval.evaluate does; the curves of the classes that are annotated."""
    config = config_factory(CONFIGURATION_NAME)
    annotated, detected = devkit_boxes(truth, tokens), devkit_boxes(detections, tokens)
    present = {DETECTION_CLASSES[label] for label in truth.label.tolist()}
    metrics, accumulated = DevkitMetrics(config), {}
    for name in config.class_names:
        by_threshold = {
            threshold: accumulate(annotated, detected, name, center_distance, threshold) if name in present else NOTHING
            for threshold in config.dist_ths
        }
        for threshold, data in by_threshold.items():
            metrics.add_label_ap(name, threshold, calc_ap(data, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            error = calc_tp(by_threshold[config.dist_th_tp], config.min_recall, metric)
            if name == "traffic_cone" and metric in ("attr_err", "vel_err", "orient_err"):
                error = math.nan
            if name == "barrier" and metric in ("attr_err", "vel_err"):
                error = math.nan
            metrics.add_label_tp(name, metric, error)
        if name in present:
            accumulated[name] = by_threshold
    return metrics, accumulated


def assert_equal(ours: DetectionMetrics, devkit: tuple[DevkitMetrics, Accumulated]) -> None:
    metrics, accumulated = devkit
    for name, by_threshold in accumulated.items():
        for threshold, data in by_threshold.items():
            for curve in CURVES:
                found, expected = getattr(ours.curves[name][threshold], curve), getattr(data, curve)
                assert np.array_equal(found, expected), f"{name} {threshold} {curve}: {found} {expected}"
    assert ours.mean_ap == metrics.mean_ap
    assert ours.nds == metrics.nd_score
    assert ours.mean_errors == metrics.tp_errors
    written, expected = summary(ours, {}, 0.0), metrics.serialize()
    assert written["mean_dist_aps"] == expected["mean_dist_aps"]
    assert written["tp_scores"] == expected["tp_scores"]
    for name, by_distance in expected["label_aps"].items():
        assert ours.average_precision[name] == by_distance
        np.testing.assert_equal(ours.class_errors[name], dict(expected["label_tp_errors"][name]))
