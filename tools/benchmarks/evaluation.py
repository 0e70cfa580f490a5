"""What evaluating detections costs: ours and the devkit's functions on the same files, step by step."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.configuration import CONFIGURATION_NAME, MAX_BOXES_PER_SAMPLE
from datasets.nuscenes.detection_metric.detections import read_detections
from datasets.nuscenes.detection_metric.filters import counted
from datasets.nuscenes.detection_metric.matching import match
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, measure
from datasets.nuscenes.detection_metric.summary_files import details
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.index.opening import open_index
from tools.benchmarks.cost import Cost, in_new_process, measured
from tools.benchmarks.evaluation_problem import SPLIT, VERSION, ProblemSize, results_path, write_problem
from tools.benchmarks.machine import this_machine
from tools.benchmarks.tracking_metric import compare_tracking, refuse_without_motmetrics

# The first opens the dataset and is not counted: one does it once for many results.
_STEPS = ("open the tables", "read the annotations", "read the results", "filter", "match, curves, figures")


@dataclass(frozen=True)
class EvaluationBench:
    """The detection metric beside the devkit's, on a generated problem as large as nuScenes' split val.

    That one takes five minutes and 4 GB of memory, nearly all of it the devkit's.
    """

    scenes: int = 150
    """Scenes, of 40 samples; val has 150."""
    detections: int = 200
    """Boxes of a sample in the results, up to 500."""
    scratch: Path | None = None
    """A folder for the generated files, up to a gigabyte; they are removed. Default: the system's."""
    tracking: bool = False
    """Also the tracking metric, on a thirtieth of the scenes, each ten seconds for the devkit; needs motmetrics."""
    output: Path | None = None
    """A JSON file for the figures."""


@dataclass(frozen=True)
class EvaluationFigures:
    """Costs of each step, ours and the devkit's, in one process; peak memory (MiB) in processes of their own, the
    devkit's without its last step. `same_curves` of `curves` are equal to the last bit, `same_figures` tells whether
    mAP, NDS and errors are.
    """

    samples: int
    annotations: int
    detections: int
    ours: dict[str, Cost]
    devkits: dict[str, Cost]
    our_peak_mib: float
    devkit_peak_mib: float
    curves: int
    same_curves: int
    same_figures: bool

    @property
    def matching_ratio(self) -> float:
        """How many times less CPU time than the devkit's matching, curves and figures take."""
        return self.devkits[_STEPS[-1]].cpu / self.ours[_STEPS[-1]].cpu

    @property
    def whole_ratio(self) -> float:
        """How many times less CPU time than the devkit's all steps behind the first take."""
        theirs, ours = (sum(costs[step].cpu for step in _STEPS[1:]) for costs in (self.devkits, self.ours))
        return theirs / ours

    @property
    def memory_ratio(self) -> float:
        """Our peak memory as a share of the devkit's."""
        return self.our_peak_mib / self.devkit_peak_mib

    def lines(self) -> list[str]:
        """The figures as a table."""
        lines = [
            f"{self.samples:,} samples; in range {self.annotations:,} annotations, {self.detections:,} detections",
            f"{'CPU s':28}{'ours':>10}{'devkit':>10}{'ratio':>8}",
        ]
        for step in _STEPS:
            ours, theirs = self.ours[step].cpu, self.devkits[step].cpu
            lines.append(f"{step:28}{ours:>10.2f}{theirs:>10.2f}{theirs / ours:>8.0f}")
        lines += [
            f"{'all but the first':28}{'':20}{self.whole_ratio:>8.1f}",
            f"peak memory {self.our_peak_mib:,.0f} MiB, the devkit's {self.devkit_peak_mib:,.0f} MiB: "
            f"{self.memory_ratio:.2f} of it",
            f"{self.same_curves} of {self.curves} curves are the same to the last bit; mAP, NDS and errors are "
            f"{'the same' if self.same_figures else 'NOT the same'}",
        ]
        return lines


