"""Which detection finds which annotation, class by class, at each distance threshold: the loops of `accumulate`.

Detections are matched in the order of falling scores, each with the nearest annotation of its sample and class that
is still free. Only pairs less than the largest threshold apart can match, so these few are found once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numpy.typing import NDArray

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.compiled import compiled
from datasets.nuscenes.detection_metric.arithmetic import angle_differences, norms, scale_ious, yaws
from datasets.nuscenes.detection_metric.boxes import DetectedBoxes, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import DISTANCE_THRESHOLDS

_CLASSES = len(DETECTION_CLASSES)
_BARRIER = DETECTION_CLASSES.index("barrier")
# Pairs whose distances are computed at once: some megabytes of vectors.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Pairs:
    """The P pairs of one of D detections and an annotation of its sample and class that may match.

    Those of detection d are `first[d]` to `first[d + 1]`, annotations in their order. `distance`: metres between the
    centres in x and y.
    """

    first: Int64[Array, "_"]  # D + 1
    detection: Int32[Array, "P"]
    truth: Int32[Array, "P"]
    distance: Float64[Array, "P"]


@dataclass(frozen=True)
class Matches:
    """D detections matched with G annotations, both as they count, at T = len(DISTANCE_THRESHOLDS) thresholds.

    `ranked` (D): rows of `detections`, class by class, each by falling score; of equal scores the later one first, as
    in the devkit. Class c (an index into DETECTION_CLASSES) has those from `first[c]` to `first[c + 1]`.
    `match` (T, D), in the order of `ranked`: the number of the detection's match, -1 where it found nothing. A match
    is a pair of a row of `detections` and one of `truth` (`match_detection`, `match_truth`) and has its five errors:
    `errors` (M, 5) in the order of configuration.ERRORS, NaN where not defined. One match may hold at several
    thresholds.
    """

    truth: TruthBoxes
    detections: DetectedBoxes
    ranked: Int64[Array, "D"]
    first: Int64[Array, "11"]
    match: Int32[Array, "T D"]
    match_detection: Int32[Array, "M"]
    match_truth: Int32[Array, "M"]
    errors: Float64[Array, "M 5"]


def match(truth: TruthBoxes, detections: DetectedBoxes) -> Matches:
    """Match detections with annotations, both already filtered (filters.counted) and of the same EvaluatedSamples.

    Subsets are matched by calling it again: `match(truth.take(some), detections.take(others))`.
    """
    pairs = near_pairs(truth, detections)
    ranked, first = _ranked(detections)
    matched = _assigned(ranked, pairs.first, pairs.truth, pairs.distance, np.array(DISTANCE_THRESHOLDS), len(truth))
    used = np.zeros(len(pairs.truth) + 1, dtype=np.bool_)
    used[matched] = True
    used[-1] = False  # where -1, no match, leads to
    numbers = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    used = used[:-1]
    of_truth, of_detection = pairs.truth[used], pairs.detection[used]
    errors = _errors(truth, detections, of_truth, of_detection, pairs.distance[used])
    return Matches(truth, detections, ranked, first, numbers[matched], of_detection, of_truth, errors)


def near_pairs(truth: TruthBoxes, detections: DetectedBoxes) -> Pairs:
    """All pairs of a detection and an annotation of its sample and class up to the largest threshold apart."""
    group = truth.sample.astype(np.int64) * _CLASSES + truth.label
    order = np.argsort(group, kind="stable")
    wanted = detections.sample.astype(np.int64) * _CLASSES + detections.label
    start = np.searchsorted(group[order], wanted, side="left")
    stop = np.searchsorted(group[order], wanted, side="right")
    # A hair more than the threshold: what is near enough the devkit's arithmetic decides, not this one.
    limit = (max(DISTANCE_THRESHOLDS) * (1 + 1e-9)) ** 2
    places = np.ascontiguousarray(detections.translation[:, :2]), np.ascontiguousarray(truth.translation[order, :2])
    first = np.zeros(len(detections) + 1, dtype=np.int64)
    np.cumsum(_counted_near(*places, start, stop, limit), out=first[1:])
    rows = _listed_near(*places, start, stop, limit, int(first[-1]))
    of_truth = order[rows].astype(np.int32)
    of_detection = np.repeat(np.arange(len(detections), dtype=np.int32), np.diff(first))
    distance = np.empty(len(rows))
    for begin in range(0, len(rows), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        distance[part] = norms(places[0][of_detection[part]] - truth.translation[of_truth[part], :2])
    return Pairs(first, of_detection, of_truth, distance)


def _ranked(detections: DetectedBoxes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    by_score = np.argsort(detections.score, kind="stable")[::-1]
    ranked = by_score[np.argsort(detections.label[by_score], kind="stable")]
    first = np.searchsorted(detections.label[ranked], np.arange(_CLASSES + 1)).astype(np.int64)
    return ranked, first


def _errors(
    truth: TruthBoxes,
    detections: DetectedBoxes,
    of_truth: NDArray[np.int32],
    of_detection: NDArray[np.int32],
    distance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The five errors of pairs (M, 5), in the order of configuration.ERRORS."""
    period = np.where(truth.label[of_truth] == _BARRIER, np.pi, 2 * np.pi)
    orientation = angle_differences(yaws(truth.rotation[of_truth]), yaws(detections.rotation[of_detection]), period)
    attribute = truth.attribute[of_truth]
    wrong = 1.0 - (attribute == detections.attribute[of_detection])
    with np.errstate(over="ignore"):
        velocity = norms(detections.velocity[of_detection] - truth.velocity[of_truth])
    return np.stack(
        [
            distance,
            1.0 - scale_ious(truth.size[of_truth], detections.size[of_detection]),
            orientation,
            velocity,
            np.where(attribute < 0, np.nan, wrong),
        ],
        axis=1,
    )


