"""The files of nuScenes' CAN bus expansion for a scene: keys, units, rates, grids and noise as in its real ones.

Constants were fitted to the files of a real scene (scene-0103; a Renault Zoe), unless a comment says where they are
from. They also carry its habits: the orientation of `pose` is yaw alone, its rotation rates are the latest ones of the
IMU, the IMU's quaternion is turned by 90 degrees against it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from datasets.arrays import Array
from datasets.synthetic.can_bus.ego_signals import EgoSignals, signals_of
from datasets.synthetic.can_bus.zoe import vehicle_messages
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import scene_start_us
from datasets.synthetic.world import World

Message = dict[str, Any]

# Messages begin so long before the first keyframe and end as long after the last, seconds.
_MARGIN = 0.5
# Messages a second, and how far their times stray from an even rhythm, seconds.
_IMU_RATE, _IMU_JITTER = 99.7, 0.0030
_POSE_RATE, _POSE_JITTER = 50.0, 0.0004
_STEERING_RATE, _STEERING_JITTER = 97.8, 0.0010
_MONITOR_RATE, _MONITOR_JITTER = 2.0, 0.0003
_VEHICLE_RATE, _VEHICLE_JITTER = 99.5, 0.0020
_SENSOR_RATE, _SENSOR_JITTER = 960.0, 0.0004
# The IMU by axis: scale of the noise of a message (Student's t, 3 degrees of freedom: shocks from the road make its
# tails heavy) and the spread of the bias from drive to drive.
_FORCE_NOISE, _FORCE_BIAS = (0.058, 0.050, 0.14), (0.05, 0.05, 0.02)
_RATE_NOISE, _RATE_BIAS = (0.0013, 0.0045, 0.0006), (0.0007, 0.0010, 0.0002)
# Messages over which the pose's acceleration is a mean of the IMU's.
_FORCE_WINDOW = 13
_SPEED_NOISE = 0.002
# Yaw of the IMU's quaternion against the pose, radians: a quarter turn, an offset, and its drift in a second.
_IMU_YAW, _IMU_YAW_SPREAD, _IMU_YAW_DRIFT, _IMU_TILT_SPREAD = -np.pi / 2, 0.004, 0.0003, 0.008
# The route: a polyline with a point each so many metres, that goes on before and after the drive, beside its lane.
_ROUTE_STEP, _ROUTE_BEYOND, _ROUTE_ASIDE = 0.2, 50.0, 0.5


def can_bus_files(config: WorldConfig, index: int, world: World) -> dict[str, Message | list[Any]]:
    """The content of `can_bus/<scene>_<kind>.json` by kind; `meta` sums up the other messages."""
    rng = np.random.default_rng([config.seed, index, 3])
    start = scene_start_us(config, index)
    imu, imu_signals = _imu(start, world, config, rng)
    messages: dict[str, list[Message]] = {
        "ms_imu": imu,
        "pose": _pose(start, world, config, imu, rng),
    }
    steering = signals_of(world.drive, _clock(config, _STEERING_RATE, _STEERING_JITTER, rng))
    vehicle = signals_of(world.drive, _clock(config, _VEHICLE_RATE, _VEHICLE_JITTER, rng))
    monitor = signals_of(world.drive, _clock(config, _MONITOR_RATE, _MONITOR_JITTER, rng))
    sensors = signals_of(world.drive, _clock(config, _SENSOR_RATE, _SENSOR_JITTER, rng))
    for kind, columns, signals in vehicle_messages(steering, monitor, vehicle, sensors, rng):
        messages[kind] = _rows(columns, _utimes(start, signals.times))
    return {**messages, "meta": meta_of(messages), "route": _route(imu_signals, world, rng)}


def _clock(config: WorldConfig, rate: float, jitter: float, rng: np.random.Generator) -> Float64[Array, "N"]:
    count = int((config.duration + 2 * _MARGIN) * rate)
    times = -_MARGIN + (np.arange(count) + rng.random()) / rate + rng.normal(0.0, jitter, count)
    return np.sort(times)


def _utimes(start: int, times: Float64[Array, "N"]) -> Int64[Array, "N"]:
    """Whole microseconds, each later than the one before."""
    utimes = start + np.round(times * 1e6).astype(np.int64)
    steps = np.arange(len(utimes))
    return np.asarray(np.maximum.accumulate(utimes - steps) + steps)


def _rows(columns: dict[str, list[Any]], utimes: Int64[Array, "N"]) -> list[Message]:
    """One message for each time, its keys in alphabetical order as in the real files."""
    columns = {**columns, "utime": utimes.tolist()}
    names = sorted(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*(columns[n] for n in names), strict=True)]


def _imu(start: int, world: World, config: WorldConfig, rng: np.random.Generator) -> tuple[list[Message], EgoSignals]:
    signals = signals_of(world.drive, _clock(config, _IMU_RATE, _IMU_JITTER, rng))
    count = len(signals.times)
    force = signals.specific_force + rng.normal(0.0, _FORCE_BIAS) + _FORCE_NOISE * rng.standard_t(3, (count, 3))
    rate = signals.rotation_rate + rng.normal(0.0, _RATE_BIAS) + _RATE_NOISE * rng.standard_t(3, (count, 3))
    turned = _IMU_YAW + rng.normal(0.0, _IMU_YAW_SPREAD) + rng.normal(0.0, _IMU_YAW_DRIFT) * signals.times
    tilt = rng.normal(0.0, _IMU_TILT_SPREAD, 2)
    quaternions = _quaternions(signals.yaw + turned, signals.pitch + tilt[0], signals.roll + tilt[1])
    columns = {"linear_accel": force.tolist(), "q": quaternions.tolist(), "rotation_rate": rate.tolist()}
    return _rows(columns, _utimes(start, signals.times)), signals


def _quaternions(
    yaw: Float64[Array, "N"], pitch: Float64[Array, "N"], roll: Float64[Array, "N"]
) -> Float64[Array, "N 4"]:
    """(w, x, y, z) of yaw, then pitch (positive nose up: about -y), then roll."""
    (sy, cy), (sp, cp), (sr, cr) = ((np.sin(a / 2), np.cos(a / 2)) for a in (yaw, -pitch, roll))
    return np.column_stack(
        [
            cy * cp * cr + sy * sp * sr,
            cy * cp * sr - sy * sp * cr,
            cy * sp * cr + sy * cp * sr,
            sy * cp * cr - cy * sp * sr,
        ]
    )


def _pose(start: int, world: World, config: WorldConfig, imu: list[Message], rng: np.random.Generator) -> list[Message]:
    signals = signals_of(world.drive, _clock(config, _POSE_RATE, _POSE_JITTER, rng))
    utimes, count = _utimes(start, signals.times), len(signals.times)
    newest = np.searchsorted([message["utime"] for message in imu], utimes, side="right") - 1
    newest = np.maximum(newest, 0)
    force = np.array([message["linear_accel"] for message in imu])
    window = np.minimum(_FORCE_WINDOW, newest + 1)
    summed = np.vstack([np.zeros(3), np.cumsum(force, axis=0)])
    smooth = (summed[newest + 1] - summed[newest + 1 - window]) / window[:, None]
    nothing = np.zeros(count)
    places = signals.places + world.global_offset[:2]
    speeds = np.maximum(signals.speed + rng.normal(0.0, _SPEED_NOISE, count), 0.0)
    columns: dict[str, list[Any]] = {
        "accel": smooth.tolist(),
        "orientation": _quaternions(signals.yaw, nothing, nothing).tolist(),
        "pos": np.column_stack([places, nothing]).tolist(),
        "rotation_rate": [imu[i]["rotation_rate"] for i in newest],
        "vel": np.column_stack([speeds, nothing, nothing]).tolist(),
    }
    return _rows(columns, utimes)


# How `meta` calls the kinds.
_META_NAMES = {
    "ms_imu": "MS_IMU",
    "pose": "POSE",
    "steeranglefeedback": "SteerAngleFeedback",
    "vehicle_monitor": "VEHICLE_MONITOR",
    "zoe_veh_info": "ZOE_VEH_INFO",
    "zoesensors": "ZoeSensors",
}


def meta_of(messages: dict[str, list[Message]]) -> Message:
    """Statistics of each kind's fields. As in the real files the differences of vectors are those of their entries."""
    meta: Message = {}
    for kind, name in _META_NAMES.items():
        rows = messages[kind]
        timespan = (rows[-1]["utime"] - rows[0]["utime"]) * 1e-6
        statistics = {}
        for key in rows[0]:
            values = np.array([row[key] for row in rows])
            steps = np.diff(values)
            kept = values.dtype.type
            statistics[key] = {
                "max": kept(values.max()).item(),
                "max_diff": float(steps.max()),
                "mean": float(values.mean()),
                "mean_diff": float(steps.mean()),
                "min": kept(values.min()).item(),
                "min_diff": float(steps.min()),
                "std": float(values.std()),
                "std_diff": float(steps.std()),
            }
        meta[name] = {
            "message_count": len(rows),
            "message_freq": len(rows) / timespan,
            "timespan": timespan,
            "var_stats": statistics,
        }
    return meta


def _route(signals: EgoSignals, world: World, rng: np.random.Generator) -> list[list[float]]:
    """The planned way: the driven one with straight ends, in global, off the pose by what maps are off by."""
    ends = []
    for i, sign in ((0, -1.0), (-1, 1.0)):
        heading = np.array([np.cos(signals.yaw[i]), np.sin(signals.yaw[i])])
        ends.append(signals.places[i] + sign * _ROUTE_BEYOND * heading)
    corners = np.vstack([ends[0], signals.places, ends[1]])
    gone = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    even = np.arange(0.0, gone[-1], _ROUTE_STEP)
    points = np.column_stack([np.interp(even, gone, corners[:, i]) for i in range(2)])
    aside = rng.normal(0.0, _ROUTE_ASIDE, 2)
    return [[float(x), float(y)] for x, y in points + aside + world.global_offset[:2]]
