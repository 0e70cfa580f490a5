"""mAP, NDS and the five errors of the official nuScenes metric, of a run or of a results file."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation, evaluate_detections
from datasets.nuscenes.detection_metric.official import differences_from_devkit
from datasets.nuscenes.found import FOUND_DISTANCE, FOUND_MIN_POINTS, FOUND_MIN_SCORE
from datasets.nuscenes.splits import default_split, split_in_file_name
from datasets.nuscenes.tables import find_version
from tools.class_metrics import class_metrics, distance_thresholds
from tools.devices import DeviceChoice, limit_threads
from tools.evaluate_tracking import score_tracks, tracking_text
from tools.evaluation_analysis import analyse_and_write, intervals_text, slices_text
from tools.exit_codes import Degraded, Disagreement
from tools.map_scores import MapScorer
from tools.missing_sensors import MissingSensors
from tools.open_dataset import DataRoot, tables_root
from tools.predict import PredictArguments, predict_to_file, refuse_loader_options
from tools.shipped_runs import folder_of_outputs, run_or_shipped
from tools.training.loading import MissingSensorsPolicy

_MOST_SHOWN = 20  # differences from the devkit


@dataclass(frozen=True)
class EvaluateArguments:
    """What `bevel evaluate` takes."""

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|RESULTS.JSON")]]
    """The run folder of `bevel train` (tiny: the one that comes with Bevel), or detections in nuScenes' format."""
    data_root: DataRoot
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
    official: bool = False
    """Run nuscenes-devkit as well (minutes for a large split); exit code 5 where any figure is not the same."""
    tracking: bool = False
    """Score tracks (AMOTA) instead: those of the results, or made of the detections."""
    bootstrap: int = 1000
    """How many times scenes are drawn for the 95 % intervals; 0 for none."""
    slices: bool = False
    """Also print the figures by distance, visibility, points, speed, conditions and location."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def evaluate(arguments: EvaluateArguments) -> Path:
    """Print the metrics and return the folder that holds metrics_summary.json (and, of a run, results.json).

    Intervals, slices and curves stand beside it: analysis.json, evaluation.html, precision_recall.png, errors.png.

    Raises InputRefused for bad input, with `official` Disagreement where the devkit gives other figures, and with
    `strict` Degraded where sensors were missing.
    """
    if arguments.tracking and arguments.official:
        raise InputRefused(
            "--official runs nuscenes-devkit on detections, and --tracking scores tracks: leave out one of them (how "
            "far the tracks' figures are the devkit's stands in docs/tracking.md)."
        )
    if arguments.bootstrap < 0:
        raise InputRefused(f"--bootstrap must be 0 or more, not {arguments.bootstrap}.")
    found = find_or_detect(arguments)
    if arguments.tracking:
        print(tracking_text(score_tracks(found.root, found.version, found.results, found.split, found.output)))
    else:
        _score_and_analyse(arguments, found)
    print(found.missing.table())
    if arguments.strict and found.missing.broken_count:
        raise Degraded(found.missing.strict_text(), found.output)
    return found.output


def measure(arguments: EvaluateArguments) -> tuple[Path, SplitEvaluation, MissingSensors]:
    """As `evaluate`, without a word: the output folder, the evaluation and which sensors were missing."""
    found = find_or_detect(arguments)
    return found.output, _score(found), found.missing


@dataclass(frozen=True)
class ToScore:
    """A results file, of which split of which tables, the folder for its metrics, which sensors were missing and,
    of a run that segments the map, how well.
    """

    results: Path
    root: Path
    version: str
    split: str
    output: Path
    missing: MissingSensors
    maps: MapScorer


def _score_and_analyse(arguments: EvaluateArguments, found: ToScore) -> None:
    evaluation = _score(found)
    title = f"{arguments.source.stem} on {found.split:.40}"
    analysis = analyse_and_write(
        evaluation, found.root, found.version, arguments.bootstrap, found.output, title, found.maps.scores()
    )
    print(metrics_text(evaluation))
    print(intervals_text(analysis))
    if (of_map := found.maps.text()) is not None:
        print(of_map)
    if arguments.slices:
        print(slices_text(analysis.slices))
    for note in filter(None, (incomplete_split_text(evaluation), left_out_text(evaluation))):
        print(note)
    if arguments.official:
        _compare_with_devkit(found, evaluation)


def find_or_detect(arguments: EvaluateArguments) -> ToScore:
    """The results that are to be scored; a run's are made first. Raises InputRefused for bad input."""
    limit_threads(arguments.threads)
    arguments = replace(arguments, source=run_or_shipped(arguments.source))
    source, missing, maps = arguments.source, MissingSensors(), MapScorer()
    if not source.exists():
        raise InputRefused(f"{source}: there is no such run folder or results file.")
    refuse_loader_options(arguments.batch_size, arguments.workers)
    root = tables_root(arguments.data_root)
    version = find_version(root, arguments.version)
    split = arguments.split or default_split(version, "evaluate")
    folder = folder_of_outputs(source) if source.is_dir() else source.parent
    output = arguments.output or folder / f"evaluation-{split_in_file_name(split)}"
    if output.exists() and not output.is_dir():
        raise InputRefused(f"{output} is a file: name a folder with --output.")
    results = output / "results.json" if source.is_dir() else source
    if source.is_dir():
        missing = predict_to_file(_prediction(arguments), version, split, results, maps)
    return ToScore(results, root, version, split, output, missing, maps)


