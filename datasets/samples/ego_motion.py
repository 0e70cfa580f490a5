"""The recent motion of the vehicle as rows of numbers for the pose encoder."""

import math
from collections.abc import Sequence

import pymap3d
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from calibration.rig import EgoState, GpsFix
from calibration.transforms import Transform, invert, yaw_of
from datasets.samples.sample import EGO_MOTION_FIELDS


def ego_motion_rows(
    states: Sequence[EgoState], global_from_ego: Transform, rows: int
) -> tuple[Float32[Tensor, "T 11"], Bool[Tensor, "T"]]:
    """EGO_MOTION_FIELDS of the last `rows` states (oldest first) and which rows are there.

    Where fewer states are recorded the oldest rows are zeros and not valid. GPS positions are relative to the newest
    fix, so that no absolute place can be learnt by heart; a row without a fix, or a log whose newest state has none,
    has `gps_valid` 0.
    """
    values = torch.zeros(rows, len(EGO_MOTION_FIELDS))
    valid = torch.zeros(rows, dtype=torch.bool)
    kept = list(states)[-rows:]
    if not kept:
        return values, valid
    ego_from_global = invert(global_from_ego)
    now, origin = kept[-1].timestamp_us, kept[-1].gps
    yaw = float(yaw_of(global_from_ego))
    for row, state in enumerate(kept, start=rows - len(kept)):
        ego_from_past = ego_from_global @ state.global_from_ego
        past_yaw = float(yaw_of(ego_from_past))
        gps_x, gps_y, gps_valid = _gps_offset(state.gps, origin, yaw)
        values[row] = torch.tensor(
            [
                float(ego_from_past[0, 3]),
                float(ego_from_past[1, 3]),
                math.sin(past_yaw),
                math.cos(past_yaw),
                float(state.velocity[0]),
                state.yaw_rate,
                float(state.acceleration[0]),
                (now - state.timestamp_us) * 1e-6,
                gps_x,
                gps_y,
                gps_valid,
            ]
        )
        valid[row] = True
    return values, valid


def _gps_offset(fix: GpsFix | None, origin: GpsFix | None, yaw: float) -> tuple[float, float, float]:
    """The fix relative to `origin`, turned by the vehicle's heading: x, y in today's ego axes (metres), and 1 if known.

    nuScenes' maps are laid with x to the east and y to the north, so that a yaw in global is one in east-north too.
    """
    if fix is None or origin is None:
        return 0.0, 0.0, 0.0
    east, north, _ = pymap3d.geodetic2enu(
        fix.latitude, fix.longitude, fix.altitude, origin.latitude, origin.longitude, origin.altitude
    )
    cos, sin = math.cos(yaw), math.sin(yaw)
    return cos * float(east) + sin * float(north), -sin * float(east) + cos * float(north), 1.0
