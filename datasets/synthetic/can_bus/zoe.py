"""What the Renault Zoe of nuScenes says on its CAN bus: steering, wheels, pedals, drive; grids and noise as real."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.arrays import on_grid
from datasets.synthetic.can_bus.ego_signals import EgoSignals

# Wheelbase and rear track of the Zoe (Renault's technical data), metres; turns of the steering wheel for one of the
# wheels.
WHEELBASE, TRACK, STEERING_RATIO = 2.588, 1.51, 16.4
# Turns a minute for one m/s, of the wheels at front left, front right, rear left, rear right: tyres differ.
RPM_PER_SPEED = {"FL": 31.58, "FR": 31.50, "RL": 31.48, "RR": 32.02}
_RPM_STEP, _RPM_NOISE = 0.0417, 0.45
_STEERING_STEP, _STEERING_NOISE, _STEERING_BIAS = np.radians(0.1), 0.0008, 0.004
# Torque (Nm) of the motor for one m/s^2 and at steady speed; it brakes no harder than this.
_TORQUE, _TORQUE_STEADY, _TORQUE_LEAST = 68.0, 6.0, -95.0
# Slowing by more than this (m/s^2) takes the brake pedal.
_COASTING = 0.8
_ODOMETER_TICKS = 107.0
_SIGNAL_TURN, _SIGNAL_AHEAD = 0.5, 3.0
# Columns of one kind of message, without their times.
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Pedals:
    """What driver and motor do at N times: `torque` in Nm, `accelerator` on the Zoe's own scale, `brake` in m/s^2."""

    torque: Float64[Array, "N"]
    accelerator: Float64[Array, "N"]
    brake: Float64[Array, "N"]


def pedals_of(signals: EgoSignals) -> Pedals:
    """What it takes to drive like this: coasting brakes with the motor, more with the brakes too."""
    torque = np.maximum(_TORQUE * signals.acceleration + _TORQUE_STEADY, _TORQUE_LEAST)
    torque = np.where((signals.speed < 0.05) & (signals.acceleration < 0.1), 0.0, torque)
    brake = np.where(signals.acceleration < -_COASTING, -signals.acceleration, 0.0)
    # Who stands keeps a foot on the brake.
    brake = np.where((signals.speed < 0.05) & (signals.acceleration < 0.1), 1.2, brake)
    accelerator = np.where(brake > 0.0, 0.0, np.maximum((torque + 26.0) / 0.3176, 0.0))
    return Pedals(torque, accelerator, brake)


def steering_wheel(signals: EgoSignals) -> Float64[Array, "N"]:
    """Angle of the steering wheel, radians, positive to the left: the front wheels follow the way's curvature."""
    return np.asarray(STEERING_RATIO * np.arctan(WHEELBASE * signals.curvature))


def wheel_speeds(signals: EgoSignals) -> dict[str, Float64[Array, "N"]]:
    """Speeds of the four wheels over ground, m/s: the outer ones of a curve are faster, the front ones also."""
    sideways = signals.yaw_rate * WHEELBASE
    left, right = (signals.speed + side * signals.yaw_rate * TRACK / 2 for side in (-1.0, 1.0))
    return {"FL": np.hypot(left, sideways), "FR": np.hypot(right, sideways), "RL": left, "RR": right}


def vehicle_messages(
    steering: EgoSignals, monitor: EgoSignals, vehicle: EgoSignals, sensors: EgoSignals, rng: np.random.Generator
) -> Iterator[tuple[str, Columns, EgoSignals]]:
    """Kind, columns and the signals at whose times they are said, for the four kinds of the vehicle itself."""
    bias = float(rng.normal(0.0, _STEERING_BIAS))
    yield "steeranglefeedback", {"value": _steering_feedback(steering, bias, rng).tolist()}, steering
    yield "vehicle_monitor", _monitor(monitor, bias, rng), monitor
    yield "zoe_veh_info", _vehicle(vehicle, bias, rng), vehicle
    yield "zoesensors", _sensors(sensors, rng), sensors


def _steering_feedback(signals: EgoSignals, bias: float, rng: np.random.Generator) -> Float64[Array, "N"]:
    noise = rng.normal(0.0, _STEERING_NOISE, len(signals.times))
    return on_grid(steering_wheel(signals) + bias + noise, _STEERING_STEP)


