"""How many of the annotations that sensors could see have a detection of their own: one can count it in a picture.

AP ranks detections over a whole split; of a single keyframe it says little. This counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from datasets.nuscenes.detection_metric.boxes import DetectedBoxes, TruthBoxes
from datasets.nuscenes.detection_metric.matching import near_pairs

FOUND_DISTANCE = 0.5  # metres between the centres, in the ground plane
FOUND_MIN_POINTS = 5  # LiDAR and radar points in the annotated box
FOUND_MIN_SCORE = 0.3


@dataclass(frozen=True)
class Found:
    """Of `total` annotations with at least FOUND_MIN_POINTS points, in their class's range, `count` were found."""

    count: int
    total: int


def count_found(truth: TruthBoxes, detections: DetectedBoxes) -> Found:
    """Annotations that have a detection of their class within FOUND_DISTANCE with a score of FOUND_MIN_SCORE or more.

    A detection serves one annotation: the assignment that serves most is taken. Both sets are as the official metric
    has filtered them.
    """
    wanted = truth.take(truth.num_pts >= FOUND_MIN_POINTS)
    offered = detections.take(detections.score >= FOUND_MIN_SCORE)
    pairs = near_pairs(wanted, offered)
    near = pairs.distance <= FOUND_DISTANCE
    edges = (np.ones(int(near.sum()), dtype=np.bool_), (pairs.truth[near], pairs.detection[near]))
    graph = csr_matrix(edges, shape=(len(wanted), len(offered)))
    served = maximum_bipartite_matching(graph, perm_type="column")
    return Found(int((served >= 0).sum()), len(wanted))
