"""How fast each sensor's clock ticks, how evenly, and how far its keyframes lie from their samples."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.faults import InputRefused
from datasets.nuscenes.index.records import NuScenesIndex
from datasets.nuscenes.reader import CHANNELS
from datasets.nuscenes.statistics.figures import LOW_MIDDLE_HIGH, Figure, figure_of, quantiles
from datasets.nuscenes.values import read_json

_RATES, _OFFSETS, _CAN_BUS = "Clocks (n: intervals)", "Keyframes beside their sample (n: keyframes)", "CAN bus"
# The messages of the CAN bus expansion that come regularly, and Bevel's GPS fixes.
_MESSAGES = ("pose", "gps", "ms_imu", "steeranglefeedback", "vehicle_monitor", "zoe_veh_info", "zoesensors")


def clock_figures(indices: Iterable[NuScenesIndex]) -> list[Figure]:
    """Rates from consecutive records, whether their files are there or not.

    A channel of which only keyframes are recorded tells nothing about its sensor's clock and has no rate.
    """
    intervals: defaultdict[str, list[int]] = defaultdict(list)
    offsets: defaultdict[str, list[int]] = defaultdict(list)
    for index in indices:
        for scene in index.scenes():
            data = scene.sample_data
            from_sample = data.timestamp - scene.samples.timestamp[data.sample]
            to_next = data.timestamp[data.next] - data.timestamp
            ticks = (data.next >= 0) & ~(data.is_key_frame & data.is_key_frame[data.next])
            for number, channel in enumerate(index.channels):
                of_channel = data.channel == number
                offsets[channel] += from_sample[of_channel & data.is_key_frame].tolist()
                intervals[channel] += to_next[of_channel & ticks].tolist()
    figures = [_rate(_RATES, channel, np.array(intervals[channel], np.int64)) for channel in CHANNELS]
    for channel in CHANNELS:
        found = quantiles(np.array(offsets[channel], np.int64) * 1e-3, LOW_MIDDLE_HIGH)
        figures.append(figure_of(_OFFSETS, f"{channel}, 5, 50, 95 % (ms)", found, len(offsets[channel]), "none"))
    return figures


def can_bus_figures(roots: Iterable[Path]) -> list[Figure]:
    """The rates of the messages in `can_bus/`. Raises InputRefused for a file that is no list of messages."""
    intervals: dict[str, list[NDArray[np.int64]]] = {kind: [np.zeros(0, np.int64)] for kind in _MESSAGES}
    for root in roots:
        for path in sorted((root / "can_bus").glob("scene-*_*.json")):
            kind = path.stem.split("_", 1)[1]
            if kind in intervals:
                intervals[kind].append(np.diff(np.sort(_times(path))))
    return [_rate(f"{_CAN_BUS} (n: intervals)", kind, np.concatenate(found)) for kind, found in intervals.items()]


def _times(path: Path) -> NDArray[np.int64]:
    messages = read_json(path)
    times = [message.get("utime") if isinstance(message, dict) else None for message in _listed(messages)]
    if not isinstance(messages, list) or not all(type(time) is int and 0 <= time < 2**62 for time in times):
        raise InputRefused(f"{path}: expected a list of messages, each with a utime in microseconds.")
    return np.array(times, np.int64)


def _listed(messages: object) -> Sequence[object]:
    return messages if isinstance(messages, list) else ()


def _rate(section: str, name: str, intervals_us: NDArray[np.int64]) -> Figure:
    """The median rate (Hz), and half the way from the 5 % to the 95 % interval (ms)."""
    low, middle, high = quantiles(intervals_us * 1e-3, LOW_MIDDLE_HIGH) or (0.0, 0.0, 0.0)
    count = len(intervals_us) if middle > 0 else 0
    rate = 1e3 / middle if count else 0.0
    return figure_of(section, f"{name}: rate (Hz), spread (± ms)", (rate, (high - low) / 2), count)
