"""When each sensor of a scene measures: every sensor has a clock of its own."""

from dataclasses import dataclass
from hashlib import md5

import numpy as np

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.rig import CAMERA_LEAD, CHANNELS

# 1 August 2018, 15:16:36 in Boston: scenes follow one another every ten minutes.
_FIRST_SCENE_US, _BETWEEN_SCENES_US, _KEYFRAME_US = 1_533_150_996_000_000, 600_000_000, 500_000
_LIDAR_PER_KEYFRAME, _CAMERA_PER_KEYFRAME, _RADAR_PERIOD = 10, 6, 1.0 / 13.0


def token(config: WorldConfig, kind: str, *number: object) -> str:
    """A table row's token: the same for the same seed, kind and number."""
    return md5(":".join(map(str, ("bevel", config.seed, kind, *number))).encode(), usedforsecurity=False).hexdigest()


def scene_start_us(index: int) -> int:
    """The instant of the scene's time 0."""
    return _FIRST_SCENE_US + index * _BETWEEN_SCENES_US


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
    start = scene_start_us(index)
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
