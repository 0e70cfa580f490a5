"""The nuScenes detection results file: written from boxes, read back into boxes.

Format: https://www.nuscenes.org/object-detection (a JSON object with `meta` and, by sample token, `results`).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.detection_metric.results_boxes import Columns, read_boxes
from datasets.nuscenes.detection_metric.results_file import Findings, ResultsFile
from datasets.nuscenes.results_writing import best_rows, placed_records, write_records

# Faster than this (m/s) counts as moving where no attribute was predicted.
_MOVING_SPEED = 0.5


def write_results(path: Path, boxes_global: Mapping[str, Boxes3D], modalities: Sequence[str]) -> None:
    """Write the results of every sample token of a split, with no boxes for those where nothing was detected.

    `modalities`: what the detector used ("camera", "lidar", "radar"; others, as "pose", have no flag in the format).
    Of more than 500 boxes of a sample the best scores are kept. An unknown velocity (NaN) is written as 0. A class
    with attributes whose box has none (-1), or one of another class, gets one by its speed: above 0.5 m/s
    vehicle.moving, cycle.with_rider, pedestrian.moving; otherwise vehicle.parked, cycle.without_rider,
    pedestrian.standing.
    Raises ValueError, naming the sample, for boxes with numbers that are not finite or sizes that are not positive.
    """
    write_records(path, {token: _sample_records(token, boxes) for token, boxes in boxes_global.items()}, modalities)


def read_results(path: Path) -> dict[str, Boxes3D]:
    """The boxes (global, float64) of a results file, by sample token.

    Raises InputRefused for a file that is not in the format, with every finding.
    """
    findings = Findings(path)
    boxes = {}
    for token, content in ResultsFile(path, findings):
        columns, problems = read_boxes(token, content)
        findings.add(*problems)
        boxes[token] = _boxes(columns)
    findings.refuse("the results")
    return boxes


def _boxes(columns: Columns) -> Boxes3D:
    return Boxes3D(
        centers=torch.from_numpy(columns["translation"]),
        sizes_wlh=torch.from_numpy(columns["size"]),
        yaws=torch.tensor(list(map(yaw_of_quaternion, columns["rotation"].tolist())), dtype=torch.float64),
        velocities=torch.from_numpy(columns["velocity"]),
        labels=torch.from_numpy(columns["label"]).long(),
        scores=torch.from_numpy(columns["score"]),
        attributes=torch.from_numpy(columns["attribute"]).long(),
    )


def _sample_records(token: str, boxes: Boxes3D) -> list[dict[str, Any]]:
    placed = placed_records(token, boxes)
    labels, scores, attributes = boxes.labels.tolist(), boxes.scores.double().tolist(), boxes.attributes.tolist()
    return [
        placed[row]
        | {
            "detection_name": DETECTION_CLASSES[labels[row]],
            "detection_score": scores[row],
            "attribute_name": _attribute_name(labels[row], attributes[row], math.hypot(*placed[row]["velocity"])),
        }
        for row in best_rows(boxes)
    ]


def _attribute_name(label: int, attribute: int, speed: float) -> str:
    """The attribute's name; where the box has none that its class can have, one by its speed; '' for some classes."""
    choices = ATTRIBUTES_OF_CLASS[label]
    if not choices:
        return ""
    if attribute in choices:
        return ATTRIBUTES[attribute]
    moving, resting = _BY_SPEED[ATTRIBUTES[choices[0]].partition(".")[0]]
    return moving if speed > _MOVING_SPEED else resting


_BY_SPEED = {
    "vehicle": ("vehicle.moving", "vehicle.parked"),
    "cycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
}
