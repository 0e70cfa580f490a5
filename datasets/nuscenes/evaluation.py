"""The official metric: nuscenes-devkit's DetectionEval with the configuration detection_cvpr_2019.

The devkit wants a complete dataset, maps included, and knows only official splits of the matching version. Here it
gets a temporary dataroot with just those records of the index that the metric looks at: any split works, and
the devkit does not read the gigabytes of sensor records of a whole trainval set once more.
"""

import codecs
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES, DETECTION_CLASSES, LIDAR_CHANNEL
from datasets.faults import InputRefused
from datasets.nuscenes.annotations import labels_of_instances
from datasets.nuscenes.found import Found, count_found
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.index.records import NuScenesIndex, SampleAnnotations, SceneRecords
from datasets.nuscenes.results import read_results
from datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes, official_splits_of, scenes_of_split
from datasets.nuscenes.tables import find_version
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
    index = open_index(root, version)
    scenes, tokens = check_ground_truth(index, version, split, root / version)
    boxes = read_results(results_path)
    _check_samples(results_path, split, set(boxes), tokens)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        staged = Path(folder)
        _stage_tables(index, scenes, staged / version)
        (staged / version / "splits.json").write_text(json.dumps({_OWN_SPLIT: scenes}))
        if not any(len(sample) for sample in boxes.values()):
            results_path = _with_a_box_out_of_range(results_path, staged / "results.json")
        elif results_path.read_bytes().startswith(codecs.BOM_UTF8):  # which the devkit's JSON reader refuses
            content = results_path.read_bytes().removeprefix(codecs.BOM_UTF8)
            results_path = staged / "results.json"
            results_path.write_bytes(content)
        summary, ground_truth, found = _run_devkit(staged, version, results_path, split, output_dir)
    return _metrics(summary, split, len(scenes), ground_truth, found)


def check_ground_truth(index: NuScenesIndex, version: str, split: str, where: Path) -> tuple[tuple[str, ...], set[str]]:
    """The split's scenes and its sample tokens. Raises InputRefused for what the devkit could not evaluate."""
    scenes = scenes_of_split(split, index.scene_names, version, where=str(where))
    scored = 0
    tokens: set[str] = set()
    for scene in map(index.scene, map(index.scene_names.index, scenes)):
        annotations = scene.annotations
        rows = np.flatnonzero(labels_of_instances(index, annotations.instance) >= 0)
        _check_attributes(index, annotations, rows, where)
        scored += len(rows)
        tokens.update(scene.samples.token)
    if not scored:
        raise InputRefused(
            f"{where / 'sample_annotation.json'}: the split {split!r} has no annotations of the ten detection classes, "
            "so there is nothing to evaluate against."
        )
    _check_lidar(index, scenes, where)
    return scenes, tokens


def _check_attributes(
    index: NuScenesIndex, annotations: SampleAnnotations, rows: NDArray[np.int64], where: Path
) -> None:
    attributes = annotations.attributes[rows]
    several = (attributes >= 0).sum(axis=1) > 1
    if several.any():
        token = annotations.token[int(rows[several][0])]
        found = [index.attributes[number] for number in attributes[several][0] if number >= 0]
        expected = "at most one attribute, as the official metric does"
        refuse_value(where / "sample_annotation.json", token, "attribute_tokens", expected, found)
    for number in np.unique(attributes[attributes >= 0]):
        if (name := index.attributes[number]) not in ATTRIBUTES:
            raise InputRefused(
                f"{where / 'attribute.json'}: field name: expected one of {', '.join(ATTRIBUTES)}, found {name!r}."
            )


