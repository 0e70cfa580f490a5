"""Sweeps of a LiDAR or of radars in one frame at one instant: close points out, the rest moved, in a single pass.

The arithmetic is float64, only the result is float32: poses in global lie kilometres from the origin.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from torch import Tensor

from calibration.transforms import Transform
from datasets.compiled import compiled, compiled_in_lanes
from datasets.frames import LIDAR_FIELDS, RADAR_FIELDS, LogFrame, MergedSweeps, PointSweep

# Columns of moved radar returns. Positions and velocities in the target frame, everything else as the radar gave it.
RADAR_RETURN_FIELDS: tuple[str, ...] = (*RADAR_FIELDS, "age")

_VELOCITIES = (RADAR_FIELDS.index("vx"), RADAR_FIELDS.index("vx_comp"))


@dataclass(frozen=True)
class RadarFilter:
    """Which radar returns are kept, by three of their states; None keeps all. What the states mean: nuScenes' devkit,
    `RadarPointCloud.from_file`.
    """

    invalid_states: tuple[int, ...] | None = None
    dyn_props: tuple[int, ...] | None = None
    ambig_states: tuple[int, ...] | None = None

    def kept(self, returns: Float32[Tensor, "R C"]) -> Bool[Tensor, "R"]:
        """Which returns (RADAR_FIELDS, or those and more columns behind them) stay."""
        kept = torch.ones(len(returns), dtype=torch.bool)
        for name, states in (
            ("invalid_state", self.invalid_states),
            ("dyn_prop", self.dyn_props),
            ("ambig_state", self.ambig_states),
        ):
            if states is not None:
                kept &= torch.isin(returns[:, RADAR_FIELDS.index(name)], torch.tensor(states, dtype=returns.dtype))
        return kept


# What nuscenes-devkit filters unless its class is told otherwise.
DEVKIT_RADAR_FILTER = RadarFilter(invalid_states=(0,), dyn_props=tuple(range(7)), ambig_states=(3,))
# What CRN (Kim et al. 2023) keeps: more than the devkit, without the certain clutter.
CRN_RADAR_FILTER = RadarFilter(invalid_states=(0, 4, 8, 9, 10, 11, 12, 15, 16, 17), ambig_states=(3,))
NO_RADAR_FILTER = RadarFilter()
RadarFilterName = Literal["crn", "devkit", "none"]
RADAR_FILTERS: Mapping[RadarFilterName, RadarFilter] = {
    "crn": CRN_RADAR_FILTER,
    "devkit": DEVKIT_RADAR_FILTER,
    "none": NO_RADAR_FILTER,
}


@dataclass(frozen=True)
class MovingSweep:
    """A sweep (points in its sensor's frame), where its sensor was, and how long ago (seconds before the instant)."""

    points: Float32[Tensor, "P C"]
    target_from_sensor: Transform
    age: float


def moving_sweeps(frame: LogFrame, channel: str, sweeps: Sequence[PointSweep]) -> list[MovingSweep]:
    """Sweeps of a channel on their way into the ego frame at the frame's instant, by the vehicle's own motion."""
    if not sweeps:
        return []
    poses, ego_from_sensor = [sweep.global_from_ego for sweep in sweeps], frame.rig.ego_from_sensor[channel]
    return [
        MovingSweep(sweep.points, target_from_sensor, seconds_between(sweep.timestamp_us, frame.timestamp_us))
        for sweep, target_from_sensor in zip(sweeps, moves(frame.global_from_ego, poses, ego_from_sensor), strict=True)
    ]


def moves(
    global_from_target: Transform, global_from_ego: Sequence[Transform], ego_from_sensor: Transform
) -> tuple[Transform, ...]:
    """target_from_sensor at each ego pose, of which there is one at least. (All at once: by itself each takes longer
    than half of the moving.)
    """
    poses = torch.stack(list(global_from_ego))
    targets = torch.empty_like(poses)
    _write_targets(global_from_target.numpy(), poses.numpy(), ego_from_sensor.numpy(), targets.numpy())
    return targets.unbind()


def seconds_between(timestamp_us: int, later_us: int) -> float:
    """How old what was measured at a time is at a later one."""
    return (later_us - timestamp_us) * 1e-6


def merge_lidar_sweeps(sweeps: Iterable[MovingSweep], *, close_radius: float, at_most: int) -> MergedSweeps:
    """The points of `at_most` sweeps or fewer, moved into the target frame, one sweep after another.

    Points nearer to their sensor than `close_radius` in both x and y (metres) are left out: the devkit's rule
    (`PointCloud.remove_close`), a square around the sensor. Each sweep is moved before the next is asked for, which
    may lie in the same memory.
    """
    merged = np.empty((0, len(LIDAR_FIELDS)), np.float32)
    sizes: list[int] = []
    count = 0
    for sweep in sweeps:
        points, matrix = sweep.points.numpy(), sweep.target_from_sensor.numpy()
        if count + len(points) > len(merged):
            # Room for this one and those to come, which have about as many points.
            to_come = max(at_most - len(sizes), 1) * len(points)
            larger = np.empty((count + to_come, len(LIDAR_FIELDS)), np.float32)
            larger[:count] = merged[:count]
            merged = larger
        before = count
        count = _move_lidar(points, matrix, np.float32(close_radius), np.float32(sweep.age), merged, count)
        sizes.append(count - before)
    # Rows left over stay in memory for as long as the points do. A quarter is usual, points on the vehicle; of sweeps
    # that never came there may be more.
    used = merged[:count] if 2 * count >= len(merged) else merged[:count].copy()
    return MergedSweeps(torch.from_numpy(used), tuple(sizes), close_radius)


def merge_radar_sweeps(
    sweeps: Sequence[MovingSweep], *, kept: RadarFilter, move_by_velocity: bool
) -> Float32[Tensor, "R 19"]:
    """The returns of all sweeps (RADAR_RETURN_FIELDS), one sweep after another, those that `kept` leaves.

    Velocities, measured and compensated, are turned into the target's axes. With `move_by_velocity` a return is
    moreover moved by its compensated velocity times its age, to where the thing is at the instant (CRN and BEVFusion's
    radar configuration do so: a radar measures how fast the thing was, a LiDAR does not).
    """
    returns = torch.cat([torch.zeros(0, len(RADAR_FIELDS)), *(sweep.points for sweep in sweeps)])
    sweep_of_return = np.repeat(np.arange(len(sweeps)), [len(sweep.points) for sweep in sweeps])
    stays = kept.kept(returns).numpy()
    matrices = np.stack([np.eye(4), *(sweep.target_from_sensor.numpy() for sweep in sweeps)])[1:]
    ages = np.array([sweep.age for sweep in sweeps], np.float64)
    moved = np.empty((int(stays.sum()), len(RADAR_RETURN_FIELDS)), np.float32)
    _move_radar(returns.numpy()[stays], sweep_of_return[stays], matrices, ages, _VELOCITIES, move_by_velocity, moved)
    return torch.from_numpy(moved)


@compiled
def _write_targets(
    global_from_target: NDArray[np.float64],
    global_from_ego: NDArray[np.float64],
    ego_from_sensor: NDArray[np.float64],
    target_from_sensor: NDArray[np.float64],
) -> None:
    """Write target_from_sensor of each ego pose (S, 4, 4). Compiled: torch's calls take as long as reading a sweep."""
    target_from_global = np.eye(4)
    for row in range(3):
        for column in range(3):
            target_from_global[row, column] = global_from_target[column, row]
            target_from_global[row, 3] -= global_from_target[column, row] * global_from_target[column, 3]
    for sweep in range(global_from_ego.shape[0]):
        target_from_ego = _product(target_from_global, global_from_ego[sweep])
        target_from_sensor[sweep] = _product(target_from_ego, ego_from_sensor)


@compiled
def _product(a_from_b: NDArray[np.float64], b_from_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """a_from_c, 4x4, summed in the order that torch sums small batches in."""
    a_from_c = np.zeros((4, 4))
    for row in range(4):
        for column in range(4):
            for between in range(4):
                a_from_c[row, column] += a_from_b[row, between] * b_from_c[between, column]
    return a_from_c


@compiled_in_lanes
def _move_lidar(
    points: NDArray[np.float32],
    target_from_sensor: NDArray[np.float64],
    close_radius: np.float32,
    age: np.float32,
    merged: NDArray[np.float32],
    count: int,
) -> int:
    """Write what stays of one sweep behind the first `count` rows of `merged`; the new number of rows."""
    scale = np.float32(255.0)
    # Numbers of their own: those of an array are fetched again after each write, which might have changed them.
    m = target_from_sensor
    xx, xy, xz, x0 = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    yx, yy, yz, y0 = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    zx, zy, zz, z0 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
    for row in range(points.shape[0]):
        # All in float64 and all before the first is written: so the compiler finds what can be done side by side.
        x, y, z = np.float64(points[row, 0]), np.float64(points[row, 1]), np.float64(points[row, 2])
        moved_x = xx * x + xy * y + xz * z + x0
        moved_y = yx * x + yy * y + yz * z + y0
        moved_z = zx * x + zy * y + zz * z + z0
        intensity = points[row, 3] / scale
        # Each point is written, the next one over it where it is too close: no branch to be foreseen wrongly.
        merged[count, 0] = moved_x
        merged[count, 1] = moved_y
        merged[count, 2] = moved_z
        merged[count, 3] = intensity
        merged[count, 4] = age
        count += not ((abs(x) < close_radius) & (abs(y) < close_radius))
    return count


@compiled
def _move_radar(
    returns: NDArray[np.float32],
    sweep_of_return: NDArray[np.int64],
    matrices: NDArray[np.float64],
    ages: NDArray[np.float64],
    velocities: tuple[int, int],
    move_by_velocity: bool,
    moved: NDArray[np.float32],
) -> None:
    """Write each return (RADAR_FIELDS) as it is in the target (RADAR_RETURN_FIELDS). `velocities`: the columns of vx
    and vx_comp; those of the other component stand behind them.
    """
    compensated = velocities[1]
    for row in range(returns.shape[0]):
        m, age = matrices[sweep_of_return[row]], ages[sweep_of_return[row]]
        x, y, z = returns[row, 0], returns[row, 1], returns[row, 2]
        moved[row, 3:18] = returns[row, 3:]
        for column in velocities:
            vx, vy = returns[row, column], returns[row, column + 1]
            moved[row, column] = m[0, 0] * vx + m[0, 1] * vy
            moved[row, column + 1] = m[1, 0] * vx + m[1, 1] * vy
        seconds = age if move_by_velocity else 0.0
        vx, vy = returns[row, compensated], returns[row, compensated + 1]
        moved[row, 0] = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] + (m[0, 0] * vx + m[0, 1] * vy) * seconds
        moved[row, 1] = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] + (m[1, 0] * vx + m[1, 1] * vy) * seconds
        moved[row, 2] = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        moved[row, 18] = age