def _score(found: ToScore) -> SplitEvaluation:
    print(f"scoring the split {found.split} of {found.version}", file=sys.stderr, flush=True)
    return evaluate_detections(found.root, found.version, found.results, found.split, found.output)


def _compare_with_devkit(found: ToScore, evaluation: SplitEvaluation) -> None:
    print("running nuscenes-devkit as well", file=sys.stderr, flush=True)
    differences = differences_from_devkit(found.root, found.version, found.results, evaluation, found.output)
    if differences:
        shown = "".join(f"\n  {line}" for line in differences[:_MOST_SHOWN])
        more = f"\n  and {len(differences) - _MOST_SHOWN} more" if len(differences) > _MOST_SHOWN else ""
        text = f"{found.output}: {len(differences)} differences from nuscenes-devkit:{shown}{more}"
        raise Disagreement(text, found.output)
    print("nuscenes-devkit gives the same figures and curves, to the last bit")


def _prediction(arguments: EvaluateArguments) -> PredictArguments:
    return PredictArguments(
        run=arguments.source,
        data_root=arguments.data_root,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        missing_sensors=arguments.missing_sensors,
        device=arguments.device,
    )


def incomplete_split_text(evaluation: SplitEvaluation) -> str | None:
    """One line where only some scenes of an official split were there to be evaluated."""
    if evaluation.official_scene_count is None or evaluation.scene_count >= evaluation.official_scene_count:
        return None
    return (
        f"{evaluation.scene_count} of the {evaluation.official_scene_count} scenes of {evaluation.split} are here: "
        "not the official figure."
    )


def left_out_text(evaluation: SplitEvaluation) -> str | None:
    """One line where the results have samples that are not in the split."""
    if not evaluation.results.left_out:
        return None
    return f"{evaluation.results.left_out} samples of the results are not in {evaluation.split}: left out."


def metrics_text(evaluation: SplitEvaluation) -> str:
    """The official figures and the table by class; a dash where a figure is not defined."""
    metrics, found = evaluation.metrics, evaluation.found
    errors = metrics.mean_errors
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
            f"mATE {errors['trans_err']:.3f} m   mASE {errors['scale_err']:.3f}   "
            f"mAOE {errors['orient_err']:.3f} rad   mAVE {errors['vel_err']:.3f} m/s   "
            f"mAAE {errors['attr_err']:.3f}",
            f"found {found.count} of {found.total} annotations with at least {FOUND_MIN_POINTS} points "
            f"(a detection of the class within {FOUND_DISTANCE:g} m, score {FOUND_MIN_SCORE:g} or more)",
            "",
            header,
            *rows,
        ]
    )


def _number(value: float) -> str:
    return f"{'-':>7}" if value != value else f"{value:>7.3f}"