def _monitor(signals: EgoSignals, bias: float, rng: np.random.Generator) -> Columns:
    count, pedals, wheels = len(signals.times), pedals_of(signals), wheel_speeds(signals)
    angle = np.degrees(steering_wheel(signals) + bias) + 0.6
    turning = np.degrees(STEERING_RATIO * WHEELBASE * np.gradient(signals.curvature, signals.times))
    battery = int(rng.integers(35, 96))
    left, right = turn_signals(signals)
    return {
        "available_distance": [round(0.88 * battery)] * count,
        "battery_level": [battery] * count,
        "brake": np.round(6.5 * pedals.brake).astype(int).tolist(),
        "brake_switch": np.where(pedals.brake > 0.0, 4, 1).tolist(),
        "gear_position": [7] * count,
        "left_signal": left,
        "rear_left_rpm": _rpm(wheels, "RL", rng).tolist(),
        "rear_right_rpm": _rpm(wheels, "RR", rng).tolist(),
        "right_signal": right,
        "steering": on_grid(angle, 0.1).tolist(),
        "steering_speed": on_grid(turning, 2.0).tolist(),
        "throttle": np.round(pedals.accelerator).astype(int).tolist(),
        "vehicle_speed": on_grid(
            3.6 * signals.speed + rng.normal(0.0, 0.02, count) * (signals.speed > 0.1), 0.01
        ).tolist(),
        "yaw_rate": on_grid(np.degrees(signals.yaw_rate) - 0.2 + rng.normal(0.0, 0.05, count), 0.1).tolist(),
    }


def turn_signals(signals: EgoSignals) -> tuple[list[int], list[int]]:
    """Left and right indicator, 0 or 1: on from some seconds before a real turn until it is done."""
    ahead = np.interp(signals.times + _SIGNAL_AHEAD, signals.times, signals.yaw) - signals.yaw
    return (ahead > _SIGNAL_TURN).astype(int).tolist(), (ahead < -_SIGNAL_TURN).astype(int).tolist()


def _vehicle(signals: EgoSignals, bias: float, rng: np.random.Generator) -> Columns:
    count, pedals, wheels = len(signals.times), pedals_of(signals), wheel_speeds(signals)
    offset = -12.3
    raw = on_grid(np.degrees(steering_wheel(signals) + bias) - 11.7, 0.1)
    sideways = 0.112 * signals.speed * signals.yaw_rate - 0.48
    gone = np.concatenate([[0.0], np.cumsum(np.diff(signals.times) * 0.5 * (signals.speed[1:] + signals.speed[:-1]))])
    sun = float(rng.choice([0.0, 50.0, 100.0]))
    columns: Columns = {f"{wheel}_wheel_speed": _rpm(wheels, wheel, rng).tolist() for wheel in wheels}
    return columns | {
        "left_solar": [int(rng.choice([-112, 0]))] * count,
        "longitudinal_accel": on_grid(signals.acceleration - 0.1 + rng.normal(0.0, 0.06, count), 0.05).tolist(),
        "meanEffTorque": on_grid(pedals.torque + rng.normal(0.0, 0.3, count), 0.5).tolist(),
        # A counter of 32 steps.
        "odom": (4 * (np.floor(_ODOMETER_TICKS / 4 * (gone + rng.uniform(0.0, 3.0))) % 32)).astype(int).tolist(),
        "odom_speed": np.floor(3.6 * signals.speed).tolist(),
        "pedal_cc": np.round(pedals.accelerator).tolist(),
        "regen": np.round(np.clip(-2.0 * pedals.torque, 0.0, 59.0)).tolist(),
        "requestedTorqueAfterProc": np.where(
            pedals.accelerator > 30.0, on_grid(0.24 * pedals.accelerator - 391.0, 0.5), -284.5
        ).tolist(),
        "right_solar": [int(sun)] * count,
        "steer_corrected": (raw + 11.704).tolist(),
        "steer_offset_can": [offset] * count,
        "steer_raw": raw.tolist(),
        "transversal_accel": on_grid(sideways + rng.normal(0.0, 0.006, count), 0.004).tolist(),
    }


def _sensors(signals: EgoSignals, rng: np.random.Generator) -> Columns:
    """Voltages of the pedals and of the torsion of the steering column, on the sensors' own scales."""
    count, pedals = len(signals.times), pedals_of(signals)
    pressed = np.where(pedals.brake > 0.0, 0.268 + 0.061 * pedals.brake, 0.1848)
    throttle = np.where(pedals.accelerator > 30.0, 0.1473 + 0.00052 * pedals.accelerator, 0.1248)
    torsion = 0.1890 + 0.0002 * np.gradient(steering_wheel(signals), signals.times)
    noise = rng.normal(0.0, 1.0, (3, count)) * np.array([[0.00012], [0.0004], [0.00023]])
    return {
        "brake_sensor": (pressed + noise[0]).tolist(),
        "steering_sensor": (torsion + noise[1]).tolist(),
        "throttle_sensor": (throttle + noise[2]).tolist(),
    }


def _rpm(wheels: dict[str, Float64[Array, "N"]], wheel: str, rng: np.random.Generator) -> Float64[Array, "N"]:
    speed = wheels[wheel]
    noise = rng.normal(0.0, _RPM_NOISE, len(speed)) * (speed > 0.1)
    return on_grid(np.maximum(RPM_PER_SPEED[wheel] * speed + noise, 0.0), _RPM_STEP)
