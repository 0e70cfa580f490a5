"""AMOTA, AMOTP and the CLEAR figures of tracks: those of a results file, or made of its detections."""

import sys
from pathlib import Path

from datasets.classes import TRACKING_CLASSES
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.tracking_metric.evaluation import TrackingMetrics, evaluate_tracking
from datasets.nuscenes.tracking_results import holds_tracks
from perception.tracking.config import TrackerConfig
from tools.track import track_to_file

# What a line of the table shows, and how: shares and metres, seconds, counts.
_COLUMNS = (
    ("amota", ".3f"), ("amotp", ".3f"), ("recall", ".3f"), ("motar", ".3f"), ("mota", ".3f"), ("motp", ".3f"),
    ("mt", ".0f"), ("ml", ".0f"), ("faf", ".1f"), ("tp", ".0f"), ("fp", ".0f"), ("fn", ".0f"), ("ids", ".0f"),
    ("frag", ".0f"), ("tid", ".2f"), ("lgd", ".2f"),
)  # fmt: skip


def score_tracks(root: Path, version: str, results: Path, split: str, output: Path) -> TrackingMetrics:
    """Score a file of tracks, or of detections, which are tracked first into `output`/tracks.json.

    Writes metrics_summary.json and metrics_details.json into `output`. Raises InputRefused for bad input.
    """
    if not holds_tracks(results):
        print(f"{results.name} holds detections: tracking them", file=sys.stderr, flush=True)
        results = track_to_file(open_index(root, version), results, output / "tracks.json", TrackerConfig())
    print(f"scoring the tracks of the split {split} of {version}", file=sys.stderr, flush=True)
    return evaluate_tracking(root, version, results, split, output)


def tracking_text(metrics: TrackingMetrics) -> str:
    """The official figures, over all classes and of each; a dash where a figure is not defined."""
    header = f"{'class':<12}" + "".join(f"{name.upper():>8}" for name, _ in _COLUMNS)
    lines = [("all", metrics.overall), *((name, metrics.by_class[name]) for name in TRACKING_CLASSES)]
    rows = [f"{name:<12}" + "".join(_number(figures[key], shape) for key, shape in _COLUMNS) for name, figures in lines]
    found, official = metrics.scene_count, metrics.official_scene_count
    note = []
    if official is not None and found < official:
        note = [f"{found} of the {official} scenes of {metrics.split} are here: not the official figure."]
    overall = metrics.overall
    summary = f"AMOTA {overall['amota']:.4f}   AMOTP {overall['amotp']:.4f} m   recall {overall['recall']:.4f}"
    return "\n".join([summary, "", header, *rows, *note])


def _number(value: float, shape: str) -> str:
    return f"{'-':>8}" if value != value else f"{value:>8{shape}}"
