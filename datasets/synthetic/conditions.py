"""Weather and light of a scene: the same for all its sensors."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array

ConditionName = Literal["day", "dusk", "night", "rain", "fog"]
# What a dataset can be asked for: one condition for all scenes, or a mixture.
SceneConditions = Literal["mixed", "day", "dusk", "night", "rain", "fog"]

# Which condition a scene has, by its number: half of all scenes by day, as many at night and in the rain as nuScenes
# has (about an eighth and a fifth of its scenes), and some that it lacks.
MIXED: tuple[ConditionName, ...] = ("day", "night", "day", "rain", "day", "dusk", "day", "fog", "day", "rain")

# Height of the sun above the horizon in radians, lowest and highest. At night it stands for the moon.
_SUN_ELEVATION: dict[ConditionName, tuple[float, float]] = {
    "day": (0.6, 1.0),
    "dusk": (0.06, 0.16),
    "night": (0.5, 0.9),
    "rain": (0.6, 1.0),
    "fog": (0.5, 0.9),
}
# Meteorological optical range in metres (a black thing keeps 5 % of its contrast over it): clear air lets one see
# beyond everything in the world.
_VISIBILITY: dict[ConditionName, tuple[float, float]] = {
    "day": (8000.0, 20000.0),
    "dusk": (6000.0, 12000.0),
    "night": (6000.0, 12000.0),
    "rain": (900.0, 2500.0),
    "fog": (70.0, 180.0),
}
_RAIN_RATE = (4.0, 25.0)


@dataclass(frozen=True)
class Conditions:
    """Weather and light.

    `sun` is the unit vector towards the sun (at night: the moon) in world axes; `rain_rate` is in millimetres an hour,
    0 where it is dry; `visibility` is the meteorological optical range in metres.
    """

    name: ConditionName
    sun: Float64[Array, "3"]
    rain_rate: float
    visibility: float

    @property
    def extinction(self) -> float:
        """Of visible light, 1/m: the share exp(-extinction * d) of a contrast is left after d metres (Koschmieder)."""
        return 3.0 / self.visibility


def draw_conditions(name: ConditionName, rng: np.random.Generator) -> Conditions:
    """Conditions of this name: where the sun stands, how hard it rains, how far one sees."""
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(*_SUN_ELEVATION[name])
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    rain_rate, visibility = float(rng.uniform(*_RAIN_RATE)), float(rng.uniform(*_VISIBILITY[name]))
    return Conditions(name, sun, rain_rate if name == "rain" else 0.0, visibility)
