"""The official metric: nuscenes-devkit's DetectionEval with the configuration detection_cvpr_2019.

The devkit wants a complete dataset, maps included, and knows only official splits of the matching version. Here it
gets a temporary dataroot with just those records of the checked tables that the metric looks at: any split works, and
the devkit does not read the gigabytes of sensor records of a whole trainval set once more.
"""

import codecs
import contextlib
import io
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.classes import ATTRIBUTES, CLASS_OF_CATEGORY, DETECTION_CLASSES, LIDAR_CHANNEL
from datasets.faults import InputRefused
from datasets.nuscenes.found import Found, count_found
from datasets.nuscenes.results import read_results
from datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes, official_splits_of, scenes_of_split
from datasets.nuscenes.tables import Row, Tables, category_of, channel_of, find_version, load_tables
from datasets.nuscenes.values import refuse_value

_CONFIG = "detection_cvpr_2019"
# The name of any split that is not official, in the folder that only the devkit sees.
_OWN_SPLIT = "bevel"
# The devkit asks for these too, but detection never looks at them; a map must have a file, which is not opened.
_UNUSED_TABLES: dict[str, list[dict[str, Any]]] = {
    "log": [],
    "visibility": [],
    "map": [{"token": "unused", "log_tokens": [], "filename": "unused.png"}],
}


@dataclass(frozen=True)
class DetectionMetrics:
    """What the devkit measured. Errors: metres, 1 - IoU, radians, m/s, 1 - accuracy; NaN where not defined.

    As in the official score a class without ground truth counts with AP 0 and errors 1; `ground_truth` holds the
    number of boxes that were evaluated, by class, and `mean_ap_present` averages only the classes that have some.
    `scene_count`: scenes that were evaluated; `official_scene_count`: those of an official split, present or not, and
    None for other splits.
    `average_precision`: class -> distance threshold (m) -> AP. `class_errors`: class -> trans_err, scale_err,
    orient_err, vel_err, attr_err.
    """

    mean_ap: float
    nds: float
    translation_error: float
    scale_error: float
    orientation_error: float
    velocity_error: float
    attribute_error: float
    split: str
    scene_count: int
    official_scene_count: int | None
    average_precision: Mapping[str, Mapping[float, float]]
    class_errors: Mapping[str, Mapping[str, float]]
    ground_truth: Mapping[str, int]
    found: Found

    @property
    def mean_ap_present(self) -> float:
        """The mean AP of the classes with ground truth; not the official figure. NaN where there is none."""
        present = [self.average_precision[name] for name, count in self.ground_truth.items() if count]
        values = [sum(by_threshold.values()) / len(by_threshold) for by_threshold in present]
        return sum(values) / len(values) if values else float("nan")


def evaluate_detections(
    root: Path, version: str | None, results_path: Path, split: str, output_dir: Path
) -> DetectionMetrics:
    """Score a results file against a split: official (of which the scenes that are present count), "all", or names.

    Writes the devkit's metrics_summary.json and metrics_details.json into `output_dir`.
    Raises InputRefused where the results are malformed or not those of the split's samples, or where the dataset has
    no annotations to compare with.
    """
    version = find_version(root, version)
    tables = load_tables(root, version)
    scenes, tokens = check_ground_truth(tables, version, split, root / version)
    boxes = read_results(results_path)
    _check_samples(results_path, split, set(boxes), tokens)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        staged = Path(folder)
        _stage_tables(tables, tokens, staged / version)
        (staged / version / "splits.json").write_text(json.dumps({_OWN_SPLIT: scenes}))
        if not any(len(sample) for sample in boxes.values()):
            results_path = _with_a_box_out_of_range(results_path, staged / "results.json")
        elif results_path.read_bytes().startswith(codecs.BOM_UTF8):  # which the devkit's JSON reader refuses
            content = results_path.read_bytes().removeprefix(codecs.BOM_UTF8)
            results_path = staged / "results.json"
            results_path.write_bytes(content)
        summary, ground_truth, found = _run_devkit(staged, version, results_path, split, output_dir)
    return _metrics(summary, split, len(scenes), ground_truth, found)


def check_ground_truth(tables: Tables, version: str, split: str, where: Path) -> tuple[tuple[str, ...], set[str]]:
    """The split's scenes and its sample tokens. Raises InputRefused for what the devkit could not evaluate."""
    scene_of = {token: tables["scene"][row["scene_token"]]["name"] for token, row in tables["sample"].items()}
    scenes = scenes_of_split(split, sorted(set(scene_of.values())), version, where=str(where))
    tokens = {token for token, scene in scene_of.items() if scene in scenes}
    annotated = [row for row in tables["sample_annotation"].values() if row["sample_token"] in tokens]
    scored = [row for row in annotated if category_of(tables, row) in CLASS_OF_CATEGORY]
    for row in scored:
        for token in row["attribute_tokens"]:
            if (name := tables["attribute"][token]["name"]) not in ATTRIBUTES:
                refuse_value(where / "attribute.json", token, "name", f"one of {', '.join(ATTRIBUTES)}", name)
    if not scored:
        raise InputRefused(
            f"{where / 'sample_annotation.json'}: the split {split!r} has no annotations of the ten detection classes, "
            "so there is nothing to evaluate against."
        )
    keyframes = (row for row in tables["sample_data"].values() if row["is_key_frame"])
    with_lidar = {row["sample_token"] for row in keyframes if channel_of(tables, row) == LIDAR_CHANNEL}
    if tokens - with_lidar:
        raise InputRefused(
            f"{where / 'sample_data.json'}: sample {min(tokens - with_lidar)!r} has no keyframe of LIDAR_TOP, whose "
            "ego pose the official metric measures distances from."
        )
    return scenes, tokens


