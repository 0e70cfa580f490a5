"""A results file against a split of a dataset: the detection metric from files to figures."""

import time
from dataclasses import dataclass
from pathlib import Path

from datasets.nuscenes.detection_metric.boxes import DetectedBoxes, DetectionResults, DetectionTruth
from datasets.nuscenes.detection_metric.detections import read_detections
from datasets.nuscenes.detection_metric.filters import counted
from datasets.nuscenes.detection_metric.matching import Matches, match
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, measure
from datasets.nuscenes.detection_metric.summary_files import write_summary_files
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.found import Found, count_found
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes
from datasets.nuscenes.tables import find_version


@dataclass(frozen=True)
class SplitEvaluation:
    """What came of a results file on a split, and all that it came from.

    `official_scene_count`: the scenes of an official split, present or not; None for other splits. `truth` and
    `results` are unfiltered; `matches` has the boxes that count.
    """

    split: str
    official_scene_count: int | None
    metrics: DetectionMetrics
    found: Found
    truth: DetectionTruth
    results: DetectionResults
    matches: Matches

    @property
    def scene_count(self) -> int:
        """Scenes that were evaluated."""
        return len(self.truth.samples.scene_names)


def match_counted(truth: DetectionTruth, detections: DetectedBoxes) -> Matches:
    """Match what the official metric counts: both sets, filtered."""
    return match(truth.boxes.take(counted(truth.boxes, truth.racks)), detections.take(counted(detections, truth.racks)))


def evaluate_detections(
    root: Path, version: str | None, results_path: Path, split: str, output_dir: Path
) -> SplitEvaluation:
    """Score a results file against a split: official (of which the scenes that are present count), "all", or names.

    Writes metrics_summary.json and metrics_details.json, as the devkit does, into `output_dir`.
    Raises InputRefused where the results are malformed or not those of the split's samples, or where the dataset has
    no annotations to compare with.
    """
    version = find_version(root, version)
    started = time.monotonic()
    truth = load_truth(open_index(root, version), version, split, root / version)
    results = read_detections(results_path, truth.samples, split, others_allowed=split not in OFFICIAL_SPLITS)
    matches = match_counted(truth, results.boxes)
    metrics = measure(matches)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_summary_files(output_dir, metrics, results.meta, time.monotonic() - started)
    return SplitEvaluation(
        split,
        len(official_scenes(split)) if split in OFFICIAL_SPLITS else None,
        metrics,
        count_found(matches.truth, matches.detections),
        truth,
        results,
        matches,
    )
