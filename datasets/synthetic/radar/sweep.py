"""One sweep of a radar unit: echoes of the world, the near and the far scan, and the returns that are reported."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from datasets.arrays import Array
from datasets.synthetic.radar.echoes import Echoes, Motion, echoes_of, joined
from datasets.synthetic.radar.fields import fields_of, stopped_owners
from datasets.synthetic.radar.reflectors import ReflectorMap
from datasets.synthetic.radar.scans import Detections, detect
from datasets.synthetic.radar.shadows import Scenery
from datasets.synthetic.radar.unit import FAR, LOWEST_RCS, MAX_AZIMUTH, NEAR
from datasets.synthetic.rays import BACKGROUND
from datasets.synthetic.world import World

# The unit sends at most so many returns, those of the near scan first.
_MAX_RETURNS = 125
# False alarms of a sweep on average, and how many more for each mm/h of rain close by.
_FALSE_ALARMS, _RAIN_ALARMS, _RAIN_REACH = 1.5, 0.08, 25.0
# nuScenes compensates with the car's speed of about this many seconds later: in its files what stands seems to move
# by a tenth of the car's acceleration.
_COMPENSATION_LAG, _COMPENSATION_NOISE = 0.1, 0.04


@dataclass(frozen=True)
class Belief:
    """When (seconds since the scene's start) and from where in ego the recorder takes a radar to have measured."""

    time: float
    ego_from_radar: Float64[Array, "4 4"]


def sweep(
    reflectors: ReflectorMap,
    world: World,
    time: float,
    ego_from_radar: Float64[Array, "4 4"],
    rng: np.random.Generator,
    *,
    believed: Belief | None = None,
) -> Float32[Array, "R 18"]:
    """Returns with the 18 RADAR_FIELDS: those of the near scan by rising range, then those of the far scan.

    Places and velocities are in the radar's frame (metres, m/s). The radar measures at `time` (seconds since the
    scene's start) from where it truly hangs, `ego_from_radar`; it takes off its own motion by what it is `believed` to
    be, where that is something else. There is always at least one return.
    """
    believed = Belief(time, ego_from_radar) if believed is None else believed
    world_from_radar = world.drive.world_from_ego(time) @ ego_from_radar
    motion, rain_rate = motion_of(world, time, ego_from_radar), world.conditions.rain_rate
    scenery = Scenery(reflectors.still, reflectors.obstacles(time), reflectors.through_loss, rain_rate)
    found = echoes_of(reflectors.at(time, world_from_radar[:3, 3]), scenery, world_from_radar, motion, rng)
    echoes = joined([found, _false_alarms(rain_rate, motion, rng)])
    near, far = detect(echoes, NEAR, rng), detect(echoes, FAR, rng)
    reported = _first(near, far, _MAX_RETURNS)
    is_far = np.arange(len(reported.ranges)) >= len(near.ranges)
    told = motion_of(world, believed.time, believed.ego_from_radar)
    compensation = motion_of(world, believed.time + _COMPENSATION_LAG, believed.ego_from_radar).velocity
    compensation = compensation + rng.normal(0.0, _COMPENSATION_NOISE, 2)
    stopped = stopped_owners(reported.owners, reflectors.standing(time))
    return fields_of(reported, is_far, stopped, told, compensation, float(believed.ego_from_radar[0, 3]), rng)


def motion_of(world: World, time: float, ego_from_radar: Float64[Array, "4 4"]) -> Motion:
    """How the radar moves over ground, in its own axes: the vehicle's speed, and its turn at the lever's end."""
    speed, yaw_rate = world.drive.speed(time), world.drive.yaw_rate(time)
    x, y = ego_from_radar[:2, 3]
    return Motion(ego_from_radar[:2, :2].T @ np.array([speed - yaw_rate * y, yaw_rate * x]), yaw_rate)


def _false_alarms(rain_rate: float, motion: Motion, rng: np.random.Generator) -> Echoes:
    """Noise and rain that look like targets; some seem to stand, some have any speed."""
    anywhere, close = rng.poisson(_FALSE_ALARMS), rng.poisson(_RAIN_ALARMS * rain_rate)
    count = anywhere + close + 1
    azimuths = rng.uniform(-0.8, 0.8, count) * MAX_AZIMUTH
    ranges = np.where(np.arange(count) < anywhere, rng.uniform(5.0, 90.0, count), rng.uniform(3.0, _RAIN_REACH, count))
    own = motion.velocity[0] * np.cos(azimuths) + motion.velocity[1] * np.sin(azimuths)
    over_ground = np.where(rng.random(count) < 0.4, rng.uniform(-10.0, 10.0, count), 0.0)
    # As strong as it must be to be heard there: that is how noise gets through.
    rcs = np.maximum(NEAR.faintest_at(ranges, azimuths), LOWEST_RCS) + rng.exponential(3.0, count)
    return Echoes(ranges, azimuths, over_ground - own, over_ground, rcs, np.full(count, BACKGROUND, np.int64))


def _first(near: Detections, far: Detections, count: int) -> Detections:
    return Detections(
        *(
            np.concatenate([getattr(near, name), getattr(far, name)])[:count]
            for name in ("ranges", "azimuths", "doppler", "rcs", "states", "owners")
        )
    )