def _check_samples(results_path: Path, split: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise InputRefused(
            f"{results_path}: the results are not those of the split {split!r}: it has {len(expected)} samples, the "
            f"results have {len(found)}, of which {len(found - expected)} are not in the split; "
            f"{len(expected - found)} samples of the split are missing."
        )


def _stage_tables(tables: Tables, samples: set[str], target: Path) -> None:
    """A version folder for the devkit: the split's samples and annotations, their LIDAR_TOP keyframes and poses."""
    lidar = {
        token: row
        for token, row in tables["sample_data"].items()
        if row["is_key_frame"] and row["sample_token"] in samples and channel_of(tables, row) == LIDAR_CHANNEL
    }
    poses = {row["ego_pose_token"] for row in lidar.values()}
    kept: dict[str, Collection[Row]] = {name: rows.values() for name, rows in tables.items()}
    kept["sample"] = [row for token, row in tables["sample"].items() if token in samples]
    kept["sample_data"] = lidar.values()
    kept["ego_pose"] = [tables["ego_pose"][token] for token in sorted(poses)]
    kept["sample_annotation"] = [row for row in tables["sample_annotation"].values() if row["sample_token"] in samples]
    target.mkdir()
    for name, rows in (kept | _UNUSED_TABLES).items():
        (target / f"{name}.json").write_text(json.dumps(list(rows)), "utf-8")
    (target.parent / "unused.png").touch()


def _with_a_box_out_of_range(results_path: Path, target: Path) -> Path:
    """The same results with one box far outside every class's range.

    The devkit fails on results without any box; this one it drops by its own range filter, and measures nothing.
    """
    content = json.loads(results_path.read_text("utf-8-sig"))
    token = next(iter(content["results"]))
    box = {
        "sample_token": token,
        "translation": [1e7, 1e7, 0.0],
        "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": "car",
        "detection_score": 0.0,
        "attribute_name": "",
    }
    content["results"][token] = [box]
    target.write_text(json.dumps(content))
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the devkit prints, progress bars included."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _run_devkit(
    root: Path, version: str, results_path: Path, split: str, output_dir: Path
) -> tuple[dict[str, Any], dict[str, int], Found]:
    """The devkit's summary, the number of ground truth boxes that it evaluated, by class, and how many were found."""
    # Imported here: the devkit takes seconds to import.
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    evaluation = DetectionEval(
        NuScenes(version=version, dataroot=str(root), verbose=False),
        config=config_factory(_CONFIG),
        result_path=str(results_path),
        eval_set=split if split in official_splits_of(version) else _OWN_SPLIT,
        output_dir=str(output_dir),
        verbose=False,
    )
    summary: dict[str, Any] = evaluation.main(render_curves=False)
    with contextlib.suppress(OSError):  # made by the devkit for plots that were not asked for
        (output_dir / "plots").rmdir()
    names = [box.detection_name for box in evaluation.gt_boxes.all]
    found = count_found(evaluation.gt_boxes.all, evaluation.pred_boxes.all)
    return summary, {name: names.count(name) for name in DETECTION_CLASSES}, found


def _metrics(
    summary: dict[str, Any], split: str, scene_count: int, ground_truth: dict[str, int], found: Found
) -> DetectionMetrics:
    errors = summary["tp_errors"]
    return DetectionMetrics(
        mean_ap=float(summary["mean_ap"]),
        nds=float(summary["nd_score"]),
        translation_error=float(errors["trans_err"]),
        scale_error=float(errors["scale_err"]),
        orientation_error=float(errors["orient_err"]),
        velocity_error=float(errors["vel_err"]),
        attribute_error=float(errors["attr_err"]),
        split=split,
        scene_count=scene_count,
        official_scene_count=len(official_scenes(split)) if split in OFFICIAL_SPLITS else None,
        average_precision={
            name: {float(threshold): float(ap) for threshold, ap in by_threshold.items()}
            for name, by_threshold in summary["label_aps"].items()
        },
        class_errors={
            name: {metric: float(error) for metric, error in by_metric.items()}
            for name, by_metric in summary["label_tp_errors"].items()
        },
        ground_truth=ground_truth,
        found=found,
    )
