"""The annotated boxes of a nuScenes sample."""

import math

import numpy as np
import torch
from jaxtyping import Int32, Int64

from datasets.arrays import Array
from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, CLASS_OF_CATEGORY, DETECTION_CLASSES
from datasets.frames import Annotations
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords


def annotations_of(index: NuScenesIndex, scene: SceneRecords, sample: int) -> Annotations:
    """The annotations of a sample (its row in the scene): those of the ten detection classes, ordered by token.

    Of several attributes the first counts.
    """
    first, last = scene.samples.first_annotation[sample : sample + 2].tolist()
    records = scene.annotations
    labels = labels_of_instances(index, records.instance[first:last])
    rows = first + np.flatnonzero(labels >= 0)
    attributes = np.append(_attribute_numbers(index), -1)[records.attributes[rows, 0]]  # -1, none, is the last one
    boxes = Boxes3D(
        centers=torch.from_numpy(records.translation[rows]),
        sizes_wlh=torch.from_numpy(records.size[rows]),
        yaws=torch.tensor(list(map(yaw_of_quaternion, records.rotation[rows].tolist())), dtype=torch.float64),
        velocities=torch.from_numpy(records.velocity[rows]),
        labels=torch.from_numpy(labels[labels >= 0]),
        scores=torch.ones(len(rows), dtype=torch.float64),
        attributes=torch.from_numpy(attributes),
    )
    return Annotations(
        boxes_global=boxes,
        tokens=tuple(records.token[row] for row in rows.tolist()),
        instance_tokens=tuple(index.instance_tokens[row] for row in records.instance[rows].tolist()),
        lidar_point_counts=torch.from_numpy(records.num_lidar_pts[rows]),
        radar_point_counts=torch.from_numpy(records.num_radar_pts[rows]),
    )


def labels_of_instances(index: NuScenesIndex, instances: Int32[Array, "N"]) -> Int64[Array, "N"]:
    """The detection class of instances (N, rows of the index): indices into DETECTION_CLASSES, -1 for none."""
    names = [CLASS_OF_CATEGORY.get(category) for category in index.categories]
    labels = np.array([-1 if name is None else DETECTION_CLASSES.index(name) for name in names], dtype=np.int64)
    return np.asarray(labels[index.category_of_instance[instances]])


def yaw_of_quaternion(rotation_wxyz: list[float]) -> float:
    """Heading of a rotation (w, x, y, z): where it turns the x axis to in the x-y plane, radians."""
    w, x, y, z = rotation_wxyz
    return math.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def _attribute_numbers(index: NuScenesIndex) -> Int64[Array, "A"]:
    numbers = [ATTRIBUTES.index(name) if name in ATTRIBUTES else -1 for name in index.attributes]
    return np.array(numbers, dtype=np.int64)