def bench_evaluation(arguments: EvaluationBench) -> Path | None:
    """Measure, print the table, write the figures to `arguments.output`. Raises InputRefused for bad settings."""
    if arguments.scenes < 1:
        raise InputRefused(f"--scenes must be 1 or more, not {arguments.scenes}.")
    if not 1 <= arguments.detections <= MAX_BOXES_PER_SAMPLE:
        raise InputRefused(f"--detections must be from 1 to {MAX_BOXES_PER_SAMPLE}, not {arguments.detections}.")
    scratch = Path(tempfile.gettempdir()) if arguments.scratch is None else arguments.scratch
    if not scratch.is_dir():
        raise InputRefused(f"{scratch} is no folder: name one for the generated files with --scratch.")
    if arguments.tracking:
        refuse_without_motmetrics()
    machine = this_machine()
    print(machine.text(), flush=True)
    figures = compare(scratch, ProblemSize(arguments.scenes, detections=arguments.detections))
    print("\n".join(figures.lines()), flush=True)
    tracking = compare_tracking(scratch, max(1, arguments.scenes // 30)) if arguments.tracking else None
    if tracking is not None:
        print("\n".join(tracking.lines()))
    if arguments.output is None:
        return None
    ratios = {name: getattr(figures, name) for name in ("matching_ratio", "whole_ratio", "memory_ratio")}
    content = {"machine": asdict(machine), **asdict(figures), **ratios}
    if tracking is not None:
        content["tracking"] = {**asdict(tracking), "ratio": tracking.ratio}
    write_atomically(arguments.output, (json.dumps(content, indent=2) + "\n").encode())
    return arguments.output


def compare(folder: Path, size: ProblemSize) -> EvaluationFigures:
    """Write a problem into a temporary folder inside `folder`, evaluate it both ways, delete it."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        small, root = Path(temporary) / "small", Path(temporary) / "problem"
        write_problem(small, ProblemSize(scenes=1, detections=10))
        _evaluate(small, {})  # compiles what is compiled at first use
        write_problem(root, size)
        our_peak = in_new_process(_our_peak, root)
        devkit_peak = in_new_process(_devkit_peak, root)
        ours: dict[str, Cost] = {}
        metrics, samples, annotations, detections = _evaluate(root, ours)
        devkits: dict[str, Cost] = {}
        summary, curves = _evaluate_with_devkit(root, devkits)
    same = [
        name
        for pair, by_name in details(metrics).items()
        for name, curve in by_name.items()
        if np.array_equal(curve, curves[pair][name])
    ]
    same_figures = (metrics.mean_ap, metrics.nds, dict(metrics.mean_errors)) == (
        summary["mean_ap"],
        summary["nd_score"],
        summary["tp_errors"],
    )
    count = sum(map(len, curves.values()))
    return EvaluationFigures(
        samples, annotations, detections, ours, devkits, our_peak, devkit_peak, count, len(same), same_figures
    )


def _step(costs: dict[str, Cost], number: int, work: Callable[[], Any]) -> Any:
    result, costs[_STEPS[number]] = measured(work)
    return result


def _evaluate(root: Path, costs: dict[str, Cost]) -> tuple[DetectionMetrics, int, int, int]:
    """Our metrics, numbers of samples, counted annotations and detections; each step's cost goes into `costs`."""
    index = _step(costs, 0, lambda: open_index(root, VERSION))
    truth = _step(costs, 1, lambda: load_truth(index, VERSION, SPLIT, root / VERSION))
    results = _step(costs, 2, lambda: read_detections(results_path(root), truth.samples, SPLIT, others_allowed=True))
    boxes = _step(costs, 3, lambda: [part.take(counted(part, truth.racks)) for part in (truth.boxes, results.boxes)])
    metrics: DetectionMetrics = _step(costs, 4, lambda: measure(match(*boxes)))
    return metrics, len(truth.samples), len(boxes[0]), len(boxes[1])


def _evaluate_with_devkit(root: Path, costs: dict[str, Cost]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The devkit's summary and curves, by the functions that its DetectionEval calls, in its order."""
    config, *boxes = _devkit_boxes(root, costs)
    summary, curves = _step(costs, 4, lambda: _devkit_figures(config, *boxes))
    return summary.serialize(), curves.serialize()


def _devkit_boxes(root: Path, costs: dict[str, Cost]) -> tuple[Any, Any, Any]:
    """The devkit's configuration, annotations and detections: all steps but the last."""
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import (
        add_center_dist,
        filter_eval_boxes,
        load_gt_of_sample_tokens,
        load_prediction,
    )
    from nuscenes.eval.detection.data_classes import DetectionBox

    config = config_factory(CONFIGURATION_NAME)
    with contextlib.redirect_stderr(io.StringIO()):
        nusc = _step(costs, 0, lambda: NuScenes(VERSION, str(root), verbose=False))
        tokens = [sample["token"] for sample in nusc.sample]
        annotated = _step(costs, 1, lambda: load_gt_of_sample_tokens(nusc, tokens, DetectionBox))
        path, most = str(results_path(root)), config.max_boxes_per_sample
        detected = _step(costs, 2, lambda: load_prediction(path, most, DetectionBox)[0])

        def filtered() -> list[Any]:
            both = (annotated, detected)
            return [filter_eval_boxes(nusc, add_center_dist(nusc, boxes), config.class_range) for boxes in both]

        return config, *_step(costs, 3, filtered)


def _devkit_figures(config: Any, annotated: Any, detected: Any) -> tuple[Any, Any]:
    """What DetectionEval.evaluate does, without a dataset: its object is made without its constructor."""
    from nuscenes.eval.detection.evaluate import DetectionEval

    evaluation = DetectionEval.__new__(DetectionEval)
    evaluation.cfg, evaluation.verbose = config, False
    evaluation.gt_boxes, evaluation.pred_boxes = annotated, detected
    metrics_and_curves: tuple[Any, Any] = evaluation.evaluate()
    return metrics_and_curves


def _our_peak(root: Path) -> float:
    costs: dict[str, Cost] = {}
    _evaluate(root, costs)
    return max(cost.peak_mib for cost in costs.values())


def _devkit_peak(root: Path) -> float:
    """Without the last step, which needs minutes and hardly any more memory."""
    costs: dict[str, Cost] = {}
    _devkit_boxes(root, costs)
    return max(cost.peak_mib for cost in costs.values())
