"""The official average precision of detections of one sample: the devkit's own matching and integration."""

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate, calc_ap
from nuscenes.eval.detection.data_classes import DetectionBox

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES


def mean_average_precision(truth: Boxes3D, found: Boxes3D, distance: float) -> float:
    """The mean over the classes that the truth has; matches are by the centres' distance on the ground, metres."""
    truth_boxes, found_boxes = _eval_boxes(truth), _eval_boxes(found)
    precisions = []
    for label in truth.labels.unique().tolist():
        data = accumulate(truth_boxes, found_boxes, DETECTION_CLASSES[label], center_distance, distance)
        precisions.append(calc_ap(data, min_recall=0.1, min_precision=0.1))
    return float(np.mean(precisions))


def _eval_boxes(boxes: Boxes3D) -> EvalBoxes:
    official = EvalBoxes()
    official.add_boxes(
        "sample",
        [
            DetectionBox(
                sample_token="sample",
                translation=tuple(boxes.centers[index].tolist()),
                size=tuple(boxes.sizes_wlh[index].tolist()),
                rotation=(1.0, 0.0, 0.0, 0.0),
                velocity=(0.0, 0.0),
                detection_name=DETECTION_CLASSES[int(boxes.labels[index])],
                detection_score=float(boxes.scores[index]),
            )
            for index in range(len(boxes))
        ],
    )
    return official
