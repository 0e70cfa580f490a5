"""The sweeps before a keyframe out of their files: as they are, or a LiDAR's moved while they are read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float32
from torch import Tensor

from calibration.transforms import Transform
from datasets.faults import FaultReason, SensorFault, SensorFileError
from datasets.frames import MergedSweeps
from datasets.nuscenes.files import ReadBuffer, SweepFile, read_lidar_sweep
from datasets.sensors.sweeps import MovingSweep, merge_lidar_sweeps, moves, seconds_between


class RecordedSweep(NamedTuple):
    """What the tables tell of a sweep."""

    filename: str
    timestamp_us: int
    global_from_ego: Transform


class FrameFaults(NamedTuple):
    """What is found while a frame is read: `faults` for which a channel is not there, `impairments` that it has."""

    faults: list[SensorFault]
    impairments: list[SensorFault]


def read_sweeps(
    root: Path,
    channel: str,
    filenames: Iterable[str],
    read: Callable[[Path, str], SweepFile],
    found: FrameFaults,
) -> Iterator[tuple[int, Float32[Tensor, "P C"]]]:
    """The points of a channel's sweeps, newest first, each with its place among `filenames` and read when it is asked
    for; what is wrong is added to `found`.

    An earlier sweep that cannot be read is left out; without the newest, the keyframe's own, there are none.
    Raises InputRefused where a file name leads out of the dataroot.
    """
    for place, filename in enumerate(filenames):
        try:
            points, dropped = read(root, filename)
        except SensorFileError as error:
            fault = SensorFault(channel, error.reason, error.detail)
            if place == 0:
                found.faults.append(fault)
                return
            found.impairments.append(fault)
        else:
            if dropped:
                found.impairments.append(SensorFault(channel, FaultReason.NONFINITE_POINTS, dropped))
            yield place, points


def read_merged_lidar(
    root: Path,
    channel: str,
    recorded: Sequence[RecordedSweep],
    found: FrameFaults,
    *,
    timestamp_us: int,
    global_from_ego: Transform,
    ego_from_sensor: Transform,
    close_radius: float,
) -> MergedSweeps:
    """The sweeps of a LiDAR, at least one, as `merge_lidar_sweeps` moves them into the ego frame of an instant, of time
    `timestamp_us` and pose `global_from_ego`. Told and raised is what `read_sweeps` tells and raises.

    All in one pass: each file is read into the same small memory, looked over there and moved from there, so that its
    points come out of the processor's cache.
    """
    read = partial(read_lidar_sweep, buffer=ReadBuffer())
    ages = [seconds_between(sweep.timestamp_us, timestamp_us) for sweep in recorded]
    ego_from_lidar = moves(global_from_ego, [sweep.global_from_ego for sweep in recorded], ego_from_sensor)
    moving = (
        MovingSweep(points, ego_from_lidar[place], ages[place])
        for place, points in read_sweeps(root, channel, [sweep.filename for sweep in recorded], read, found)
    )
    return merge_lidar_sweeps(moving, close_radius=close_radius, at_most=len(recorded))
