"""When each sensor of a scene measures: every sensor has a clock of its own."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import md5

import numpy as np

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.synthetic.conditions import ConditionName
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.rig import CAMERA_LEAD, CHANNELS

_BOSTON, _FIRST_DAY = timezone(timedelta(hours=-4)), datetime(2018, 8, 1)
_SCENES_PER_DAY = 30
# Of each condition: when a day's first scene can begin (hours, local time), and minutes from one scene to the next. The
# sun stands where the conditions have it: over 30 degrees by day, from 9 down to 3 degrees at dusk, which sunset ends.
_BEGINNINGS: dict[ConditionName, tuple[float, float]] = {
    "day": (9.75, 12.0),
    "rain": (9.75, 12.0),
    "fog": (9.75, 12.0),
    "dusk": (19.2, 1.0),
    "night": (21.25, 5.0),
}
_SUNSET_SHIFT = timedelta(minutes=-1.4)  # from one day of August to the next
_KEYFRAME_US = 500_000
_LIDAR_PER_KEYFRAME, _CAMERA_PER_KEYFRAME, _RADAR_PERIOD = 10, 6, 1.0 / 13.0


def token(config: WorldConfig, kind: str, *number: object) -> str:
    """A table row's token: the same for the same seed, kind and number."""
    return md5(":".join(map(str, ("bevel", config.seed, kind, *number))).encode(), usedforsecurity=False).hexdigest()


def scene_start_us(config: WorldConfig, index: int) -> int:
    """The instant of the scene's time 0."""
    return round(_local_start(config.condition(index), index).timestamp()) * 1_000_000


def log_name(config: WorldConfig, index: int) -> str:
    """The log of a scene, as nuScenes names logs: vehicle, local date and time, time zone."""
    return f"n008-{_local_start(config.condition(index), index):%Y-%m-%d-%H-%M-%S%z}"


def _local_start(condition: ConditionName, index: int) -> datetime:
    """When a scene begins: in August 2018 in Boston, at a time of day that has its light; no two at the same time."""
    day, place = divmod(index, _SCENES_PER_DAY)
    hours, minutes = _BEGINNINGS[condition]
    # The seconds differ too, so that scenes do not all begin on the minute.
    start = _FIRST_DAY + timedelta(days=day, hours=hours, minutes=minutes * place, seconds=index * 7 % 20)
    if condition == "dusk":
        start += day * _SUNSET_SHIFT
    return start.replace(tzinfo=_BOSTON)


@dataclass(frozen=True)
class Shot:
    """One measurement of one sensor. `keyframe` is the first keyframe at or after it."""

    channel: str
    number: int
    timestamp_us: int
    keyframe: int
    is_key_frame: bool


def shots_of(config: WorldConfig, index: int) -> dict[str, list[Shot]]:
    """All measurements of a scene by channel, oldest first: from each sensor's first keyframe to its last."""
    start = scene_start_us(config, index)
    result = {}
    for channel in CHANNELS:
        rng = np.random.default_rng([config.seed, index, 2, CHANNELS.index(channel)])
        times, keys = _times(config, channel, rng)
        shots = []
        for number, time in enumerate(times):
            keyframe = int(np.searchsorted(keys, number))
            shots.append(Shot(channel, number, start + round(time * 1e6), keyframe, number == keys[keyframe]))
        result[channel] = shots
    return result


def _times(config: WorldConfig, channel: str, rng: np.random.Generator) -> tuple[list[float], list[int]]:
    """A sensor's instants (seconds) and which of them are keyframes (indices)."""
    if channel == LIDAR_CHANNEL or channel in CAMERA_CHANNELS:
        per_keyframe = _LIDAR_PER_KEYFRAME
        if channel in CAMERA_CHANNELS:
            per_keyframe = _CAMERA_PER_KEYFRAME if config.camera_sweeps else 1
        count = (config.keyframes - 1) * per_keyframe + 1
        lead = CAMERA_LEAD.get(channel, 0.0)
        times = np.arange(count) * (_KEYFRAME_US * 1e-6 / per_keyframe) - lead + rng.uniform(-4e-4, 4e-4, count)
        return times.tolist(), list(range(0, count, per_keyframe))
    phase = float(rng.uniform(0.0, _RADAR_PERIOD))
    times = np.arange(phase - 2 * _RADAR_PERIOD, config.duration + 2 * _RADAR_PERIOD, _RADAR_PERIOD)
    times = times + rng.uniform(-2e-3, 2e-3, len(times))
    keys = [int(np.argmin(np.abs(times - 0.5 * k))) for k in range(config.keyframes)]
    return times[keys[0] : keys[-1] + 1].tolist(), [key - keys[0] for key in keys]
