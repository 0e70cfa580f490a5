"""All that is told of one evaluation beyond its figures: intervals and slices."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_analysis.bootstrap import (
    CONFIDENCE,
    FEW_SCENES,
    FEWEST_SCENES,
    Replicates,
    drawn_scenes,
    replicate,
)
from datasets.nuscenes.detection_analysis.scene_facts import scene_facts
from datasets.nuscenes.detection_analysis.slices import SliceFigures, measure_slice, slices_of
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation
from datasets.nuscenes.detection_metric.metrics import class_precisions
from datasets.nuscenes.index.opening import open_index

SEED = 0


@dataclass(frozen=True)
class DetectionAnalysis:
    """Intervals and slices of an evaluation. `replicates` is None where `why_no_intervals` says why."""

    split: str
    scenes: int
    draws: int
    replicates: Replicates | None
    why_no_intervals: str
    slices: tuple[SliceFigures, ...]


def analyse(
    evaluation: SplitEvaluation, root: Path, version: str, draws: int, advance: Callable[[int], None] = lambda _: None
) -> DetectionAnalysis:
    """Draw scenes `draws` times (0: not at all) and measure all slices.

    `advance` is called with the number of replicates done since the last call.
    Raises InputRefused where the dataset's scene.json cannot be read.
    """
    samples, matches = evaluation.truth.samples, evaluation.matches
    facts = scene_facts(root / version, samples.scene_names)
    slices = slices_of(matches, samples, facts, open_index(root, version).visibilities)
    scenes = len(samples.scene_names)
    replicates, why_not = None, too_few_scenes(scenes)
    if not draws:
        why_not = "no intervals: none were asked for"
    elif not why_not:
        replicates = replicate(matches, samples.scene, drawn_scenes(scenes, draws, SEED), advance)
    figures = tuple(measure_slice(matches, part) for part in slices)
    return DetectionAnalysis(evaluation.split, scenes, draws, replicates, why_not, figures)


def too_few_scenes(scenes: int) -> str:
    """Why there are no intervals of so few scenes; empty where there are some."""
    if scenes >= FEWEST_SCENES:
        return ""
    return "no intervals: they come from drawing scenes again and again, and there is only one"


def rough(scenes: int) -> bool:
    """Whether intervals of so few scenes are a rough guess, on the narrow side."""
    return scenes < FEW_SCENES


def analysis_content(analysis: DetectionAnalysis) -> dict[str, Any]:
    """The content of analysis.json: numbers that are not defined are null."""
    bootstrap: dict[str, Any] = {"none": analysis.why_no_intervals}
    if analysis.replicates is not None:
        bootstrap = {
            "replicates": analysis.draws,
            "seed": SEED,
            "confidence": CONFIDENCE,
            "intervals": {
                name: {
                    "value": known(analysis.replicates.figures[name]),
                    "low": known(interval.low),
                    "high": known(interval.high),
                    "scenes": analysis.replicates.scenes[name],
                }
                for name, interval in analysis.replicates.intervals().items()
            },
        }
    return {
        "split": analysis.split,
        "scenes": analysis.scenes,
        "bootstrap": bootstrap,
        "slices": [_slice_content(part) for part in analysis.slices],
    }


def _slice_content(part: SliceFigures) -> dict[str, Any]:
    metrics = part.metrics
    precisions = class_precisions(metrics.average_precision)
    present = [name for name in DETECTION_CLASSES if metrics.ground_truth[name]]
    return {
        "kind": part.kind,
        "name": part.name,
        "annotations": part.annotations,
        "recall": known(part.recall),
        "mean_ap": metrics.mean_ap,
        "mean_ap_present": known(metrics.mean_ap_present),
        "nd_score": metrics.nds,
        "tp_errors": {name: known(error) for name, error in metrics.mean_errors.items()},
        "mean_dist_aps": {name: precisions[name] for name in present},
    }


def known(value: float) -> float | None:
    """The number for a JSON file, which has neither NaN nor infinity: null for these."""
    return value if math.isfinite(value) else None
