"""What is annotated: how many boxes, of what, where, how large, how well seen, how fast, for how long."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.frames import LogFrame
from datasets.nuscenes.statistics.figures import (
    LOW_MIDDLE_HIGH,
    QUARTILES,
    Figure,
    figure_of,
    percentages,
    quantiles,
)

_KEYFRAMES, _BOXES, _TRACKS = "Boxes a keyframe (n: keyframes)", "Boxes (n: boxes)", "Tracks (n: tracks)"
_LIDAR = "LiDAR points in a box (n: boxes)"
_RADAR = "Radar points in a box (n: boxes)"
_BANDS = ((0, 10), (10, 20), (20, 30), (30, 50))
NEAR = 50.0
VISIBILITY_LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")
_MOVING = 0.5  # m/s: below that annotators' hands shake
_GROUPS = {"vehicles": (0, 1, 2), "cycles": (3, 4), "pedestrians": (5, 6, 7)}  # their attributes


@dataclass(frozen=True)
class BoxColumns:
    """M annotated boxes of the ten classes, one array for each property, and K keyframes.

    `distance` from the ego vehicle in the ground plane (m), `speed` NaN where unknown (m/s), `visibility` an index into
    VISIBILITY_LEVELS and `attribute` one into ATTRIBUTES, both -1 for none. `track` numbers the tracks, `keyframe` the
    keyframes (0 to K-1), `scene_length` counts the keyframes of the box's scene.
    """

    keyframes: int
    keyframe: NDArray[np.int64]
    label: NDArray[np.int64]
    distance: NDArray[np.float64]
    size_wlh: NDArray[np.float64]
    speed: NDArray[np.float64]
    attribute: NDArray[np.int64]
    visibility: NDArray[np.int64]
    lidar_points: NDArray[np.int64]
    radar_points: NDArray[np.int64]
    track: NDArray[np.int64]
    scene_length: NDArray[np.int64]


def box_columns(
    frames: Iterable[LogFrame], level_of: Callable[[str], str], scene_length_of: Callable[[LogFrame], int]
) -> BoxColumns:
    """The boxes of frames that have annotations, told apart by their instance tokens.

    `level_of` gives the visibility level of an annotation's token, "" where it is unknown.
    """
    parts: list[list[NDArray[np.generic]]] = []
    tracks: dict[str, int] = {}
    keyframes = 0
    for frame in frames:
        found = frame.annotations
        if found is None:
            continue
        boxes, here = found.boxes_global, frame.global_from_ego[:2, 3]
        levels = [level_of(token) for token in found.tokens]
        count = len(boxes)
        parts.append(
            [
                np.full(count, keyframes),
                boxes.labels.numpy(),
                (boxes.centers[:, :2] - here).norm(dim=1).numpy(),
                boxes.sizes_wlh.numpy(),
                boxes.velocities.norm(dim=1).numpy(),
                boxes.attributes.numpy(),
                np.array([VISIBILITY_LEVELS.index(v) if v in VISIBILITY_LEVELS else -1 for v in levels], np.int64),
                found.lidar_point_counts.numpy(),
                found.radar_point_counts.numpy(),
                np.array([tracks.setdefault(token, len(tracks)) for token in found.instance_tokens], np.int64),
                np.full(count, scene_length_of(frame)),
            ]
        )
        keyframes += 1
    empty = [np.zeros((0, 3)) if i == 3 else np.zeros(0, np.float64 if i in (2, 4) else np.int64) for i in range(11)]
    joined = [np.concatenate(columns) for columns in zip(empty, *parts, strict=True)]
    return BoxColumns(keyframes, *joined)


def box_figures(boxes: BoxColumns) -> list[Figure]:
    """All figures of the annotations."""
    return [*_per_keyframe(boxes), *_of_boxes(boxes), *_points_in_boxes(boxes), *_of_tracks(boxes)]


def _per_keyframe(boxes: BoxColumns) -> list[Figure]:
    count, total = boxes.keyframes, max(len(boxes.label), 1)
    near = boxes.keyframe[boxes.distance <= NEAR]
    figures = [
        figure_of(_KEYFRAMES, name, (float(found.mean()), *quantiles(found, LOW_MIDDLE_HIGH)) if count else (), count)
        for name, found in (
            ("boxes: mean, 5, 50, 95 %", np.bincount(boxes.keyframe, minlength=count)),
            (f"boxes within {NEAR:g} m: mean, 5, 50, 95 %", np.bincount(near, minlength=count)),
        )
    ]
    for label, name in enumerate(DETECTION_CLASSES):
        number = int((boxes.label == label).sum())
        shares = (number / max(count, 1), 100 * number / total)
        figures.append(figure_of(_KEYFRAMES, f"{name}: mean, share of all (%)", shares, count))
    return figures


def _of_boxes(boxes: BoxColumns) -> list[Figure]:
    count = len(boxes.label)
    seen = boxes.visibility[boxes.visibility >= 0]
    unhit = 100 * np.mean(boxes.lidar_points == 0) if count else 0.0
    figures = [
        figure_of(_BOXES, "distance, 5, 50, 95 % (m)", quantiles(boxes.distance, LOW_MIDDLE_HIGH), count),
        figure_of(_BOXES, "without a LiDAR point (%)", (unhit,), count),
        figure_of(_BOXES, "visibility 0-40, -60, -80, -100 % (%)", percentages(seen, range(4)), len(seen)),
    ]
    for group, members in _GROUPS.items():
        attributes = boxes.attribute[np.isin(boxes.attribute, members)]
        states = ", ".join(ATTRIBUTES[member].split(".")[1] for member in members)
        figures.append(figure_of(_BOXES, f"{group}: {states} (%)", percentages(attributes, members), len(attributes)))
    for group, members in _GROUPS.items():
        labels = [label for label, allowed in enumerate(ATTRIBUTES_OF_CLASS) if allowed == members]
        speeds = boxes.speed[np.isin(boxes.label, labels) & np.isfinite(boxes.speed)]
        moving = speeds[speeds > _MOVING]
        figures += [
            figure_of(
                _BOXES, f"{group}: faster than {_MOVING:g} m/s (%)", percentages(speeds > _MOVING, (1,)), len(speeds)
            ),
            figure_of(
                _BOXES, f"{group}: their speed, 5, 50, 95 % (m/s)", quantiles(moving, LOW_MIDDLE_HIGH), len(moving)
            ),
        ]
    return figures


def _points_in_boxes(boxes: BoxColumns) -> list[Figure]:
    figures = []
    for section, points in ((_LIDAR, boxes.lidar_points), (_RADAR, boxes.radar_points)):
        for label, name in enumerate(("any class", *DETECTION_CLASSES), start=-1):
            for low, high in _BANDS:
                in_band = (boxes.distance >= low) & (boxes.distance < high)
                chosen = points[in_band & ((boxes.label == label) | (label < 0))]
                values: Sequence[float] = quantiles(chosen, QUARTILES)
                what = "quartiles"
                if section == _RADAR:
                    what = "mean, with any (%)"
                    values = (float(chosen.mean()), 100 * float((chosen > 0).mean())) if chosen.size else ()
                figures.append(figure_of(section, f"{name} at {low}-{high} m: {what}", values, len(chosen)))
    return figures


def _of_tracks(boxes: BoxColumns) -> list[Figure]:
    """Lengths of the tracks of scenes with several keyframes, and sizes: one for each track."""
    _, first, lengths = np.unique(boxes.track, return_index=True, return_counts=True)
    scenes = boxes.scene_length[first]
    lengths, scenes = lengths[scenes > 1], scenes[scenes > 1]
    figures = [
        figure_of(_TRACKS, "keyframes of a track, 5, 50, 95 %", quantiles(lengths, LOW_MIDDLE_HIGH), len(lengths)),
        figure_of(
            _TRACKS,
            "... of its scene's, 5, 50, 95 % (%)",
            quantiles(100 * lengths / scenes, LOW_MIDDLE_HIGH),
            len(lengths),
        ),
    ]
    for label, name in enumerate(DETECTION_CLASSES):
        sizes = boxes.size_wlh[first[boxes.label[first] == label]]
        means = sizes.mean(axis=0).tolist() if len(sizes) else ()
        spreads = sizes.std(axis=0).tolist() if len(sizes) else ()
        figures += [
            figure_of(_TRACKS, f"{name}: width, length, height, mean (m)", means, len(sizes)),
            figure_of(_TRACKS, f"{name}: ... standard deviation (m)", spreads, len(sizes) if len(sizes) > 1 else 0),
        ]
    return figures
