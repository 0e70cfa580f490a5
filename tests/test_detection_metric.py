"""The detection metric on columns is the devkit's, to the last bit, in thousands of generated cases."""

import math

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetricData
from nuscenes.eval.detection.data_classes import DetectionMetrics as DevkitMetrics

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.boxes import DetectedBoxes, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import CONFIGURATION_NAME, DISTANCE_THRESHOLDS, as_written
from datasets.nuscenes.detection_metric.matching import match
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, measure
from datasets.nuscenes.detection_metric.summary_files import details, summary
from tests.detection_cases import CASES, devkit_boxes, noisy

Accumulated = dict[str, dict[float, DetectionMetricData]]
CASES_OF_A_KIND = 100


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


def devkit_metrics(truth: TruthBoxes, detections: DetectedBoxes) -> tuple[DevkitMetrics, Accumulated]:
    """What DetectionEval.evaluate does."""
    config = config_factory(CONFIGURATION_NAME)
    annotated, detected = devkit_boxes(truth), devkit_boxes(detections)
    present = {DETECTION_CLASSES[label] for label in truth.label.tolist()}
    metrics, accumulated = DevkitMetrics(config), {}
    for name in config.class_names:
        accumulated[name] = {
            threshold: accumulate(annotated, detected, name, center_distance, threshold)
            if name in present
            else DetectionMetricData.no_predictions()
            for threshold in config.dist_ths
        }
        for threshold, data in accumulated[name].items():
            metrics.add_label_ap(name, threshold, calc_ap(data, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            error = calc_tp(accumulated[name][config.dist_th_tp], config.min_recall, metric)
            if name == "traffic_cone" and metric in ("attr_err", "vel_err", "orient_err"):
                error = math.nan
            if name == "barrier" and metric in ("attr_err", "vel_err"):
                error = math.nan
            metrics.add_label_tp(name, metric, error)
    return metrics, accumulated


def assert_equal(ours: DetectionMetrics, devkit: tuple[DevkitMetrics, Accumulated]) -> None:
    metrics, accumulated = devkit
    for name, by_threshold in accumulated.items():
        for threshold, data in by_threshold.items():
            curves = ours.curves[name][threshold]
            for curve, expected in data.serialize().items():
                np.testing.assert_array_equal(getattr(curves, curve), expected, f"{name} {threshold} {curve}")
    found = summary(ours, {}, 0.0)
    expected = metrics.serialize()
    for part in ("mean_ap", "nd_score", "mean_dist_aps", "tp_errors", "tp_scores"):
        assert found[part] == expected[part], part
    assert {float(t): ap for t, ap in found["label_aps"]["car"].items()} == dict(expected["label_aps"]["car"])
    for name, errors in expected["label_tp_errors"].items():
        np.testing.assert_equal(found["label_tp_errors"][name], dict(errors))
    assert list(details(ours)) == [f"{name}:{threshold}" for name in accumulated for threshold in DISTANCE_THRESHOLDS]