@compiled
def _counted_near(
    places: NDArray[np.float64],
    truth_places: NDArray[np.float64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    limit: float,
) -> NDArray[np.int64]:
    """How many of `truth_places[start:stop]` of each of `places` are near: squared distance up to `limit`."""
    counts = np.zeros(len(places), dtype=np.int64)
    for row in range(len(places)):
        for other in range(start[row], stop[row]):
            x = places[row, 0] - truth_places[other, 0]
            y = places[row, 1] - truth_places[other, 1]
            if x * x + y * y <= limit:
                counts[row] += 1
    return counts


@compiled
def _listed_near(
    places: NDArray[np.float64],
    truth_places: NDArray[np.float64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    limit: float,
    total: int,
) -> NDArray[np.int64]:
    """The near ones themselves, `total` rows of `truth_places`."""
    near = np.empty(total, dtype=np.int64)
    filled = 0
    for row in range(len(places)):
        for other in range(start[row], stop[row]):
            x = places[row, 0] - truth_places[other, 0]
            y = places[row, 1] - truth_places[other, 1]
            if x * x + y * y <= limit:
                near[filled] = other
                filled += 1
    return near


@compiled
def _assigned(
    ranked: NDArray[np.int64],
    first: NDArray[np.int64],
    pair_truth: NDArray[np.int32],
    distance: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    truth_count: int,
) -> NDArray[np.int32]:
    """The pair (T, D) by which each detection, in the order of `ranked`, matches at each threshold; -1 for none."""
    chosen = np.full((len(thresholds), len(ranked)), -1, dtype=np.int32)
    for number in range(len(thresholds)):
        taken = np.zeros(truth_count, dtype=np.bool_)
        for rank in range(len(ranked)):
            nearest, least = -1, np.inf
            for pair in range(first[ranked[rank]], first[ranked[rank] + 1]):
                if distance[pair] < least and not taken[pair_truth[pair]]:
                    nearest, least = pair, distance[pair]
            if least < thresholds[number]:
                taken[pair_truth[nearest]] = True
                chosen[number, rank] = nearest
    return chosen
