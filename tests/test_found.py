from typing import Any

import numpy as np

from datasets.nuscenes.detection_metric.boxes import BoxColumns, DetectedBoxes, TruthBoxes
from datasets.nuscenes.found import Found, count_found

Box = tuple[float, int, int]  # x, sample, label


def columns(boxes: list[Box]) -> BoxColumns:
    count = len(boxes)
    x, sample, label = np.array(boxes, dtype=np.float64).reshape(-1, 3).T
    return BoxColumns(
        sample=sample.astype(np.int32),
        label=label.astype(np.int32),
        translation=np.stack([x, 0 * x, x], axis=1),
        size=np.ones((count, 3)),
        rotation=np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        velocity=np.zeros((count, 2)),
        attribute=np.full(count, -1, np.int32),
        ego_distance=np.zeros(count),
    )


def truth(*boxes: Box, points: dict[int, int] | None = None) -> TruthBoxes:
    lidar = np.full(len(boxes), 8)
    for row, count in (points or {}).items():
        lidar[row] = count - 1
    rows = np.arange(len(boxes), dtype=np.int32)
    more: dict[str, Any] = {"num_lidar_pts": lidar, "num_radar_pts": np.ones(len(boxes), np.int64)}
    return TruthBoxes(**vars(columns(list(boxes))), **more, annotation=rows, instance=rows, visibility=rows)


def detections(*boxes: tuple[Box, float]) -> DetectedBoxes:
    scores = np.array([score for _, score in boxes])
    return DetectedBoxes(**vars(columns([box for box, _ in boxes])), score=scores, num_pts=np.full(len(boxes), -1))


def test_only_near_sure_detections_of_the_class_in_the_sample_count() -> None:
    annotated = truth((0.0, 0, 0), (10.0, 0, 0), (20.0, 0, 0), (30.0, 1, 0), points={1: 4})
    detected = detections(((0.4, 0, 0), 0.3), ((20.0, 0, 1), 1.0), ((30.0, 0, 0), 0.9), ((20.6, 0, 0), 1.0))
    assert count_found(annotated, detected) == Found(1, 3)
    assert count_found(annotated, detections(((0.0, 0, 0), 0.29))) == Found(0, 3)


def test_a_detection_serves_one_annotation_and_the_best_assignment_is_taken() -> None:
    annotated = truth((0.0, 0, 0), (0.6, 0, 0))
    assert count_found(annotated, detections(((0.3, 0, 0), 0.9))) == Found(1, 2)
    # The first detection reaches both annotations, the second only the first one.
    assert count_found(annotated, detections(((0.3, 0, 0), 0.9), ((-0.4, 0, 0), 0.5))) == Found(2, 2)


def test_nothing_to_find_and_nothing_found() -> None:
    assert count_found(truth(), detections(((0.0, 0, 0), 1.0))) == Found(0, 0)
    assert count_found(truth((0.0, 0, 0)), detections()) == Found(0, 1)
