"""The synthetic world's annotations, written as detections and scored by the official devkit, have no error."""

import math
from pathlib import Path

import pytest

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.reader import NuScenesReader
from tests.test_detection_evaluation import annotations_as_detections, score

pytestmark = pytest.mark.xdist_group("synthetic world")


def test_synthetic_annotations_score_perfectly(synthetic_root: Path, tmp_path: Path) -> None:
    reader = NuScenesReader(synthetic_root)
    boxes = annotations_as_detections(reader, reader.frame_tokens("all"))
    evaluation = score(synthetic_root, boxes, "all", tmp_path)
    metrics = evaluation.metrics
    present = [name for name, count in metrics.ground_truth.items() if count]
    assert len(present) >= 8, metrics.ground_truth
    assert metrics.mean_ap_present == pytest.approx(1.0, abs=1e-12)
    assert metrics.mean_ap == pytest.approx(len(present) / 10, abs=1e-12)
    assert evaluation.found.count == evaluation.found.total > 20
    # Of an object that is annotated in one keyframe only nobody knows a velocity. Where a class has no other object in
    # range, the devkit gives an error of 1.
    lone = {
        DETECTION_CLASSES[label]
        for sample in boxes.values()
        for label in sample.labels[sample.velocities.isnan().any(dim=1)].tolist()
    }
    errors = [(name, metric, error) for name in present for metric, error in metrics.class_errors[name].items()]
    imperfect = [(name, metric) for name, metric, error in errors if not (math.isnan(error) or abs(error) < 1e-9)]
    assert {metric for _, metric in imperfect} <= {"vel_err"}
    assert {name for name, _ in imperfect} <= lone
    assert len(imperfect) <= 2, imperfect
