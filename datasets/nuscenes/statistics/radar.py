"""What radar sweeps hold: how many returns, how strong, how far, how fast, in which states."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datasets.frames import RADAR_FIELDS
from datasets.nuscenes.statistics.figures import LOW_MIDDLE_HIGH, Figure, figure_of, percentages, quantiles

# What the devkit's RadarPointCloud keeps by default: every motion but "stopped" (7), no doubt about the Doppler,
# a valid return. The states themselves are those of its documentation of the format.
KEPT_STATES = {"dyn_prop": range(7), "ambig_state": (3,), "invalid_state": (0,)}
_DYNAMIC_STATES, _AMBIGUITY_STATES, _INVALID_STATES = range(8), range(5), range(18)
_MOVING = 1.0  # m/s

_Points = NDArray[np.float32]  # (R, 18): RADAR_FIELDS


def radar_figures(channel: str, sweeps: Iterable[Tensor]) -> list[Figure]:
    """The figures of one radar's sweeps (R, 18: RADAR_FIELDS): of all returns, and of those that the devkit keeps.

    Distances lie in the sensor's plane; speed is the length of (vx_comp, vy_comp).
    """
    section, clouds = f"{channel} (n: sweeps)", [points.numpy() for points in sweeps]
    every = np.concatenate([np.zeros((0, len(RADAR_FIELDS)), np.float32), *clouds])
    count = len(clouds) if len(every) else 0
    dynamic, ambiguity, invalid = (_column(every, name) for name in KEPT_STATES)
    return [
        *_returns(section, "all", clouds),
        *_returns(section, "filtered", [cloud[passes_filters(cloud)] for cloud in clouds]),
        figure_of(section, "dyn_prop 0 to 7 (% of all)", percentages(dynamic, _DYNAMIC_STATES), count),
        figure_of(section, "ambig_state 0 to 4 (% of all)", percentages(ambiguity, _AMBIGUITY_STATES), count),
        *(
            figure_of(section, f"invalid_state {state} (% of all)", percentages(invalid, (state,)), count)
            for state in _INVALID_STATES
        ),
    ]


def passes_filters(points: _Points) -> NDArray[np.bool_]:
    """Which returns (R) the devkit keeps by default."""
    kept = np.ones(len(points), bool)
    for name, states in KEPT_STATES.items():
        kept &= np.isin(_column(points, name), states)
    return kept


def _returns(section: str, which: str, clouds: list[_Points]) -> list[Figure]:
    points = np.concatenate([np.zeros((0, len(RADAR_FIELDS)), np.float32), *clouds])
    count = len(clouds) if len(points) else 0
    strengths, speeds = _column(points, "rcs"), np.hypot(_column(points, "vx_comp"), _column(points, "vy_comp"))
    distances = np.hypot(_column(points, "x"), _column(points, "y"))
    per_sweep = np.array([len(cloud) for cloud in clouds])

    def spread(name: str, values: NDArray[np.generic], behind: int = count) -> Figure:
        decibels = "dB" in name
        found = quantiles(values, LOW_MIDDLE_HIGH)
        return figure_of(section, f"{which}: {name}", found, behind, "decibels" if decibels else "ratio")

    return [
        spread("returns a sweep, 5, 50, 95 %", per_sweep, len(clouds)),
        spread("RCS, 5, 50, 95 % (dBsm)", strengths),
        spread("distance, 5, 50, 95 % (m)", distances),
        spread("compensated speed, 5, 50, 95 % (m/s)", speeds),
        figure_of(section, f"{which}: faster than {_MOVING:g} m/s (%)", percentages(speeds > _MOVING, (True,)), count),
    ]


def _column(points: _Points, name: str) -> _Points:
    return points[:, RADAR_FIELDS.index(name)]
