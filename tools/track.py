"""Turn a file of detections into a file of tracks, both in nuScenes' results formats."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.index.records import NuScenesIndex
from datasets.nuscenes.results import read_results
from datasets.nuscenes.tables import find_version
from datasets.nuscenes.tracking_results import modalities_of_results, write_tracking_results
from datasets.tracks import Tracks
from perception.tracking.config import TrackerConfig
from perception.tracking.tracker import Tracker
from tools.devices import limit_threads
from tools.open_dataset import DataRoot, tables_root
from tools.predict import refuse_unwritable
from tools.progress import progress

_DEFAULT = TrackerConfig()


@dataclass(frozen=True)
class TrackArguments:
    """What `bevel track` takes."""

    results: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RESULTS.JSON")]]
    """Detections in nuScenes' results format."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    output: Path | None = None
    """Otherwise tracks-RESULTS.json beside the detections."""
    high_score: float = _DEFAULT.high_score
    """Detections from this score on begin tracks."""
    low_score: float = _DEFAULT.low_score
    """Detections from this score on may prolong a track."""
    min_hits: int = _DEFAULT.min_hits
    """Detections in a row until a track is written."""
    max_age: float = _DEFAULT.max_age
    """Seconds without a detection after which a track is over."""
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def track(arguments: TrackArguments) -> Path:
    """Track every scene of the results from its first sample to its last, write the tracks, return the file's path.

    Raises InputRefused for bad input.
    """
    limit_threads(arguments.threads)
    output = arguments.output or arguments.results.with_name(f"tracks-{arguments.results.stem}.json")
    if output.is_dir():
        raise InputRefused(f"{output} is a folder: name a file for the tracks with --output.")
    try:
        config = TrackerConfig(
            high_score=arguments.high_score,
            low_score=arguments.low_score,
            min_hits=arguments.min_hits,
            max_age=arguments.max_age,
            max_gap=max(_DEFAULT.max_gap, arguments.max_age),
        )
    except ValueError as error:
        raise InputRefused(f"These options do not fit together: {error}.") from None
    root = tables_root(arguments.data_root, "bevel track")
    version = find_version(root, arguments.version)
    return track_to_file(open_index(root, version), arguments.results, output, config)


def track_to_file(index: NuScenesIndex, results: Path, output: Path, config: TrackerConfig) -> Path:
    """As `track`, of the samples of this index; returns `output`."""
    detections = read_results(results)
    refuse_unwritable(output)
    tracks = track_samples(index, detections, results, Tracker(config))
    write_tracking_results(output, tracks, modalities_of_results(results))
    return output


def track_samples(
    index: NuScenesIndex, detections: Mapping[str, Boxes3D], where: Path, tracker: Tracker
) -> dict[str, Tracks]:
    """The tracks of each sample (global), in the order of the detections; a scene's begin and end with it.

    Raises InputRefused, naming `where`, for a token that is no sample.
    """
    in_order = []
    for token in detections:
        try:
            scene, sample = index.find(token)
        except KeyError:
            raise InputRefused(f"{where}: {token!r} is no sample of {index.path.parents[1]}.") from None
        in_order.append((scene, sample, token))
    tracks: dict[str, Tracks] = {}
    previous = None
    for scene, sample, token in progress(sorted(in_order), "tracking"):
        if scene != previous:
            tracker.reset()
        previous = scene
        tracks[token] = tracker.step(int(index.scene(scene).samples.timestamp[sample]), detections[token])
    return {token: tracks[token] for token in detections}
