"""CLEAR MOT: follow the frames, keep what is matched, and count what goes wrong.

Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics, 2008, with the
choices of py-motmetrics 1.4 (`MOTAccumulator.update`, `metrics.py`) and of nuscenes-devkit 1.2
(`eval/tracking/algo.py`, `metrics.py`), which it is equal to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.nuscenes.tracking_metric.assignment import least_cost
from datasets.nuscenes.tracking_metric.distances import frame_distances
from datasets.nuscenes.tracking_metric.rows import TrackRows

# A period of nuScenes' keyframes, which durations are counted in.
_SECONDS_A_FRAME = 0.5


class ClassFrames(NamedTuple):
    """One class of a split: A annotated and B predicted boxes in F frames, K annotated tracks numbered from 0.

    A NamedTuple, because compiled loops take it whole. The boxes of frame f are the rows from `*_starts[f]` to
    `*_starts[f + 1]` (E: F + 1). `distances`: metres, a frame's annotations (rows) by its predictions, from
    `distance_starts[f]` on. `to_best_alone`: see `frame_distances`.
    """

    truth_starts: Int64[Array, "E"]
    truth_track: Int64[Array, "A"]
    found_starts: Int64[Array, "E"]
    found_track: Int64[Array, "B"]
    found_score: Float64[Array, "B"]
    distances: Float64[Array, "D"]
    distance_starts: Int64[Array, "F"]
    to_best_alone: Float64[Array, "A"]


@dataclass(frozen=True)
class ClearCounts:
    """What was counted with the predictions from a score on.

    `matches` (without `switches`), `misses`, `false_positives`: boxes. `frames`: those with any box. `distance`: the
    sum over matches and switches, metres. `mostly_tracked`, `mostly_lost`, `tracked`: annotated tracks that are
    tracked in at least 80 %, in less than 20 %, in any of their frames. `fragments`: how often a track was lost and
    found again. `until_found`, `longest_gaps`: seconds, summed over the tracks of `tracked`.
    """

    matches: int
    switches: int
    misses: int
    false_positives: int
    frames: int
    distance: float
    mostly_tracked: int
    mostly_lost: int
    tracked: int
    fragments: int
    until_found: float
    longest_gaps: float


def class_frames(truth: TrackRows, found: TrackRows, label: int, frame_count: int) -> ClassFrames:
    """The boxes of one class (index into TRACKING_CLASSES) of `frame_count` frames, from rows in the order of time."""
    truth, found = truth[truth.label == label], found[found.label == label]
    truth_starts = np.searchsorted(truth.frame, np.arange(frame_count + 1))
    found_starts = np.searchsorted(found.frame, np.arange(frame_count + 1))
    distances = frame_distances(
        np.ascontiguousarray(truth.center[:, :2]),
        truth_starts,
        np.ascontiguousarray(found.center[:, :2]),
        found_starts,
        found.score,
    )
    return ClassFrames(
        truth_starts=truth_starts,
        truth_track=np.unique(truth.track, return_inverse=True)[1],
        found_starts=found_starts,
        found_track=found.track,
        found_score=found.score,
        distances=distances.flat,
        distance_starts=distances.starts,
        to_best_alone=distances.to_best_alone,
    )


def count_from_score(frames: ClassFrames, min_score: float, match_distance: float) -> ClearCounts:
    """Count with the predictions whose score is at least `min_score`; nearer than `match_distance` (m) matches."""
    events = _follow(frames, min_score, match_distance)
    tracks = len(events.seen)
    tracked = events.tracked > 0
    shares = np.divide(events.tracked, events.seen, out=np.zeros(tracks), where=events.seen > 0)
    matches, switches, misses, false_positives, frame_count = events.totals.tolist()
    return ClearCounts(
        matches=matches,
        switches=switches,
        misses=misses,
        false_positives=false_positives,
        frames=frame_count,
        distance=events.distance,
        mostly_tracked=int((shares >= 0.8).sum()),
        mostly_lost=int((shares < 0.2).sum()),
        tracked=int(tracked.sum()),
        fragments=int(events.fragments.sum()),
        until_found=float((events.missed_first[tracked] * _SECONDS_A_FRAME).sum()),
        longest_gaps=float((events.longest_gap[tracked] * _SECONDS_A_FRAME).sum()),
    )


def scores_of_matches(frames: ClassFrames, match_distance: float) -> Float64[Array, "_"]:
    """The scores of the predictions that match, all being used; switches to another track are not among them."""
    return frames.found_score[_follow(frames, -np.inf, match_distance).is_match]


class _Events(NamedTuple):
    """`totals`: matches, switches, misses, false positives, frames. The rest by annotated track (K), in frames;
    `is_match` by predicted box (B).
    """

    totals: Int64[Array, "5"]
    distance: float
    seen: Int64[Array, "K"]
    tracked: Int64[Array, "K"]
    missed_first: Int64[Array, "K"]
    longest_gap: Int64[Array, "K"]
    fragments: Int64[Array, "K"]
    is_match: Bool[Array, "B"]


@compiled
def _follow(frames: ClassFrames, min_score: float, match_distance: float) -> _Events:
    """Frame after frame: pairs of before are kept while they are near enough, the others assigned anew."""
    tracks = frames.truth_track.max() + 1 if len(frames.truth_track) else 0
    followed_by = np.full(tracks, -1, dtype=np.int64)  # the predicted track that each one was last matched with
    gap = np.zeros(tracks, dtype=np.int64)
    seen, tracked = np.zeros(tracks, dtype=np.int64), np.zeros(tracks, dtype=np.int64)
    missed_first, longest = np.zeros(tracks, dtype=np.int64), np.zeros(tracks, dtype=np.int64)
    fragments = np.zeros(tracks, dtype=np.int64)
    is_match = np.zeros(len(frames.found_track), dtype=np.bool_)
    totals, distance = np.zeros(5, dtype=np.int64), 0.0
    for frame in range(len(frames.distance_starts)):
        truth_first, truth_end = frames.truth_starts[frame], frames.truth_starts[frame + 1]
        found_first, found_end = frames.found_starts[frame], frames.found_starts[frame + 1]
        chosen = found_first + np.flatnonzero(frames.found_score[found_first:found_end] >= min_score)
        rows, columns = truth_end - truth_first, len(chosen)
        if rows + columns == 0:
            continue
        totals[4] += 1
        track_of_row = frames.truth_track[truth_first:truth_end]
        pair = np.full(rows, -1, dtype=np.int64)  # the column that each row is matched with
        costs = np.empty((rows, columns))
        if rows * columns > 0:
            _take_distances(frames, frame, chosen, costs)
            _keep_pairs(costs, followed_by[track_of_row], frames.found_track[chosen], match_distance, pair)
            _pair_the_rest(costs, match_distance, pair)
        for row in range(rows):
            track, column = track_of_row[row], pair[row]
            seen[track] += 1
            if column < 0:
                totals[2] += 1
                gap[track] += 1
                longest[track] = max(longest[track], gap[track])
                continue
            name = frames.found_track[chosen[column]]
            if followed_by[track] in (-1, name):
                totals[0] += 1
                is_match[chosen[column]] = True
            else:
                totals[1] += 1
            followed_by[track] = name
            distance += costs[row, column]
            if tracked[track] == 0:
                missed_first[track] = gap[track]
            elif gap[track] > 0:
                fragments[track] += 1
            tracked[track] += 1
            gap[track] = 0
        totals[3] += columns - (pair >= 0).sum()
    return _Events(totals, distance, seen, tracked, missed_first, longest, fragments, is_match)


@compiled
def _take_distances(frames: ClassFrames, frame: int, chosen: Int64[Array, "C"], costs: Float64[Array, "R C"]) -> None:
    """Fill in the distances of a frame's rows to the predictions (C) that were chosen."""
    truth_first, found_first = frames.truth_starts[frame], frames.found_starts[frame]
    width = frames.found_starts[frame + 1] - found_first
    for row in range(costs.shape[0]):
        if len(chosen) == 1 and width > 1:
            costs[row, 0] = frames.to_best_alone[truth_first + row]
            continue
        start = frames.distance_starts[frame] + row * width - found_first
        for column in range(len(chosen)):
            costs[row, column] = frames.distances[start + chosen[column]]


