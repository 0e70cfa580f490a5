"""nuscenes-devkit's own DetectionEval, run beside ours as the reference.

The devkit wants a complete dataset, maps included, and knows only official splits of the matching version. Here it
gets a temporary dataroot with just those records of the index that the metric looks at: any split works, and
the devkit does not read the gigabytes of sensor records of a whole trainval set once more.
"""

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.classes import LIDAR_CHANNEL
from datasets.nuscenes.detection_metric.configuration import CONFIGURATION_NAME
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation
from datasets.nuscenes.detection_metric.summary_files import DETAILS, SUMMARY
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords
from datasets.nuscenes.splits import official_splits_of
from datasets.nuscenes.tables import find_version

# The name of any split that is not official, in the folder that only the devkit sees.
_OWN_SPLIT = "bevel"
# The devkit asks for these too, but detection never looks at them; a map must have a file, which is not opened.
_UNUSED_TABLES: dict[str, list[dict[str, Any]]] = {
    "log": [],
    "visibility": [],
    "map": [{"token": "unused", "log_tokens": [], "filename": "unused.png"}],
}
_NOT_COMPARED = "eval_time"


def differences_from_devkit(
    root: Path, version: str | None, results_path: Path, evaluation: SplitEvaluation, output_dir: Path
) -> list[str]:
    """Where the files that an evaluation wrote into `output_dir` are not the devkit's, a line for each value.

    One line where the devkit fails on what was evaluated: on results without any box, say. In a sample without a
    keyframe of LIDAR_TOP, which the devkit cannot do without, it is given the one that the evaluation took.
    """
    version = find_version(root, version)
    index = open_index(root, version)
    own = evaluation.split not in official_splits_of(version)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        _stage(index, evaluation, staged / version)
        try:
            _run_devkit(staged, version, results_path, _OWN_SPLIT if own else evaluation.split)
        except Exception as error:  # whatever it is, the devkit did not get through
            return [f"nuscenes-devkit stops with {type(error).__name__}: {error}"]
        return [
            f"{name}: {difference}"
            for name in (SUMMARY, DETAILS)
            for difference in _differences(_content(output_dir / name), _content(staged / name), "")
        ]


def _content(path: Path) -> Any:
    return json.loads(path.read_text())


def _differences(ours: Any, devkits: Any, place: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(devkits, dict):
        if list(ours) != list(devkits):
            yield f"{place or 'the file'}: ours has {list(ours)}, the devkit's {list(devkits)}"
        for name in ours.keys() & devkits.keys() - {_NOT_COMPARED}:
            yield from _differences(ours[name], devkits[name], f"{place}.{name}".lstrip("."))
    elif isinstance(ours, list) and isinstance(devkits, list) and len(ours) == len(devkits):
        for number, pair in enumerate(zip(ours, devkits, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif ours != devkits and not (_is_nan(ours) and _is_nan(devkits)):
        yield f"{place}: ours {ours!r}, the devkit's {devkits!r}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _run_devkit(root: Path, version: str, results_path: Path, split: str) -> None:
    """Let the devkit write its files into `root`, without a word."""
    # Imported here: the devkit takes seconds to import.
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        DetectionEval(
            NuScenes(version=version, dataroot=str(root), verbose=False),
            config=config_factory(CONFIGURATION_NAME),
            result_path=str(results_path),
            eval_set=split,
            output_dir=str(root),
            verbose=False,
        ).main(render_curves=False)


def _stage(index: NuScenesIndex, evaluation: SplitEvaluation, target: Path) -> None:
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
    samples = evaluation.truth.samples
    for name in samples.scene_names:
        _stage_scene(index, index.scene(index.scene_names.index(name)), tables)
    # For a split that is not official the devkit takes the samples in the order of the table, which decides between
    # equal scores; here that is the order of the results, as for official splits.
    in_results = dict.fromkeys(samples.tokens[row] for row in evaluation.results.boxes.sample.tolist())
    place = {token: number for number, token in enumerate(in_results)}
    tables["sample"].sort(key=lambda sample: place.get(sample["token"], len(place)))
    target.mkdir()
    for name, rows in (tables | _UNUSED_TABLES).items():
        (target / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    (target / "splits.json").write_text(json.dumps({_OWN_SPLIT: samples.scene_names}))
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
        row = int(scene.samples.reference[sample])  # LIDAR_TOP's, where there is one
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
    for row in np.argsort(annotations.table_row).tolist():
        tables["sample_annotation"].append(
            {
                "token": names[row],
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
