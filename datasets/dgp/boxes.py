"""DGP's 3D boxes as annotations: of the ten detection classes, in global, with velocities along their tracks."""

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calibration.transforms import Transform, yaw_of
from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES, LIDAR_CHANNEL
from datasets.dgp.fields import field_of, object_of, objects_of, pose_of, required_path
from datasets.dgp.records import Datum, DgpScene
from datasets.faults import InputRefused
from datasets.frames import Annotations
from datasets.nuscenes.values import COUNT, SIZE, read_json

# DGP's classes; one that is not here plays no part in detection.
_CLASS_OF_NAME = {
    "Car": "car",
    "Truck": "truck",
    "Bus/RV/Caravan": "bus",
    "Trailer": "trailer",
    "Towed Object": "trailer",
    "Motorcycle": "motorcycle",
    "Bicycle": "bicycle",
    "Person": "pedestrian",
}
_MAX_TIME_DIFFERENCE_US = 1_500_000


@dataclass(frozen=True)
class Box:
    """One annotated box, in global."""

    instance: str
    label: int
    global_from_box: Transform
    size_wlh: tuple[float, float, float]
    points: int


@dataclass(frozen=True)
class SceneBoxes:
    """The boxes of each sample of a scene; and of each instance its times (us) and centres in global."""

    of_sample: list[list[Box]]
    tracks: dict[str, list[tuple[int, Any]]]


def read_scene_boxes(root: Path, scene: DgpScene) -> SceneBoxes:
    """All boxes of a scene. Raises InputRefused where a file of them is not as it should be."""
    boxes: list[list[Box]] = []
    tracks: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
    for sample in scene.samples:
        reading = sample.readings.get(LIDAR_CHANNEL)
        found = _read_boxes(root, reading, scene.class_of_id) if reading and reading.boxes_filename else []
        boxes.append(found)
        for box in found:
            tracks[box.instance].append((sample.timestamp_us, box.global_from_box[:3, 3]))
    return SceneBoxes(boxes, dict(tracks))


def annotations_at(boxes_of_scene: SceneBoxes, scene: DgpScene, position: int) -> Annotations:
    """The boxes of the scene's sample at a position."""
    sample = scene.samples[position]
    boxes = sorted(boxes_of_scene.of_sample[position], key=lambda box: box.instance)
    velocities = [_velocity(boxes_of_scene.tracks[box.instance], sample.timestamp_us) for box in boxes]
    poses = torch.stack([box.global_from_box for box in boxes]) if boxes else torch.zeros(0, 4, 4).double()
    return Annotations(
        boxes_global=Boxes3D(
            centers=poses[:, :3, 3],
            sizes_wlh=torch.tensor([box.size_wlh for box in boxes], dtype=torch.float64).reshape(-1, 3),
            yaws=yaw_of(poses),
            velocities=torch.tensor(velocities, dtype=torch.float64).reshape(-1, 2),
            labels=torch.tensor([box.label for box in boxes], dtype=torch.int64),
            scores=torch.ones(len(boxes), dtype=torch.float64),
            attributes=torch.full((len(boxes),), -1, dtype=torch.int64),
        ),
        tokens=tuple(f"{sample.token}-{box.instance}" for box in boxes),
        instance_tokens=tuple(f"{scene.name}-{box.instance}" for box in boxes),
        lidar_point_counts=torch.tensor([box.points for box in boxes], dtype=torch.int64),
        radar_point_counts=torch.zeros(len(boxes), dtype=torch.int64),
    )


def _velocity(track: list[tuple[int, Any]], time_us: int) -> tuple[float, float]:
    """Between the neighbours in a track, or to the one neighbour there is; NaN where they are too far apart in time."""
    here = bisect_left(track, time_us, key=lambda entry: entry[0])  # a track's times rise
    first, last = max(here - 1, 0), min(here + 1, len(track) - 1)
    elapsed_us = track[last][0] - track[first][0]
    if first == last or elapsed_us > _MAX_TIME_DIFFERENCE_US * (last - first):
        return math.nan, math.nan
    moved = (track[last][1] - track[first][1]) / (elapsed_us * 1e-6)
    return float(moved[0]), float(moved[1])


def _read_boxes(root: Path, reading: Datum, class_of_id: dict[int, str]) -> list[Box]:
    """The boxes of one cloud that are of the ten detection classes."""
    path = required_path(root, reading.boxes_filename)
    boxes: list[Box] = []
    for annotation in objects_of(path, object_of(path, read_json(path)), "annotations"):
        class_id = field_of(path, annotation, "class_id", COUNT)
        if class_id not in class_of_id:
            raise InputRefused(f"{path}: field class_id: expected a class of the ontology, found {class_id}.")
        if class_of_id[class_id] not in _CLASS_OF_NAME:
            continue
        box = field_of(path, annotation, "box", of=dict)
        size = [box.get(name) for name in ("width", "length", "height")]
        if not SIZE.accepts(size):
            raise InputRefused(f"{path}: field box: expected {SIZE.expected}, found {size!r:.100}.")
        instance = str(field_of(path, annotation, "instance_id", COUNT))
        if any(other.instance == instance for other in boxes):
            raise InputRefused(f"{path}: field instance_id: {instance} occurs twice.")
        boxes.append(
            Box(
                instance=instance,
                label=DETECTION_CLASSES.index(_CLASS_OF_NAME[class_of_id[class_id]]),
                global_from_box=reading.global_from_sensor @ pose_of(path, field_of(path, box, "pose", of=dict)),
                size_wlh=(float(size[0]), float(size[1]), float(size[2])),
                points=field_of(path, annotation, "num_points", COUNT),
            )
        )
    return boxes
