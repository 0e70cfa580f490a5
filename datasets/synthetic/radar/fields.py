"""The 18 fields of a radar return: what the ARS 408-21 says about its detections, on the grids of its interface.

What the data sheet leaves open (which stationary returns are mere candidates, how the stated accuracies grow) follows
the RADAR_FRONT files of 81 real keyframes.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from datasets.arrays import Array
from datasets.frames import RADAR_FIELDS
from datasets.synthetic.arrays import on_grid
from datasets.synthetic.radar.echoes import Motion
from datasets.synthetic.radar.scans import (
    BEYOND_95,
    CHILD,
    ELEVATED,
    LOW_RCS,
    MULTI_TARGET,
    NO_MAXIMUM,
    NOT_CONFIRMED,
    OUTSIDE_VIEW,
    VALID,
    Detections,
)

# dyn_prop of the unit.
MOVING, STATIONARY, ONCOMING, CANDIDATE, UNKNOWN, CROSSING, STOPPED = 0, 1, 2, 3, 4, 6, 7
# ambig_state: how sure the unit is of the Doppler interval.
_INVALID, _AMBIGUOUS, _STAGGERED, _UNAMBIGUOUS = 0, 1, 2, 3
# Faster over ground than this (m/s) and a return counts as moving.
_MOVES = 0.65
# One Doppler interval (m/s), by which an ambiguous speed is now and then wrong.
_DOPPLER_INTERVAL = 61.0
# Grids: x, y and speeds, cross-section.
_PLACE_STEP, _SPEED_STEP, _RCS_STEP = 0.2, 0.25, 0.5
# Share of the candidates among stationary returns at these ranges (metres), for sure returns and for doubtful ones.
_RANGES = (5.0, 15.0, 25.0, 35.0, 50.0, 70.0, 90.0, 110.0)
_SURE = (0.02, 0.07, 0.09, 0.14, 0.24, 0.38, 0.52, 0.40)
_DOUBTFUL = (0.10, 0.17, 0.34, 0.44, 0.58, 0.66, 0.72, 0.85)
# The unit's turning is known to it this well (rad/s); below the dead band it counts as none.
_YAW_RATE_NOISE, _YAW_RATE_DEAD_BAND = 0.002, 0.008
_SPEED_NOISE = 0.05


def fields_of(
    detections: Detections,
    far: Bool[Array, "D"],
    stopped: Bool[Array, "D"],
    motion: Motion,
    compensation: Float64[Array, "2"],
    lever: float,
    rng: np.random.Generator,
) -> Float32[Array, "D 18"]:
    """The fields in the order of RADAR_FIELDS; `id` counts the rows.

    `far` says which detections are the far scan's, `stopped` which are of road users that stand in traffic.
    `compensation` is the radar's velocity over ground in its own axes (m/s) as whoever writes the file knows it,
    `lever` how far before the rear axle the radar sits (metres).
    """
    count, states = len(detections.ranges), detections.states
    column = {name: np.zeros(count) for name in RADAR_FIELDS}
    column["x"] = np.round(detections.ranges * np.cos(detections.azimuths) / _PLACE_STEP) * _PLACE_STEP
    # The lateral grid is offset by half a step: its zero is at -102.3 m.
    side = detections.ranges * np.sin(detections.azimuths)
    column["y"] = (np.round(side / _PLACE_STEP - 0.5) + 0.5) * _PLACE_STEP
    column["rcs"] = np.clip(np.round(detections.rcs / _RCS_STEP) * _RCS_STEP, -5.0, 63.5)
    moving, known = _dynamics(column, detections, stopped, motion, rng)
    doppler = _ambiguities(column, detections.doppler, moving, known, rng)
    _velocities(column, doppler, moving, known, motion.yaw_rate, lever, rng)
    _compensate(column, compensation)
    _accuracies(column, detections, known, rng)
    column["is_quality_valid"][:] = 1
    column["invalid_state"] = 1.0 * np.where(
        far & (states == VALID) & (detections.ranges < 50.0) & (rng.random(count) < 0.35), NOT_CONFIRMED, states
    )
    column["ambig_state"][column["invalid_state"] == NOT_CONFIRMED] = _INVALID
    _false_alarm_probability(column, rng)
    column["id"] = np.arange(count, dtype=np.float64)
    return np.stack([column[name] for name in RADAR_FIELDS], axis=1).astype(np.float32)


_Columns = dict[str, Float64[Array, "D"]]


def _dynamics(
    column: _Columns,
    detections: Detections,
    stopped: Bool[Array, "D"],
    motion: Motion,
    rng: np.random.Generator,
) -> tuple[Bool[Array, "D"], Bool[Array, "D"]]:
    """dyn_prop; returns what counts as moving, and what the unit gives a velocity at all."""
    azimuths, count = detections.azimuths, len(detections.ranges)
    own = motion.velocity + rng.normal(0.0, _SPEED_NOISE, 2)
    over_ground = detections.doppler + own[0] * np.cos(azimuths) + own[1] * np.sin(azimuths)
    moving = np.abs(over_ground) > _MOVES
    doubtful = np.isin(detections.states, (LOW_RCS, CHILD, MULTI_TARGET, BEYOND_95))
    candidates = np.where(
        doubtful, np.interp(detections.ranges, _RANGES, _DOUBTFUL), np.interp(detections.ranges, _RANGES, _SURE)
    )
    candidates = np.where(detections.states == NO_MAXIMUM, candidates + 0.08, candidates)
    chance = rng.random((2, count))
    still = np.where(chance[0] < candidates, CANDIDATE, STATIONARY)
    still = np.where(stopped & (chance[1] < 0.4), STOPPED, still)
    going = np.where(over_ground < 0.0, ONCOMING, MOVING)
    going = np.where(chance[1] < 0.005, CROSSING, going)
    known = detections.states != OUTSIDE_VIEW
    column["dyn_prop"] = np.where(known, np.where(moving, going, still), UNKNOWN)
    return moving & known, known


def _ambiguities(
    column: _Columns,
    doppler: Float64[Array, "D"],
    moving: Bool[Array, "D"],
    known: Bool[Array, "D"],
    rng: np.random.Generator,
) -> Float64[Array, "D"]:
    """ambig_state; returns the Doppler as reported: what moves is unsure now and then, and then sometimes wrong."""
    chance = rng.random((2, len(doppler)))
    state = np.where(moving & (chance[0] < 0.3), np.where(chance[0] < 0.03, _STAGGERED, _AMBIGUOUS), _UNAMBIGUOUS)
    state = np.where(~moving & (chance[0] < 0.002), _AMBIGUOUS, state)
    column["ambig_state"] = np.where(known, state, _INVALID)
    wrong = moving & (state != _UNAMBIGUOUS) & (chance[1] < 0.03)
    return np.where(wrong, doppler + _DOPPLER_INTERVAL, doppler)


def _velocities(
    column: _Columns,
    doppler: Float64[Array, "D"],
    moving: Bool[Array, "D"],
    known: Bool[Array, "D"],
    yaw_rate: float,
    lever: float,
    rng: np.random.Generator,
) -> None:
    """vx, vy: only their radial part is measured.

    For what stands the unit takes the lateral part from the car's yaw rate, for what moves it assumes none.
    """
    turning = yaw_rate + rng.normal(0.0, _YAW_RATE_NOISE)
    turning = turning if abs(turning) > _YAW_RATE_DEAD_BAND else 0.0
    ranges = np.hypot(column["x"], column["y"])
    cos, sin = column["x"] / np.maximum(ranges, 1e-6), column["y"] / np.maximum(ranges, 1e-6)
    lateral = np.where(moving, 0.0, -turning * (column["x"] + lever))
    ahead = (doppler - lateral * sin) / np.maximum(cos, 0.1)
    column["vx"] = np.where(known, np.clip(on_grid(ahead, _SPEED_STEP), -128.0, 127.75), 0.0)
    column["vy"] = np.where(known, np.clip(on_grid(lateral, _SPEED_STEP), -64.0, 63.75), 0.0)


def _compensate(column: _Columns, compensation: Float64[Array, "2"]) -> None:
    """vx_comp, vy_comp: the radial part of the reported velocity over ground, as nuScenes derives it."""
    ranges = np.maximum(np.hypot(column["x"], column["y"]), 1e-6)
    cos, sin = column["x"] / ranges, column["y"] / ranges
    radial = (column["vx"] + compensation[0]) * cos + (column["vy"] + compensation[1]) * sin
    column["vx_comp"], column["vy_comp"] = radial * cos, radial * sin


def _accuracies(column: _Columns, detections: Detections, known: Bool[Array, "D"], rng: np.random.Generator) -> None:
    """x_rms, y_rms, vx_rms, vy_rms: rows of the interface's table, each 1.288 times the one before, 19 is 0.616."""
    ranges, weak = detections.ranges, np.clip((10.0 - detections.rcs) / 15.0, 0.0, 1.0)
    spread = rng.normal(0.0, 1.0, (2, len(ranges)))
    hundreds = ranges / 100.0
    along = 17.95 + 0.2 * weak + weak * hundreds + 0.3 * hundreds**2 + 1.05 * spread[0]
    across = _rms_row(np.hypot(0.5, 0.0075 * ranges)) + 0.5 * weak * np.minimum(hundreds, 1.0) + 0.35 * spread[1]
    speed = _rms_row(0.252 / np.maximum(np.cos(detections.azimuths), 0.1))
    for name, row, lowest in (("x_rms", along, 19), ("y_rms", across, 19), ("vx_rms", speed, 16)):
        column[name] = np.where(known, np.clip(np.ceil(row), lowest, 31), 0)
    column["vy_rms"] = np.where(known, 3, 0)


def _rms_row(deviation: Float64[Array, "D"]) -> Float64[Array, "D"]:
    return np.asarray(19.0 + np.log(deviation / 0.616) / np.log(1.288))


def _false_alarm_probability(column: _Columns, rng: np.random.Generator) -> None:
    """pdh0: 1 below 25 %, 3 below 75 %, 6 below 99.9 %."""
    state = column["invalid_state"].astype(np.int64)
    chance = rng.random(len(state))
    doubtful = ~np.isin(state, (VALID, BEYOND_95, MULTI_TARGET))
    doubtful |= (state == MULTI_TARGET) & (chance < 0.08)
    doubtful |= (state == VALID) & (chance < 0.01)
    hopeless = np.isin(state, (OUTSIDE_VIEW, NOT_CONFIRMED, ELEVATED))
    column["pdh0"] = np.where(hopeless, 6, np.where(doubtful, 3, 1))


def stopped_owners(owners: Int64[Array, "D"], standing: Bool[Array, "U"]) -> Bool[Array, "D"]:
    """Which detections are of road users that stand in traffic; the background (-1) never does."""
    return np.asarray(np.append(standing, False)[owners])
