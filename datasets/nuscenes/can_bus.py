"""What nuScenes records beside the tables, in `can_bus/`: vehicle motion, and our own extension for GPS fixes.

`<scene>_pose.json` is nuScenes' CAN bus expansion, 50 Hz, in ego axes: `vel` (m/s), `accel` (m/s^2, as an
accelerometer feels it: standing still it reads +9.81 upwards), `rotation_rate` (rad/s).
`<scene>_gps.json` is Bevel's: a list of {"utime": us, "latitude": deg, "longitude": deg, "altitude": m}, about 10 Hz.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.rig import GpsFix
from datasets.faults import InputRefused
from datasets.nuscenes.values import is_vector, read_json

# What is older than this says nothing about an instant. What came later is never looked at: a vehicle has no future.
_MAX_FIX_AGE_US = 150_000
_MAX_MESSAGE_AGE_US = 150_000


@dataclass(frozen=True)
class VehicleMotion:
    """Messages in ego axes, by rising time: velocity (K, 3) m/s, specific force (K, 3) m/s^2, yaw rate (K) rad/s."""

    timestamps_us: NDArray[np.int64]
    velocity: NDArray[np.float64]
    specific_force: NDArray[np.float64]
    yaw_rate: NDArray[np.float64]

    def at(self, timestamp_us: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
        """Velocity (3), specific force (3) and yaw rate of the newest message until then; None beyond 0.15 s."""
        newest = _newest(self.timestamps_us, timestamp_us, _MAX_MESSAGE_AGE_US)
        if newest is None:
            return None
        return self.velocity[newest], self.specific_force[newest], float(self.yaw_rate[newest])


@dataclass(frozen=True)
class GpsTrack:
    """GPS fixes by rising time."""

    timestamps_us: NDArray[np.int64]
    fixes: tuple[GpsFix, ...]

    def at(self, timestamp_us: int) -> GpsFix | None:
        """The newest fix until then, None where it is more than 0.15 s old."""
        newest = _newest(self.timestamps_us, timestamp_us, _MAX_FIX_AGE_US)
        return None if newest is None else self.fixes[newest]


def _newest(timestamps_us: NDArray[np.int64], instant_us: int, max_age_us: int) -> int | None:
    """The position of the newest time at or before the instant; None where there is none, or only one too old."""
    position = int(np.searchsorted(timestamps_us, instant_us, side="right")) - 1
    if position < 0 or instant_us - int(timestamps_us[position]) > max_age_us:
        return None
    return position


def read_vehicle_motion(root: Path, scene_name: str) -> VehicleMotion | None:
    """The scene's CAN bus poses, None where there are none. Raises InputRefused for a malformed file."""
    path = root / "can_bus" / f"{scene_name}_pose.json"
    fields = {"vel": 3, "accel": 3, "rotation_rate": 3}
    messages = _read_messages(path, fields)
    if messages is None:
        return None
    times, values = messages
    return VehicleMotion(times, values[:, 0:3], values[:, 3:6], values[:, 8])


def read_gps(root: Path, scene_name: str) -> GpsTrack | None:
    """The scene's GPS fixes, None where there are none. Raises InputRefused for a malformed file."""
    path = root / "can_bus" / f"{scene_name}_gps.json"
    messages = _read_messages(path, {"latitude": 1, "longitude": 1, "altitude": 1})
    if messages is None:
        return None
    times, values = messages
    out_of_range = np.flatnonzero((np.abs(values[:, 0]) > 90) | (np.abs(values[:, 1]) > 180))
    if out_of_range.size:
        raise InputRefused(
            f"{path}: message at utime {times[out_of_range[0]]}: expected latitude in -90..90 and longitude in "
            f"-180..180 degrees, found {values[out_of_range[0], :2].tolist()}."
        )
    return GpsTrack(times, tuple(GpsFix(*row) for row in values.tolist()))


def _read_messages(path: Path, fields: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Times (K) and the fields' values side by side (K, sum of lengths), by rising time, each time once."""
    if not path.exists():
        return None
    messages = read_json(path)
    if not isinstance(messages, list):
        raise InputRefused(f"{path}: expected a list of messages, found {type(messages).__name__}.")
    rows: dict[int, list[float]] = {}
    for position, message in enumerate(messages):
        utime = message.get("utime") if isinstance(message, dict) else None
        if type(utime) is not int or not 0 <= utime < 2**62:
            raise InputRefused(
                f"{path}: message number {position + 1}, field utime: expected a number of microseconds."
            )
        rows[utime] = [value for name, length in fields.items() for value in _numbers(path, message, name, length)]
    times = sorted(rows)
    width = sum(fields.values())
    return np.array(times, dtype=np.int64), np.array([rows[time] for time in times]).reshape(-1, width)


def _numbers(path: Path, message: dict[str, Any], name: str, length: int) -> list[float]:
    value = message.get(name)
    numbers: list[Any] = value if isinstance(value, list) else [value]
    if not is_vector(numbers, length):
        expected = "a finite number" if length == 1 else f"{length} finite numbers"
        raise InputRefused(
            f"{path}: message at utime {message['utime']}, field {name}: expected {expected}, found {value!r:.100}."
        )
    return [float(number) for number in numbers]
