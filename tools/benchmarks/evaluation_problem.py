"""A generated evaluation problem of any size: tables with annotations, and a results file for them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from datasets.nuscenes.detection_metric.boxes import DetectionTruth
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.index.opening import open_index
from tools.benchmarks.nuscenes_tables import TablesSize, write_tables

VERSION, SPLIT = "v1.0-trainval", "all"
_RESULTS = "results.json"
_FARTHEST = 48.0  # metres from the vehicle: some boxes are out of every class's range


@dataclass(frozen=True)
class ProblemSize:
    """How large the problem is. The default is as large as nuScenes' split val: 6,025 samples."""

    scenes: int = 150
    annotations: int = 40  # of a sample; a third of them in range, as many as in val
    detections: int = 200  # of a sample


def write_problem(root: Path, size: ProblemSize, seed: int = 0) -> None:
    """Write tables and results. Annotations are found with errors of usual size; most detections find nothing."""
    write_tables(root, VERSION, TablesSize(size.scenes, annotations=size.annotations, sensors=False), seed)
    truth = load_truth(open_index(root, VERSION), VERSION, SPLIT, root / VERSION)
    generator = np.random.default_rng(seed)
    first = np.searchsorted(truth.boxes.sample, np.arange(len(truth.samples) + 1))
    with (root / _RESULTS).open("w") as file:
        file.write('{"meta": {"use_camera": true, "use_lidar": true}, "results": {')
        for sample, token in enumerate(truth.samples.tokens):
            rows = np.arange(first[sample], first[sample + 1])
            records = _records(truth, sample, rows, size.detections, generator)
            file.write(f"{', ' if sample else ''}{json.dumps(token)}: {json.dumps(records)}")
        file.write("}}")


def results_path(root: Path) -> Path:
    """The results file of a problem."""
    return root / _RESULTS


def _records(
    truth: DetectionTruth, sample: int, rows: NDArray[np.int64], count: int, generator: np.random.Generator
) -> list[dict[str, object]]:
    boxes = truth.boxes
    near = rows[boxes.ego_distance[rows] < _FARTHEST]
    found = near[generator.random(len(near)) < 0.8][:count]
    false = count - len(found)
    offset = generator.uniform(-_FARTHEST, _FARTHEST, (false, 3))
    centers = np.concatenate([boxes.translation[found], truth.samples.ego_translation[sample] + offset])
    centers += generator.normal(size=(count, 3)) * 0.5
    sizes = np.concatenate([boxes.size[found], generator.uniform(0.4, 5.0, (false, 3))])
    velocities = np.concatenate([np.nan_to_num(boxes.velocity[found]), generator.normal(size=(false, 2))])
    half = generator.uniform(-np.pi, np.pi, count) / 2
    turns = np.stack([np.cos(half), np.zeros(count), np.zeros(count), np.sin(half)], axis=1)
    turns[: len(found)] = boxes.rotation[found]
    labels = np.concatenate([boxes.label[found], generator.integers(0, len(DETECTION_CLASSES), false)])
    scores = np.concatenate([generator.beta(3, 2, len(found)), generator.beta(1, 6, false)])
    columns = (
        centers.tolist(),
        (sizes * generator.uniform(0.8, 1.2, (count, 3))).tolist(),
        turns.tolist(),
        (velocities + generator.normal(size=(count, 2)) * 0.3).tolist(),
        labels.tolist(),
        scores.tolist(),
        generator.integers(0, len(ATTRIBUTES), count).tolist(),
    )
    return [
        {
            "sample_token": truth.samples.tokens[sample],
            "translation": center,
            "size": extent,
            "rotation": turn,
            "velocity": velocity,
            "detection_name": DETECTION_CLASSES[label],
            "detection_score": score,
            "attribute_name": ATTRIBUTES[attribute],
        }
        for center, extent, turn, velocity, label, score, attribute in zip(*columns, strict=True)
    ]
