"""Score a tracking results file against a split."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.atomic_file import write_atomically
from datasets.classes import TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords
from datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes, scenes_of_split
from datasets.nuscenes.tables import find_version
from datasets.nuscenes.tracking_metric.accumulate import class_frames
from datasets.nuscenes.tracking_metric.config import TrackingMetricConfig
from datasets.nuscenes.tracking_metric.curves import METRICS, ClassCurves, class_curves, over_classes, summarized
from datasets.nuscenes.tracking_metric.rows import annotated_rows, frames_of, predicted_rows
from datasets.nuscenes.tracking_results import read_tracking_results
from datasets.tracks import Tracks


@dataclass(frozen=True)
class TrackingMetrics:
    """The official figures by name (`curves.METRICS`): over all classes, of each class, and at every recall.

    amota, motar, mota, recall: shares; amotp, motp: metres; tid, lgd: seconds; faf: false positives in 100 frames;
    the others are counts. NaN where not defined. `scene_count`: scenes that were evaluated; `official_scene_count`:
    those of an official split, present or not, and None for other splits.
    """

    overall: Mapping[str, float]
    by_class: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, ClassCurves]
    split: str
    scene_count: int
    official_scene_count: int | None


def evaluate_tracking(
    root: Path, version: str | None, results_path: Path, split: str, output_dir: Path
) -> TrackingMetrics:
    """Score a tracking results file against a split: official (of which the scenes present count), "all", or names.

    Writes metrics_summary.json and metrics_details.json as the devkit does into `output_dir`.
    Raises InputRefused where the results are malformed or not those of the split's samples, or where the dataset has
    no annotations to compare with.
    """
    began = time.perf_counter()
    version = find_version(root, version)
    index = open_index(root, version)
    names = scenes_of_split(split, index.scene_names, version, where=str(root / version))
    scenes = [index.scene(index.scene_names.index(name)) for name in names]
    samples = [token for scene in scenes for token in scene.samples.token]
    subject = f"the tracks for the split {split!r:.80}, which has {len(samples)} samples"
    results = read_tracking_results(results_path, samples, subject)
    metrics = measure_tracks(index, scenes, results.tracks, split, where=str(root / version))
    _write_json(metrics, results.meta, time.perf_counter() - began, output_dir)
    return metrics


def measure_tracks(
    index: NuScenesIndex,
    scenes: list[SceneRecords],
    tracks: Mapping[str, Tracks],
    split: str,
    where: str,
    config: TrackingMetricConfig | None = None,
) -> TrackingMetrics:
    """The figures of tracks, by sample token, against the annotations of these scenes. `where`: named in refusals."""
    config = config or TrackingMetricConfig()
    frames = frames_of(index, scenes, where)
    truth = annotated_rows(index, scenes, frames, config.ranges)
    if len(truth) == 0:
        raise InputRefused(
            f"{where}: the split {split!r} has no annotations of the seven tracking classes within range, so there "
            "is nothing to evaluate against."
        )
    found = predicted_rows(tracks, frames, config.ranges)
    curves = {
        name: class_curves(class_frames(truth, found, label, len(frames.token)), config)
        for label, name in enumerate(TRACKING_CLASSES)
    }
    by_class = {name: summarized(curves[name], config) for name in TRACKING_CLASSES}
    return TrackingMetrics(
        overall=over_classes(by_class),
        by_class=by_class,
        curves=curves,
        split=split,
        scene_count=len(scenes),
        official_scene_count=len(official_scenes(split)) if split in OFFICIAL_SPLITS else None,
    )


def _write_json(metrics: TrackingMetrics, meta: Any, seconds: float, output_dir: Path) -> None:
    """The devkit's two files; NaN stands in them as it does there."""
    summary: dict[str, Any] = {
        "label_metrics": {
            metric: {name: metrics.by_class[name][metric] for name in TRACKING_CLASSES} for metric in METRICS
        },
        "eval_time": seconds,
        "cfg": TrackingMetricConfig().serialized(),
    }
    summary |= {**metrics.overall, "meta": meta}
    details = {
        name: {"confidence": curves.confidence.tolist(), "recall_hypo": curves.recall_hypo.tolist()}
        | {metric: values.tolist() for metric, values in curves.values.items()}
        for name, curves in metrics.curves.items()
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    for file_name, content in (("metrics_summary.json", summary), ("metrics_details.json", details)):
        write_atomically(output_dir / file_name, json.dumps(content, indent=2).encode())