@compiled
def _keep_pairs(
    costs: Float64[Array, "R C"],
    followed_by: Int64[Array, "R"],
    names: Int64[Array, "C"],
    match_distance: float,
    pair: Int64[Array, "R"],
) -> None:
    """Pair rows with the prediction that they had before, where it is here, near enough and not yet taken."""
    taken = np.zeros(len(names), dtype=np.bool_)
    for row in range(len(pair)):
        if followed_by[row] < 0:
            continue
        for column in range(len(names)):
            if names[column] == followed_by[row] and not taken[column]:
                if costs[row, column] < match_distance:
                    pair[row] = column
                    taken[column] = True
                break


@compiled
def _pair_the_rest(costs: Float64[Array, "R C"], match_distance: float, pair: Int64[Array, "R"]) -> None:
    """Assign the rows and columns that are in no pair yet: as many pairs as can be, at the least sum of distances."""
    rows, columns = costs.shape
    taken = np.zeros(columns, dtype=np.bool_)
    for row in range(rows):
        if pair[row] >= 0:
            taken[pair[row]] = True
    near = np.zeros((rows, columns), dtype=np.bool_)
    by_row, by_column = np.zeros(rows, dtype=np.int64), np.zeros(columns, dtype=np.int64)
    most, farthest = 0, 0.0
    for row in range(rows):
        for column in range(columns):
            if pair[row] < 0 and not taken[column] and costs[row, column] < match_distance:
                near[row, column] = True
                by_row[row] += 1
                by_column[column] += 1
                most = max(most, by_row[row], by_column[column])
                farthest = max(farthest, costs[row, column])
    if most == 0:
        return
    # Pairs that are too far cost so much that one of them is worse than all near ones together. The whole matrix,
    # rows that have a pair included, as py-motmetrics has it: among equal sums the same one is then chosen.
    priced = np.full((rows, columns), 2.0 * min(rows, columns) * (farthest + 1.0) + 1.0)
    for row in range(rows):
        for column in range(columns):
            if near[row, column]:
                priced[row, column] = costs[row, column]
                if most == 1:  # no choice: every pair that is near is taken
                    pair[row] = column
    if most > 1:
        assigned = least_cost(priced)
        for row in range(rows):
            if assigned[row] >= 0 and near[row, assigned[row]]:
                pair[row] = assigned[row]
