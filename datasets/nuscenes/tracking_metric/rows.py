"""Tracks as columns: of the annotations and of the results, filtered and filled as the official metric does.

Source of the arithmetic: nuscenes-devkit 1.2, `eval/common/loaders.py` and `eval/tracking/loaders.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from datasets.arrays import Array
from datasets.classes import CLASS_OF_CATEGORY, DETECTION_CLASSES, LIDAR_CHANNEL, TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.boxes import BicycleRacks
from datasets.nuscenes.detection_metric.configuration import CYCLES
from datasets.nuscenes.detection_metric.filters import in_a_rack
from datasets.nuscenes.detection_metric.truth import racks_of
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords
from datasets.tracks import Tracks

_IS_CYCLE = np.array([name in CYCLES for name in TRACKING_CLASSES])


@dataclass(frozen=True)
class Frames:
    """The F samples of a split, scene by scene and by time. Metres (global) for where the vehicle was."""

    token: Sequence[str]
    scene: Int64[Array, "F"]
    timestamp_us: Int64[Array, "F"]
    ego_position: Float64[Array, "F 3"]
    racks: BicycleRacks


@dataclass(frozen=True)
class TrackRows:
    """N boxes of tracks, frame by frame. `frame`: rows of Frames; `track`: a number for each track of each scene.

    `label`: index into TRACKING_CLASSES. `center`: metres, global. `score`: -1 for annotations.
    """

    frame: Int64[Array, "N"]
    track: Int64[Array, "N"]
    label: Int64[Array, "N"]
    center: Float64[Array, "N 3"]
    score: Float64[Array, "N"]

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: Bool[Array, "N"] | Int64[Array, "K"]) -> "TrackRows":
        return TrackRows(self.frame[rows], self.track[rows], self.label[rows], self.center[rows], self.score[rows])


def frames_of(index: NuScenesIndex, scenes: Sequence[SceneRecords], where: str) -> Frames:
    """The samples of these scenes.

    Raises InputRefused, naming `where`, for a sample without a keyframe of LIDAR_TOP: ranges count from its pose.
    """
    tokens: list[str] = []
    for scene in scenes:
        _check_lidar(index, scene, where)
        tokens += scene.samples.token
    counts = [len(scene.samples.token) for scene in scenes]
    return Frames(
        token=tokens,
        scene=np.repeat(np.arange(len(scenes)), counts),
        timestamp_us=np.concatenate([scene.samples.timestamp for scene in scenes]),
        ego_position=np.concatenate([s.sample_data.pose_translation[s.samples.reference] for s in scenes]),
        racks=racks_of(index, scenes),
    )


def _check_lidar(index: NuScenesIndex, scene: SceneRecords, where: str) -> None:
    absent = np.ones(len(scene.samples.token), dtype=np.bool_)
    if LIDAR_CHANNEL in index.channels:
        absent = scene.samples.keyframes[:, index.channels.index(LIDAR_CHANNEL)] < 0
    if absent.any():
        token = scene.samples.token[int(np.flatnonzero(absent)[0])]
        raise InputRefused(
            f"{where}: sample {token!r} has no keyframe of LIDAR_TOP, whose ego pose the official metric measures "
            "distances from."
        )


def annotated_rows(
    index: NuScenesIndex, scenes: Sequence[SceneRecords], frames: Frames, ranges: Mapping[str, int]
) -> TrackRows:
    """The annotated tracks: within range, with at least one point, not in a bicycle rack; then filled.

    Within a frame in the order of the table, which matters: a predicted track that two annotated ones followed before
    goes on with the first of them.
    """
    names = [CLASS_OF_CATEGORY.get(category) for category in index.categories]
    label_of_category = np.array(
        [TRACKING_CLASSES.index(name) if name in TRACKING_CLASSES else -1 for name in names], dtype=np.int64
    )
    first_frame = np.cumsum([0] + [len(scene.samples.token) for scene in scenes])
    parts = []
    for scene, first in zip(scenes, first_frame, strict=False):
        records = scene.annotations
        labels = label_of_category[index.category_of_instance[records.instance]]
        kept = np.flatnonzero((labels >= 0) & (records.num_lidar_pts + records.num_radar_pts != 0))
        kept = kept[np.lexsort((records.table_row[kept], records.sample[kept]))]
        parts.append(
            TrackRows(
                frame=first + records.sample[kept].astype(np.int64),
                track=records.instance[kept].astype(np.int64),
                label=labels[kept],
                center=records.translation[kept],
                score=np.full(len(kept), -1.0),
            )
        )
    return filled(in_sight(concatenated(parts), frames, ranges), frames)


def predicted_rows(tracks: Mapping[str, Tracks], frames: Frames, ranges: Mapping[str, int]) -> TrackRows:
    """The tracks of a results file: within range, not in a bicycle rack, each with its mean score; then filled.

    A name stands for one track in each scene, whatever the classes of its boxes.
    """
    label_of_detection = np.array(
        [TRACKING_CLASSES.index(name) if name in TRACKING_CLASSES else -1 for name in DETECTION_CLASSES]
    )
    numbers: dict[tuple[int, str], int] = {}
    parts = []
    for frame, (token, scene) in enumerate(zip(frames.token, frames.scene.tolist(), strict=True)):
        boxes, ids = tracks[token].boxes, tracks[token].ids
        parts.append(
            TrackRows(
                frame=np.full(len(ids), frame),
                track=np.array([numbers.setdefault((scene, name), len(numbers)) for name in ids], dtype=np.int64),
                label=label_of_detection[boxes.labels.numpy()],
                center=boxes.centers.double().numpy(),
                score=boxes.scores.double().numpy(),
            )
        )
    return filled(with_mean_scores(in_sight(concatenated(parts), frames, ranges)), frames)


def concatenated(parts: Sequence[TrackRows]) -> TrackRows:
    """One after another."""
    return TrackRows(
        frame=np.concatenate([part.frame for part in parts]),
        track=np.concatenate([part.track for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        center=np.concatenate([part.center for part in parts]),
        score=np.concatenate([part.score for part in parts]),
    )


def in_sight(rows: TrackRows, frames: Frames, ranges: Mapping[str, int]) -> TrackRows:
    """The boxes nearer than their class's range, without cycles whose centre is in a bicycle rack."""
    offsets = rows.center[:, :2] - frames.ego_position[rows.frame, :2]
    distances = np.sqrt(offsets[:, 0] * offsets[:, 0] + offsets[:, 1] * offsets[:, 1])
    kept = distances < np.array([ranges[name] for name in TRACKING_CLASSES], dtype=np.float64)[rows.label]
    cycles = np.flatnonzero(kept & _IS_CYCLE[rows.label])
    kept[cycles[in_a_rack(rows.frame[cycles], rows.center[cycles], frames.racks)]] = False
    return rows[kept]


