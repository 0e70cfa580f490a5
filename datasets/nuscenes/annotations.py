"""The annotated boxes of a nuScenes sample, with velocities as the devkit computes them."""

import math

import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, CLASS_OF_CATEGORY, DETECTION_CLASSES
from datasets.frames import Annotations
from datasets.nuscenes.tables import Row, Tables, category_of

_MAX_TIME_DIFFERENCE = 1.5


def annotations_of(tables: Tables, rows: list[Row]) -> Annotations:
    """The sample_annotation records `rows` of one sample: those of the ten detection classes, ordered by token."""
    categories = [category_of(tables, row) for row in rows]
    kept = [
        (row, CLASS_OF_CATEGORY[name]) for row, name in zip(rows, categories, strict=True) if name in CLASS_OF_CATEGORY
    ]
    kept.sort(key=lambda pair: str(pair[0]["token"]))
    rows = [row for row, _ in kept]

    def floats(values: list[list[float]], width: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(-1, width)

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    boxes = Boxes3D(
        centers=floats([row["translation"] for row in rows], 3),
        sizes_wlh=floats([row["size"] for row in rows], 3),
        yaws=floats([[yaw_of_quaternion(row["rotation"])] for row in rows], 1)[:, 0],
        velocities=floats([list(box_velocity(tables, row)) for row in rows], 2),
        labels=integers([DETECTION_CLASSES.index(name) for _, name in kept]),
        scores=torch.ones(len(rows), dtype=torch.float64),
        attributes=integers([_attribute(tables, row) for row in rows]),
    )
    return Annotations(
        boxes_global=boxes,
        tokens=tuple(row["token"] for row in rows),
        instance_tokens=tuple(row["instance_token"] for row in rows),
        lidar_point_counts=integers([row["num_lidar_pts"] for row in rows]),
        radar_point_counts=integers([row["num_radar_pts"] for row in rows]),
    )


def box_velocity(tables: Tables, row: Row) -> tuple[float, float]:
    """Velocity over ground (m/s) in global x and y, NaN where unknown: nuscenes-devkit's `NuScenes.box_velocity`.

    The difference between the neighbours in the track, or to the one neighbour there is; unknown where they are
    more than 3 s (two neighbours) or 1.5 s (one) apart, by the samples' timestamps.
    """
    rows, samples = tables["sample_annotation"], tables["sample"]
    first = rows[row["prev"]] if row["prev"] else row
    last = rows[row["next"]] if row["next"] else row
    if first is last:
        return math.nan, math.nan
    # Seconds as the devkit rounds them, so that the velocities are the same to the last bit.
    seconds = 1e-6 * samples[last["sample_token"]]["timestamp"] - 1e-6 * samples[first["sample_token"]]["timestamp"]
    limit = 2 * _MAX_TIME_DIFFERENCE if row["prev"] and row["next"] else _MAX_TIME_DIFFERENCE
    if seconds > limit:
        return math.nan, math.nan
    (x1, y1, _), (x2, y2, _) = first["translation"], last["translation"]
    return (x2 - x1) / seconds, (y2 - y1) / seconds


def yaw_of_quaternion(rotation_wxyz: list[float]) -> float:
    """Heading of a rotation (w, x, y, z): where it turns the x axis to in the x-y plane, radians."""
    w, x, y, z = rotation_wxyz
    return math.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def _attribute(tables: Tables, row: Row) -> int:
    names = [tables["attribute"][token]["name"] for token in row["attribute_tokens"]]
    return ATTRIBUTES.index(names[0]) if names and names[0] in ATTRIBUTES else -1
