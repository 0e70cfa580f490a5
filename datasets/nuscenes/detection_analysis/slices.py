"""The metric on parts of a split: near and far, hidden and open, standing and fast, by night, in rain, city by city.

Everything is matched once, on the whole split. A slice then keeps the annotations that are in it. Of the detections,
at each distance threshold:

- one that found an annotation of the slice is a true positive;
- one that found another annotation is ignored, as if it had not been made: it is right, but not asked for;
- one that found nothing is a false positive of the slices that it lies in itself: by its own distance from the
  vehicle, its own speed, the scene it was made in. How visible something is that is not there, or how many points it
  has, nobody can tell: there every such detection is a false positive of every slice. The AP of those slices therefore
  compares detectors on one slice, not slices with one another; the recall compares both.

Classes without annotations in a slice count in mAP and NDS with AP 0 and errors 1, as in the official metric;
`mean_ap_present` leaves them out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from datasets.arrays import Array
from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_analysis.scene_facts import SceneFacts
from datasets.nuscenes.detection_metric.boxes import BoxColumns, EvaluatedSamples
from datasets.nuscenes.detection_metric.configuration import CLASS_RANGES, DISTANCE_THRESHOLDS, ERROR_THRESHOLD
from datasets.nuscenes.detection_metric.curves import curves_of
from datasets.nuscenes.detection_metric.matching import Matches
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, metrics_of

# Metres from the vehicle: the ranges of cones and barriers, of pedestrians and cycles, and of vehicles end at 30, 40
# and 50.
_DISTANCES = (0.0, 20.0, 30.0, 40.0, 50.0)
# LiDAR points of an annotation, from .. to.
_POINTS = ((0, 0), (1, 5), (6, 20), (21, 100), (101, None))
# m/s. Those of the Waymo Open Dataset's breakdown by speed: its "stationary" ends at 0.2, its "medium" at 3.
_SLOW, _FAST = 0.2, 3.0
Mask = Bool[Array, "_"]


@dataclass(frozen=True)
class Slice:
    """A part of a split: which G annotations and, if they found nothing, which D detections (of Matches) are in it."""

    kind: str
    name: str
    truth: Mask
    detections: Mask


@dataclass(frozen=True)
class SliceFigures:
    """The metric on a slice. `recall`: the share of its annotations that a detection of any score found at 2 m."""

    kind: str
    name: str
    annotations: int
    recall: float
    metrics: DetectionMetrics


def slices_of(
    matches: Matches, samples: EvaluatedSamples, facts: Mapping[str, SceneFacts], visibilities: Sequence[str]
) -> list[Slice]:
    """All slices that have annotations. `facts`: of each scene; `visibilities`: NuScenesIndex.visibilities."""
    slices = (
        *_by_distance(matches),
        *_by_visibility(matches, visibilities),
        *_by_points(matches),
        *_by_speed(matches),
        *_by_conditions(matches, samples, facts),
        *_by_location(matches, samples, facts),
    )
    return [part for part in slices if part.truth.any()]


def measure_slice(matches: Matches, part: Slice) -> SliceFigures:
    """The metric on one slice of what was matched on the whole split."""
    counts = np.bincount(matches.truth.label[part.truth], minlength=len(DETECTION_CLASSES)).astype(np.int64)
    in_slice = part.detections[matches.ranked]
    # Whether each match is one with an annotation of the slice; the last one is where -1, no match, leads to.
    wanted = np.append(part.truth[matches.match_truth], False)
    kept = np.where(matches.match >= 0, wanted[matches.match], in_slice)
    curves = {}
    for name in CLASS_RANGES:
        label = DETECTION_CLASSES.index(name)
        here = slice(int(matches.first[label]), int(matches.first[label + 1]))
        scores = matches.detections.score[matches.ranked[here]]
        curves[name] = {
            threshold: curves_of(
                scores[kept[number, here]],
                matches.match[number, here][kept[number, here]],
                matches.errors,
                int(counts[label]),
            )
            for number, threshold in enumerate(DISTANCE_THRESHOLDS)
        }
    matched = matches.match[DISTANCE_THRESHOLDS.index(ERROR_THRESHOLD)]
    total = int(counts.sum())
    recall = float(wanted[matched[matched >= 0]].sum() / total) if total else float("nan")
    return SliceFigures(part.kind, part.name, total, recall, metrics_of(curves, counts))


def everything(matches: Matches) -> Slice:
    """The slice that is the whole split."""
    return Slice("", "everything", *(np.ones(len(boxes), np.bool_) for boxes in (matches.truth, matches.detections)))


def speeds(boxes: BoxColumns) -> Float64[Array, "N"]:
    """m/s over ground, NaN where unknown."""
    with np.errstate(over="ignore"):
        speed: NDArray[np.float64] = np.sqrt((boxes.velocity**2).sum(axis=1))
    return speed


def _by_distance(matches: Matches) -> Iterator[Slice]:
    truth, detections = matches.truth.ego_distance, matches.detections.ego_distance
    for low, high in pairwise(_DISTANCES):
        yield Slice(
            "distance",
            f"{low:g} to {high:g} m",
            (truth >= low) & (truth < high),
            (detections >= low) & (detections < high),
        )


def _by_visibility(matches: Matches, visibilities: Sequence[str]) -> Iterator[Slice]:
    for level in sorted(set(visibilities), key=_first_number):
        rows = [row for row, name in enumerate(visibilities) if name == level]
        share = level.removeprefix("v").replace("-", " to ") + " %" if level.startswith("v") else level
        yield Slice("visibility", share, np.isin(matches.truth.visibility, rows), _all(matches))


def _first_number(level: str) -> tuple[int, str]:
    digits = level.removeprefix("v").split("-")[0]
    return int(digits) if digits.isdecimal() else -1, level


def _by_points(matches: Matches) -> Iterator[Slice]:
    points = matches.truth.num_lidar_pts
    for low, high in _POINTS:
        name = f"more than {low - 1}" if high is None else f"{low} to {high}" if high else "none"
        inside = points >= low if high is None else (points >= low) & (points <= high)
        yield Slice("LiDAR points", name, inside, _all(matches))


def _by_speed(matches: Matches) -> Iterator[Slice]:
    truth, detections = speeds(matches.truth), speeds(matches.detections)
    # Comparisons with NaN are false: what has no speed is in no slice.
    yield Slice("speed", f"standing, below {_SLOW:g} m/s", truth < _SLOW, detections < _SLOW)
    yield Slice(
        "speed",
        f"slow, {_SLOW:g} to {_FAST:g} m/s",
        (truth >= _SLOW) & (truth < _FAST),
        (detections >= _SLOW) & (detections < _FAST),
    )
    yield Slice("speed", f"fast, from {_FAST:g} m/s", truth >= _FAST, detections >= _FAST)


def _by_conditions(matches: Matches, samples: EvaluatedSamples, facts: Mapping[str, SceneFacts]) -> Iterator[Slice]:
    """By what the descriptions say; a scene without a description is in none of these."""
    said = {name: one for name, one in facts.items() if one.description}
    for name, scenes in (
        ("day", {name for name, one in said.items() if not one.at_night}),
        ("night", {name for name, one in said.items() if one.at_night}),
        ("dry", {name for name, one in said.items() if not one.in_rain}),
        ("rain", {name for name, one in said.items() if one.in_rain}),
    ):
        yield scenes_slice(matches, samples, scenes, "conditions", name)


def _by_location(matches: Matches, samples: EvaluatedSamples, facts: Mapping[str, SceneFacts]) -> Iterator[Slice]:
    for location in sorted({one.location for one in facts.values() if one.location}):
        scenes = {name for name, one in facts.items() if one.location == location}
        yield scenes_slice(matches, samples, scenes, "location", location)


def scenes_slice(matches: Matches, samples: EvaluatedSamples, scenes: set[str], kind: str, name: str) -> Slice:
    """The slice of the named scenes: the metric of the split that these scenes are."""
    wanted = np.array([scene in scenes for scene in samples.scene_names], dtype=np.bool_)[samples.scene]
    return Slice(kind, name, wanted[matches.truth.sample], wanted[matches.detections.sample])


def _all(matches: Matches) -> NDArray[np.bool_]:
    return np.ones(len(matches.detections), dtype=np.bool_)