def _check_lidar(index: NuScenesIndex, scenes: Sequence[str], where: Path) -> None:
    without = []
    for scene in map(index.scene, map(index.scene_names.index, scenes)):
        absent = np.ones(len(scene.samples.token), dtype=np.bool_)
        if LIDAR_CHANNEL in index.channels:
            absent = scene.samples.keyframes[:, index.channels.index(LIDAR_CHANNEL)] < 0
        without += [scene.samples.token[row] for row in np.flatnonzero(absent).tolist()]
    if without:
        raise InputRefused(
            f"{where / 'sample_data.json'}: sample {min(without)!r} has no keyframe of LIDAR_TOP, whose "
            "ego pose the official metric measures distances from."
        )


def _check_samples(results_path: Path, split: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise InputRefused(
            f"{results_path}: the results are not those of the split {split!r}: it has {len(expected)} samples, the "
            f"results have {len(found)}, of which {len(found - expected)} are not in the split; "
            f"{len(expected - found)} samples of the split are missing."
        )


def _stage_tables(index: NuScenesIndex, scenes: Sequence[str], target: Path) -> None:
    """A version folder for the devkit: the split's samples and annotations, their LIDAR_TOP keyframes and poses.

    Small tables' tokens are their rows in the index; the devkit's results name none of them.
    """
    tables: dict[str, list[dict[str, Any]]] = {
        "category": _named(index.categories),
        "attribute": _named(index.attributes),
        "sensor": [{"token": "lidar", "channel": LIDAR_CHANNEL, "modality": "lidar"}],
        "calibrated_sensor": [{"token": "lidar", "sensor_token": "lidar"}],
        "instance": [
            {"token": token, "category_token": str(index.category_of_instance[row])}
            for row, token in enumerate(index.instance_tokens)
        ],
    } | {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation")}
    for scene in map(index.scene, map(index.scene_names.index, scenes)):
        _stage_scene(index, scene, tables)
    target.mkdir()
    for name, rows in (tables | _UNUSED_TABLES).items():
        (target / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    (target.parent / "unused.png").touch()


def _named(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"token": str(row), "name": name} for row, name in enumerate(names)]


def _stage_scene(index: NuScenesIndex, scene: SceneRecords, tables: dict[str, list[dict[str, Any]]]) -> None:
    tokens, data = list(scene.samples.token), scene.sample_data
    tables["scene"].append({"token": scene.token, "name": scene.name})
    for sample, token in enumerate(tokens):
        linked = {"prev": tokens[sample - 1] if sample else "", "next": ([*tokens, ""])[sample + 1]}
        timestamp = int(scene.samples.timestamp[sample])
        tables["sample"].append({"token": token, "timestamp": timestamp, "scene_token": scene.token} | linked)
        row = int(scene.samples.reference[sample])  # LIDAR_TOP's: check_ground_truth has seen to it
        pose = {"rotation": data.pose_rotation[row].tolist(), "translation": data.pose_translation[row].tolist()}
        tables["ego_pose"].append({"token": data.token[row], "timestamp": int(data.pose_timestamp[row])} | pose)
        tables["sample_data"].append(
            {
                "token": data.token[row],
                "sample_token": token,
                "ego_pose_token": data.token[row],
                "calibrated_sensor_token": "lidar",
                "timestamp": int(data.timestamp[row]),
                "is_key_frame": True,
                "filename": index.filename(data, row),
            }
        )
    annotations = scene.annotations
    names = [*annotations.token, ""]  # a link of -1 leads to the last one: to none
    for row, token in enumerate(names[:-1]):
        tables["sample_annotation"].append(
            {
                "token": token,
                "sample_token": tokens[annotations.sample[row]],
                "instance_token": index.instance_tokens[int(annotations.instance[row])],
                "attribute_tokens": [str(number) for number in annotations.attributes[row] if number >= 0],
                "translation": annotations.translation[row].tolist(),
                "size": annotations.size[row].tolist(),
                "rotation": annotations.rotation[row].tolist(),
                "num_lidar_pts": int(annotations.num_lidar_pts[row]),
                "num_radar_pts": int(annotations.num_radar_pts[row]),
                "prev": names[annotations.prev[row]],
                "next": names[annotations.next[row]],
            }
        )


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
