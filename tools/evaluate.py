"""mAP, NDS and the five errors, measured by the official nuscenes-devkit, of a run or of a results file."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from datasets.faults import InputRefused
from datasets.nuscenes.evaluation import DetectionMetrics, evaluate_detections
from datasets.nuscenes.found import FOUND_DISTANCE, FOUND_MIN_POINTS, FOUND_MIN_SCORE
from datasets.nuscenes.splits import default_split, split_in_file_name
from datasets.nuscenes.tables import find_version
from tools.class_metrics import class_metrics, distance_thresholds
from tools.devices import DeviceChoice, limit_threads
from tools.evaluate_tracking import score_tracks, tracking_text
from tools.exit_codes import Degraded
from tools.missing_sensors import MissingSensors
from tools.predict import PredictArguments, predict_to_file, refuse_loader_options
from tools.training.loading import MissingSensorsPolicy


@dataclass(frozen=True)
class EvaluateArguments:
    """What `bevel evaluate` takes."""

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|RESULTS.JSON")]]
    """The run folder of `bevel train`, or detections in nuScenes' results format."""
    data_root: Path
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise mini_val or val, as the version has it."""
    output: Path | None = None
    """Where metrics_summary.json goes, otherwise evaluation-SPLIT beside the results."""
    batch_size: int = 1
    workers: int = 0
    """Loader processes."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    strict: bool = False
    """Exit code 4 if sensors were missing."""
    tracking: bool = False
    """Score tracks (AMOTA) instead: those of the results, or made of the detections."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def evaluate(arguments: EvaluateArguments) -> Path:
    """Print the metrics and return the folder that holds metrics_summary.json (and, of a run, results.json).

    Raises InputRefused for bad input, and with `strict` Degraded where sensors were missing.
    """
    if arguments.tracking:
        to_score = find_or_detect(arguments)
        output, missing = to_score.output, to_score.missing
        print(
            tracking_text(score_tracks(arguments.data_root, to_score.version, to_score.results, to_score.split, output))
        )
    else:
        output, metrics, missing = measure(arguments)
        print(metrics_text(metrics))
        if (note := incomplete_split_text(metrics)) is not None:
            print(note)
    print(missing.table())
    if arguments.strict and missing.broken_count:
        raise Degraded(missing.strict_text(), output)
    return output


def measure(arguments: EvaluateArguments) -> tuple[Path, DetectionMetrics, MissingSensors]:
    """As `evaluate`, without a word: the output folder, the metrics and which sensors were missing."""
    found = find_or_detect(arguments)
    print(f"scoring the split {found.split} of {found.version} with nuscenes-devkit", file=sys.stderr, flush=True)
    metrics = evaluate_detections(arguments.data_root, found.version, found.results, found.split, found.output)
    return found.output, metrics, found.missing


@dataclass(frozen=True)
class ToScore:
    """A results file, of which split and version, the folder for its metrics, and which sensors were missing."""

    results: Path
    version: str
    split: str
    output: Path
    missing: MissingSensors


def find_or_detect(arguments: EvaluateArguments) -> ToScore:
    """The results that are to be scored; a run's are made first. Raises InputRefused for bad input."""
    limit_threads(arguments.threads)
    source, missing = arguments.source, MissingSensors()
    if not source.exists():
        raise InputRefused(f"{source}: there is no such run folder or results file.")
    refuse_loader_options(arguments.batch_size, arguments.workers)
    version = find_version(arguments.data_root, arguments.version)
    split = arguments.split or default_split(version, "evaluate")
    folder = source if source.is_dir() else source.parent
    output = arguments.output or folder / f"evaluation-{split_in_file_name(split)}"
    if output.exists() and not output.is_dir():
        raise InputRefused(f"{output} is a file: name a folder with --output.")
    results = source
    if source.is_dir():
        results = output / "results.json"
        missing = predict_to_file(_prediction(arguments), version, split, results)
    return ToScore(results, version, split, output, missing)


def _prediction(arguments: EvaluateArguments) -> PredictArguments:
    return PredictArguments(
        run=arguments.source,
        data_root=arguments.data_root,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        missing_sensors=arguments.missing_sensors,
        device=arguments.device,
    )


def incomplete_split_text(metrics: DetectionMetrics) -> str | None:
    """One line where only some scenes of an official split were there to be evaluated."""
    if metrics.official_scene_count is None or metrics.scene_count >= metrics.official_scene_count:
        return None
    return (
        f"{metrics.scene_count} of the {metrics.official_scene_count} scenes of {metrics.split} are here: "
        "not the official figure."
    )


def metrics_text(metrics: DetectionMetrics) -> str:
    """The official figures and the table by class; a dash where a figure is not defined."""
    header = f"{'class':<22}{'boxes':>6}{'AP':>7}" + "".join(f"{f'{t:g} m':>7}" for t in distance_thresholds(metrics))
    header += "".join(f"{name:>7}" for name in ("ATE", "ASE", "AOE", "AVE", "AAE"))
    rows = [
        f"{row.name:<22}{row.box_count:>6}"
        + "".join(_number(number) for number in (row.mean_precision, *row.precisions, *row.errors))
        for row in class_metrics(metrics)
    ]
    return "\n".join(
        [
            f"mAP {metrics.mean_ap:.4f}   NDS {metrics.nds:.4f}   "
            f"(mAP of the {sum(map(bool, metrics.ground_truth.values()))} classes present: "
            f"{metrics.mean_ap_present:.4f})",
            f"mATE {metrics.translation_error:.3f} m   mASE {metrics.scale_error:.3f}   "
            f"mAOE {metrics.orientation_error:.3f} rad   mAVE {metrics.velocity_error:.3f} m/s   "
            f"mAAE {metrics.attribute_error:.3f}",
            f"found {metrics.found.count} of {metrics.found.total} annotations with at least {FOUND_MIN_POINTS} points "
            f"(a detection of the class within {FOUND_DISTANCE:g} m, score {FOUND_MIN_SCORE:g} or more)",
            "",
            header,
            *rows,
        ]
    )


def _number(value: float) -> str:
    return f"{'-':>7}" if value != value else f"{value:>7.3f}"
