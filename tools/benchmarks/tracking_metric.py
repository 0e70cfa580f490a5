"""What scoring tracks costs: ours and the devkit's tracking evaluation on the same files, from files to figures."""

import contextlib
import importlib.util
import io
import json
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.classes import DETECTION_CLASSES, TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.boxes import DetectionTruth
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.tracking_metric.curves import METRICS
from datasets.nuscenes.tracking_metric.evaluation import evaluate_tracking
from tools.benchmarks.cost import Cost, measured
from tools.benchmarks.nuscenes_tables import TablesSize, write_tables

_VERSION, _SPLIT, _DEVKIT_SPLIT = "v1.0-trainval", "all", "every_scene"
_MISSED, _RENAMED, _STRANGERS = 0.15, 0.03, 10
# Sums over scenes, which the devkit takes in the order of a Python set: the same to twelve digits.
_SUMS = ("amotp", "motp")


@dataclass(frozen=True)
class TrackingFigures:
    """Costs from files to figures, ours and the devkit's, in one process. `same` of `figures` are equal, points of
    curves among them: to the last bit, MOTP and AMOTP to twelve digits.
    """

    scenes: int
    boxes: int
    ours: Cost
    devkit: Cost
    figures: int
    same: int

    @property
    def ratio(self) -> float:
        """How many times less CPU time than the devkit."""
        return self.devkit.cpu / self.ours.cpu

    def lines(self) -> list[str]:
        """A row below those of the detection metric, and what was compared."""
        return [
            f"{'tracking, files to figures':28}{self.ours.cpu:>10.2f}{self.devkit.cpu:>10.2f}{self.ratio:>8.0f}",
            f"(tracking: {self.boxes:,} boxes of {self.scenes} scenes; {self.same:,} of {self.figures:,} figures are "
            "the same, MOTP and AMOTP to twelve digits, all others to the last bit)",
        ]


def refuse_without_motmetrics() -> None:
    """Raise InputRefused where the devkit's tracking metric cannot run."""
    if importlib.util.find_spec("motmetrics") is None:
        raise InputRefused(
            "--tracking runs the devkit's tracking metric, which needs the package motmetrics: install Bevel's extra "
            '"test" (pip install "bevel[test]").'
        )


def compare_tracking(folder: Path, scenes: int) -> TrackingFigures:
    """Write a problem into a temporary folder inside `folder`, score its tracks both ways, delete it."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary) / "problem"
        boxes = _write_problem(root, scenes)
        results, our_output, devkit_output = root / "tracks.json", root / "ours", root / "devkit"
        evaluate_tracking(root, _VERSION, results, _SPLIT, our_output)  # compiles what is compiled at first use
        _, ours = measured(lambda: evaluate_tracking(root, _VERSION, results, _SPLIT, our_output))
        _, devkit = measured(lambda: _evaluate_with_devkit(root, results, devkit_output))
        pairs = list(zip(_figures(our_output), _figures(devkit_output), strict=True))
    same = sum(_equal(name, ours_value, value) for (name, ours_value), (_, value) in pairs)
    return TrackingFigures(scenes, boxes, ours, devkit, len(pairs), same)


def _write_problem(root: Path, scenes: int) -> int:
    """Tables, tracks with errors of every kind, and the devkit's list of the scenes. Returns the number of boxes."""
    write_tables(root, _VERSION, TablesSize(scenes, sensors=False))
    truth = load_truth(open_index(root, _VERSION), _VERSION, _SPLIT, root / _VERSION)
    records = _records(truth, np.random.default_rng(0))
    meta = {"use_camera": True, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    (root / "tracks.json").write_text(json.dumps({"meta": meta, "results": records}))
    (root / _VERSION / "splits.json").write_text(json.dumps({_DEVKIT_SPLIT: truth.samples.scene_names}))
    return sum(map(len, records.values()))


def _records(truth: DetectionTruth, generator: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    """Annotated tracks with some boxes missed, some that get another name on the way, and tracks of nothing."""
    boxes = truth.boxes
    records: dict[str, list[dict[str, Any]]] = {token: [] for token in truth.samples.tokens}
    names: dict[int, str] = {}
    for row in range(len(boxes)):
        instance, class_name = int(boxes.instance[row]), DETECTION_CLASSES[boxes.label[row]]
        if class_name not in TRACKING_CLASSES or generator.random() < _MISSED:
            continue
        if instance not in names or generator.random() < _RENAMED:
            names[instance] = f"track-{row}"
        center = boxes.translation[row] + generator.normal(size=3) * 0.5
        token = truth.samples.tokens[boxes.sample[row]]
        records[token].append(_record(token, center, class_name, names[instance], float(generator.beta(3, 2))))
    for token, ego in zip(truth.samples.tokens, truth.samples.ego_translation, strict=True):
        for number in range(_STRANGERS):
            center, class_name = ego + generator.uniform(-40, 40, 3), TRACKING_CLASSES[number % len(TRACKING_CLASSES)]
            score = float(generator.beta(1, 4))
            records[token].append(_record(token, center, class_name, f"stranger-{number}", score))
    return records


def _record(token: str, center: NDArray[np.float64], class_name: str, name: str, score: float) -> dict[str, Any]:
    return {
        "sample_token": token,
        "translation": center.tolist(),
        "size": [2.0, 4.5, 1.7],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "tracking_id": name,
        "tracking_name": class_name,
        "tracking_score": score,
    }


def _evaluate_with_devkit(root: Path, results: Path, output: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking.evaluate import TrackingEval

    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        TrackingEval(
            config=config_factory("tracking_nips_2019"),
            result_path=str(results),
            eval_set=_DEVKIT_SPLIT,
            output_dir=str(output),
            nusc_version=_VERSION,
            nusc_dataroot=str(root),
            verbose=False,
        ).main(render_curves=False)


def _figures(output: Path) -> list[tuple[str, float]]:
    """Every figure of the two files of an evaluation: over all classes, of each, and the points of its curves."""
    summary, details = (json.loads((output / f"metrics_{name}.json").read_text()) for name in ("summary", "details"))
    figures = [(name, summary[name]) for name in METRICS]
    for class_name in TRACKING_CLASSES:
        figures += [(name, summary["label_metrics"][name][class_name]) for name in METRICS]
        curves = details[class_name]
        figures += [(name, value) for name in sorted(curves) for value in curves[name]]
    return figures


def _equal(name: str, ours: float, devkit: float) -> bool:
    if math.isnan(ours) or math.isnan(devkit):
        return math.isnan(ours) and math.isnan(devkit)
    return math.isclose(ours, devkit, rel_tol=1e-12, abs_tol=1e-12) if name in _SUMS else ours == devkit