def with_mean_scores(rows: TrackRows) -> TrackRows:
    """Every box with the mean score of its track.

    Tracks of one length are averaged together: NumPy adds a row as it adds a list, and thresholds, which are drawn
    from these scores, are compared with them for equality.
    """
    order = np.argsort(rows.track, kind="stable")
    _, starts, counts = np.unique(rows.track[order], return_index=True, return_counts=True)
    score = np.empty_like(rows.score)
    for length in np.unique(counts).tolist():
        members = order[starts[counts == length][:, None] + np.arange(length)]
        score[members] = np.mean(rows.score[members], axis=1)[:, None]
    return replace(rows, score=score)


def filled(rows: TrackRows, frames: Frames) -> TrackRows:
    """The tracks without gaps: between two boxes of a track, one for each frame that lies between theirs.

    A frame's new boxes stand behind its own, in the order in which their tracks first came. As in the devkit, the
    weight of the *later* box is the time that is left until it: a box in the gap moves from the later end to the
    earlier one. (That the two are exchanged shows only where a gap has more than one frame, or uneven ones.)
    """
    order = np.argsort(rows.track, kind="stable")
    track, frame = rows.track[order], rows.frame[order]
    gaps = np.where(track[1:] == track[:-1], np.maximum(frame[1:] - frame[:-1] - 1, 0), 0)
    left, right = np.repeat(order[:-1], gaps), np.repeat(order[1:], gaps)
    within = np.arange(len(left)) - np.repeat(np.cumsum(gaps) - gaps, gaps)
    between = rows.frame[left] + 1 + within
    time = frames.timestamp_us
    until = (time[rows.frame[right]] - time[between]).astype(np.float64)
    ratio = until / (time[rows.frame[right]] - time[rows.frame[left]])
    added = TrackRows(
        frame=between,
        track=rows.track[right],
        label=rows.label[right],
        center=(1.0 - ratio)[:, None] * rows.center[left] + ratio[:, None] * rows.center[right],
        score=(1.0 - ratio) * rows.score[left] + ratio * rows.score[right],
    )
    tracks, first = np.unique(rows.track, return_index=True)
    rank = np.concatenate([np.arange(len(rows)), first[np.searchsorted(tracks, added.track)]])
    every = concatenated([rows, added])
    is_new = np.arange(len(every)) >= len(rows)
    return every[np.lexsort((rank, is_new, every.frame))]
