"""Where the vehicle says it is: GPS fixes with the errors of a good receiver in a street."""

import numpy as np
import pymap3d
from jaxtyping import Bool, Float64

from datasets.arrays import Array
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import scene_start_us
from datasets.synthetic.world import World

LOCATION = "boston-seaport"
# Latitude and longitude (degrees) of the south-western corner of nuScenes' map of LOCATION: its global (0, 0).
_ORIGIN = (42.336849169438615, -71.05785369873047)
_RATE = 10.0
# Error of a fix east, north and up, metres: new in each fix; and wandering (multipath, ionosphere) with this standard
# deviation and time constant in seconds.
_WHITE, _WANDERING, _WANDERING_TIME = (0.10, 0.10, 0.20), (0.6, 0.6, 1.2), 40.0
# On average once in so many seconds buildings leave too few satellites: the error grows or no fix comes, for a while.
_BETWEEN_TROUBLES, _TROUBLE = 60.0, (1.0, 4.0)
_DEGRADED = 4.0
_OUTAGE_SHARE = 0.4


def gps_messages(config: WorldConfig, index: int, world: World) -> list[dict[str, object]]:
    """The messages of `can_bus/<scene>_gps.json`, our addition: 10 Hz, degrees and metres; some are missing."""
    rng = np.random.default_rng([config.seed, index, 4])
    times = -0.5 + np.arange(int((config.duration + 1.0) * _RATE)) / _RATE
    degraded, silent = _troubles(times, rng)
    errors = (
        _wandering(len(times), rng) + rng.normal(0.0, _WHITE, (len(times), 3)) * (1.0 + _DEGRADED * degraded)[:, None]
    )
    errors += np.where(degraded[:, None], rng.normal(0.0, 2.0, 3), 0.0)
    places = world.drive.track.sampled(times)
    places[:, 2] = 0.0
    east, north, up = (places + world.global_offset + errors).T
    latitude, longitude, altitude = pymap3d.enu2geodetic(east, north, up, *_ORIGIN, 0.0)
    return [
        {
            "utime": scene_start_us(config, index) + round(float(times[i]) * 1e6),
            "latitude": float(latitude[i]),
            "longitude": float(longitude[i]),
            "altitude": float(altitude[i]),
        }
        for i in (~silent).nonzero()[0]
    ]


def _wandering(count: int, rng: np.random.Generator) -> Float64[Array, "N 3"]:
    """A Gauss-Markov process of the first order."""
    keep = float(np.exp(-1.0 / (_RATE * _WANDERING_TIME)))
    steps = rng.normal(0.0, 1.0, (count, 3))
    state, states = steps[0], [steps[0]]
    for step in steps[1:]:
        state = keep * state + np.sqrt(1.0 - keep**2) * step
        states.append(state)
    return np.asarray(np.array(states) * np.array(_WANDERING))


def _troubles(times: Float64[Array, "N"], rng: np.random.Generator) -> tuple[Bool[Array, "N"], Bool[Array, "N"]]:
    """When fixes are degraded, and when none comes."""
    degraded, silent = np.zeros(len(times), bool), np.zeros(len(times), bool)
    for _ in range(rng.poisson((times[-1] - times[0]) / _BETWEEN_TROUBLES)):
        begin = rng.uniform(times[0], times[-1])
        hit = (times >= begin) & (times < begin + rng.uniform(*_TROUBLE))
        if rng.random() < _OUTAGE_SHARE:
            silent |= hit
        else:
            degraded |= hit
    return degraded, silent
