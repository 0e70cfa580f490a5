"""What the metric is measured with: the devkit's configuration tracking_nips_2019."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from datasets.classes import TRACKING_CLASSES

_RANGES = {
    "car": 50,
    "truck": 50,
    "bus": 50,
    "trailer": 50,
    "pedestrian": 40,
    "motorcycle": 40,
    "bicycle": 40,
}
# What a figure counts with where it is not defined; -1: worked out from the ground truth, see `curves.py`.
_WORST = {
    "amota": 0.0,
    "amotp": 2.0,
    "recall": 0.0,
    "motar": 0.0,
    "mota": 0.0,
    "motp": 2.0,
    "mt": 0.0,
    "ml": -1.0,
    "faf": 500.0,
    "gt": -1.0,
    "tp": 0.0,
    "fp": -1.0,
    "fn": -1.0,
    "ids": -1.0,
    "frag": -1.0,
    "tid": 20.0,
    "lgd": 20.0,
}
# Of the devkit's plots, which only its own code draws: without them it does not read a summary back.
_COLORS = {
    "bicycle": "C9",
    "bus": "C2",
    "car": "C0",
    "motorcycle": "C6",
    "pedestrian": "C5",
    "trailer": "C3",
    "truck": "C1",
}


@dataclass(frozen=True)
class TrackingMetricConfig:
    """The official values. `ranges`: metres from the vehicle, by class; `match_distance`: metres between centres."""

    ranges: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(_RANGES))
    match_distance: float = 2.0
    min_recall: float = 0.1
    thresholds: int = 40
    worst: Mapping[str, float] = field(default_factory=lambda: MappingProxyType(_WORST))

    def serialized(self) -> dict[str, Any]:
        """As the devkit writes it into metrics_summary.json."""
        return {
            "tracking_names": list(TRACKING_CLASSES),
            "pretty_tracking_names": {name: name.capitalize() for name in TRACKING_CLASSES},
            "tracking_colors": _COLORS,
            "class_range": dict(self.ranges),
            "dist_fcn": "center_distance",
            "dist_th_tp": self.match_distance,
            "min_recall": self.min_recall,
            "max_boxes_per_sample": 500,
            "metric_worst": dict(self.worst),
            "num_thresholds": self.thresholds,
        }
