"""The nuScenes tracking results file: written from tracks, read back into tracks.

Format: https://www.nuscenes.org/tracking (a JSON object with `meta` and, by sample token, `results`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.classes import DETECTION_CLASSES, TRACKING_CLASSES
from datasets.nuscenes.detection_metric.results_file import Findings, ResultsFile
from datasets.nuscenes.results_writing import best_rows, placed_records, write_records
from datasets.nuscenes.tracking_metric.results_tracks import read_tracks
from datasets.tracks import Tracks


@dataclass(frozen=True)
class TrackingResults:
    """What a results file holds. `meta`: as it stands there. `tracks`: global, float64, by sample token."""

    meta: Mapping[str, Any]
    tracks: Mapping[str, Tracks]


def write_tracking_results(path: Path, tracks_global: Mapping[str, Tracks], modalities: Sequence[str]) -> None:
    """Write the tracks of every sample token of a split, with no boxes for those where nothing was tracked.

    `modalities`: what the detector used ("camera", "lidar", "radar"; others have no flag in the format). Of more than
    500 boxes of a sample the best scores are kept. An unknown velocity (NaN) is written as 0.
    Raises ValueError, naming the sample, for numbers that are not finite, sizes that are not positive, a class that
    is not tracked, or a track that is in a sample twice.
    """
    write_records(path, {token: _sample_records(token, tracks) for token, tracks in tracks_global.items()}, modalities)


def read_tracking_results(
    path: Path, samples: Collection[str] | None = None, subject: str = "the tracks"
) -> TrackingResults:
    """The tracks of a results file. Boxes whose `num_pts` is 0 are left out, as the official metric does.

    `samples`: the tokens that the file is to have; None: whichever it has. `subject`: of whose problems is told.
    Raises InputRefused, with every finding, for a file that is not in the format or has not just these samples.
    """
    findings = Findings(path)
    tracks: dict[str, Tracks] = {}
    expected = None if samples is None else set(samples)
    file = ResultsFile(path, findings)
    for token, content in file:
        if expected is not None and token not in expected:
            findings.add(f"sample {token!r:.80}: not in the split")
            continue
        tracks[token], problems = read_tracks(token, content)
        findings.add(*problems)
    findings.add(*(f"sample {token!r:.80}: missing" for token in samples or () if token not in tracks))
    findings.refuse(subject)
    return TrackingResults(file.meta, tracks)


def holds_tracks(path: Path) -> bool:
    """Whether a results file is of tracking: its first box has a tracking_id. The file is read up to that box.

    False for one without any box, which is of detection as well. Raises InputRefused for a file that is not JSON.
    """
    for _, content in ResultsFile(path, Findings(path)):
        records = _parsed(content)
        if records:
            return isinstance(records[0], dict) and "tracking_id" in records[0]
    return False


def modalities_of_results(path: Path) -> tuple[str, ...]:
    """What the detector used, as `meta` of a results file (of either task) has it: camera, lidar, radar.

    The file is read up to there. Raises InputRefused for one that is not JSON, or has not the two parts of results.
    """
    file = ResultsFile(path, Findings(path))
    for _ in file:
        if file.meta:
            break
    return tuple(sensor for sensor in ("camera", "lidar", "radar") if file.meta.get(f"use_{sensor}") is True)


def _parsed(content: bytes) -> list[Any]:
    """The boxes of a sample, not checked; none where that is no list, which is found when the file is read."""
    try:
        records = json.loads(content)
    except (ValueError, RecursionError):
        return []
    return records if isinstance(records, list) else []


def _sample_records(token: str, tracks: Tracks) -> list[dict[str, Any]]:
    boxes = tracks.boxes
    placed = placed_records(token, boxes)
    if len(set(tracks.ids)) < len(tracks):
        raise ValueError(f"sample {token}: a track can have one box only")
    names = [DETECTION_CLASSES[label] for label in boxes.labels.tolist()]
    if not set(names) <= set(TRACKING_CLASSES):
        raise ValueError(f"sample {token}: the classes that are tracked are {', '.join(TRACKING_CLASSES)}")
    scores = boxes.scores.double().tolist()
    return [
        placed[row] | {"tracking_id": tracks.ids[row], "tracking_name": names[row], "tracking_score": scores[row]}
        for row in best_rows(boxes)
    ]
