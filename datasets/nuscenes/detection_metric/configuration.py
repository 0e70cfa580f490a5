"""The configuration detection_cvpr_2019 of the nuScenes detection task, in the order in which the devkit has it.

The order matters: means over classes are rounded in it.
"""

from collections.abc import Mapping
from typing import Any

CONFIGURATION_NAME = "detection_cvpr_2019"
# Class -> the distance from the ego vehicle (m, in x and y) from which on boxes do not count.
CLASS_RANGES: Mapping[str, int] = {
    "car": 50,
    "truck": 50,
    "bus": 50,
    "trailer": 50,
    "construction_vehicle": 50,
    "pedestrian": 40,
    "motorcycle": 40,
    "bicycle": 40,
    "traffic_cone": 30,
    "barrier": 30,
}
# Metres between centres below which a detection matches an annotation; errors are those of the matches at 2 m.
DISTANCE_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
ERROR_THRESHOLD = 2.0
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
MAX_BOXES_PER_SAMPLE = 500
MEAN_AP_WEIGHT = 5
# Translation (m), scale (1 - IoU), orientation (rad), velocity (m/s), attribute (1 - accuracy).
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
# Errors that say nothing of a class: cones look the same from all sides, and neither moves nor has attributes.
SKIPPED_ERRORS: Mapping[str, frozenset[str]] = {
    "traffic_cone": frozenset(("attr_err", "vel_err", "orient_err")),
    "barrier": frozenset(("attr_err", "vel_err")),
}
# Boxes of these inside a bicycle rack do not count: single cycles in racks are not annotated.
CYCLES = ("bicycle", "motorcycle")
BICYCLE_RACK = "static_object.bicycle_rack"


def as_written() -> dict[str, Any]:
    """The configuration as metrics_summary.json holds it."""
    return {
        "class_range": dict(CLASS_RANGES),
        "dist_fcn": "center_distance",
        "dist_ths": list(DISTANCE_THRESHOLDS),
        "dist_th_tp": ERROR_THRESHOLD,
        "min_recall": MIN_RECALL,
        "min_precision": MIN_PRECISION,
        "max_boxes_per_sample": MAX_BOXES_PER_SAMPLE,
        "mean_ap_weight": MEAN_AP_WEIGHT,
    }
