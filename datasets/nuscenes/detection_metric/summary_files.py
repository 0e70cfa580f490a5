"""metrics_summary.json and metrics_details.json, as the devkit writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.atomic_file import write_atomically
from datasets.nuscenes.detection_metric.configuration import as_written
from datasets.nuscenes.detection_metric.curves import Curves
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, class_precisions, error_scores

SUMMARY, DETAILS = "metrics_summary.json", "metrics_details.json"
_CURVES = (
    "recall", "precision", "confidence", "trans_err", "vel_err", "scale_err", "orient_err", "attr_err",
)  # fmt: skip


def write_summary_files(folder: Path, metrics: DetectionMetrics, meta: Mapping[str, Any], seconds: float) -> None:
    """Write both files into `folder`, with the devkit's names in its order. NaN stands as `NaN`, as in the devkit's.

    `meta`: that of the results. `seconds`: what the evaluation took.
    """
    write_atomically(folder / SUMMARY, json.dumps(summary(metrics, meta, seconds), indent=2).encode())
    write_atomically(folder / DETAILS, json.dumps(details(metrics), indent=2).encode())


def summary(metrics: DetectionMetrics, meta: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The content of metrics_summary.json."""
    return {
        "label_aps": {
            name: {str(threshold): value for threshold, value in values.items()}
            for name, values in metrics.average_precision.items()
        },
        "mean_dist_aps": class_precisions(metrics.average_precision),
        "mean_ap": metrics.mean_ap,
        "label_tp_errors": {name: dict(errors) for name, errors in metrics.class_errors.items()},
        "tp_errors": metrics.mean_errors,
        "tp_scores": error_scores(metrics.mean_errors),
        "nd_score": metrics.nds,
        "eval_time": seconds,
        "cfg": as_written(),
        "meta": dict(meta),
    }


def details(metrics: DetectionMetrics) -> dict[str, Any]:
    """The content of metrics_details.json: the curves of each class and threshold."""
    return {
        f"{name}:{threshold}": _listed(curves)
        for name, by_threshold in metrics.curves.items()
        for threshold, curves in by_threshold.items()
    }


def _listed(curves: Curves) -> dict[str, list[float]]:
    return {name: getattr(curves, name).tolist() for name in _CURVES}
