"""How many of the annotations that sensors could see have a detection of their own: one can count it in a picture.

AP ranks detections over a whole split; of a single keyframe it says little. This counts.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.optimize import linear_sum_assignment

FOUND_DISTANCE = 0.5  # metres between the centres, in the ground plane
FOUND_MIN_POINTS = 5  # LiDAR and radar points in the annotated box
FOUND_MIN_SCORE = 0.3


@runtime_checkable
class EvaluatedBox(Protocol):
    """What is needed of the devkit's DetectionBox."""

    sample_token: str
    translation: tuple[float, float, float]
    detection_name: str
    detection_score: float
    num_pts: int


@dataclass(frozen=True)
class Found:
    """Of `total` annotations with at least FOUND_MIN_POINTS points, in their class's range, `count` were found."""

    count: int
    total: int


def count_found(ground_truth: Iterable[EvaluatedBox], detections: Iterable[EvaluatedBox]) -> Found:
    """Annotations that have a detection of their class within FOUND_DISTANCE with a score of FOUND_MIN_SCORE or more.

    A detection serves one annotation: the assignment that serves most is taken. Both sets are as the official metric
    has filtered them.
    """
    wanted: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for box in ground_truth:
        if box.num_pts >= FOUND_MIN_POINTS:
            wanted[box.sample_token, box.detection_name].append((box.translation[0], box.translation[1]))
    offered: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for box in detections:
        if box.detection_score >= FOUND_MIN_SCORE:
            offered[box.sample_token, box.detection_name].append((box.translation[0], box.translation[1]))
    count = 0
    for key, places in wanted.items():
        if key in offered:
            offsets = np.array(places)[:, None] - np.array(offered[key])[None]
            near = np.linalg.norm(offsets, axis=-1) <= FOUND_DISTANCE
            count += int(near[linear_sum_assignment(near, maximize=True)].sum())
    return Found(count, sum(map(len, wanted.values())))
