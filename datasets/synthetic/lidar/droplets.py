"""What rain and fog do to the light of a LiDAR: it fades on the way, drops send some back, wet ground sends less."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from datasets.arrays import Array
from datasets.synthetic.conditions import Conditions

# HDL-32E datasheet: light of 905 nm; the beam opens by 3 mrad. Visibility is meant at 550 nm.
_WAVELENGTH, _DIVERGENCE = 905.0 / 550.0, 3.0e-3
# The smallest return that becomes a point, in per cent of what white paper at that place would send back: the files
# hold intensities in such per cents, and none that rounds to nothing.
_LEAST = 1.0
# Marshall and Palmer (1948): N0 exp(-L D) drops a cubic metre for each millimetre of diameter D, with N0 = 8000 and
# L = 4.1 R^-0.21 for R millimetres of rain an hour.
_DROPS, _SLOPE, _SLOPE_POWER = 8000.0, 4.1, -0.21
# A large drop takes away twice the light that meets it, and of that sends one part in 18.8 back for each steradian:
# O'Connor et al. (2004), "A technique for autocalibration of cloud lidar", at 905 nm.
_LIDAR_RATIO = 18.8
# Fog sends back 0.046 / V for each metre and steradian at a visibility of V metres (Rasshofer et al. 2011, "Influences
# of weather phenomena on automotive laser radar systems"); Hahner et al. (2021), "Fog simulation on real LiDAR point
# clouds", takes it from there, with a pulse of 20 ns: its sin^2 shape gathers the fog of 3 m (half its 6 m) at once.
_FOG_BACKSCATTER, _PULSE_LENGTH = 0.046, 3.0
# There the response peaks about 3.5 m away, and simulated fog is spread around it by factors from a half to two.
_FOG_RANGE = 3.5


def extinction_at_905nm(conditions: Conditions) -> float:
    """1/m: the share exp(-2 * extinction * d) of the light comes back from d metres.

    Kim et al. (2001), "Comparison of laser beam propagation at 785 nm and 1550 nm in fog and haze": haze lets longer
    waves through, fog of less than 500 m visibility treats all alike, and so does rain, whose drops are large. (For 4
    to 25 mm of rain an hour ITU-R P.1814 has 0.6 to 2.1 per km, where our visibilities give 1.2 to 3.3.)
    """
    kilometres = conditions.visibility / 1000.0
    if conditions.rain_rate > 0 or kilometres < 0.5:
        exponent = 0.0
    elif kilometres < 1.0:
        exponent = kilometres - 0.5
    elif kilometres < 6.0:
        exponent = 0.16 * kilometres + 0.34
    else:
        exponent = 1.3
    return float(conditions.extinction * _WAVELENGTH**-exponent)


def wet_ground(facing: Float32[Array, "N"]) -> Float32[Array, "N"]:
    """The share of a dry horizontal surface's return that is left in the rain, by the cosine of incidence.

    A wet rough surface is about half as bright (Lekner and Dorf 1988, "Why some things are darker when wet"), and its
    film of water mirrors away what meets it at a grazing angle, on the way in and out (Fresnel; Schlick's formula).
    """
    mirrored = 0.02 + 0.98 * (1.0 - facing) ** 5
    return np.asarray(0.5 * (1.0 - mirrored) ** 2, np.float32)


@dataclass(frozen=True)
class DropReturns:
    """What the air itself sends back, for each beam: how far away (metres; inf: nothing), and the intensity."""

    distances: Float64[Array, "N"]
    intensities: Float64[Array, "N"]


def drop_returns(conditions: Conditions, count: int, rng: np.random.Generator) -> DropReturns:
    """The strongest return of rain or fog for each of N beams; nothing in clear air."""
    if conditions.name == "fog":
        return fog_returns(conditions.visibility, count, rng)
    if conditions.rain_rate > 0:
        return rain_returns(conditions.rain_rate, count, rng)
    return DropReturns(np.full(count, np.inf), np.zeros(count))


def fog_returns(visibility: float, count: int, rng: np.random.Generator) -> DropReturns:
    """What fog of this visibility (metres) sends back to each of N beams.

    Fog drifts in patches: its density is taken to vary exponentially around the mean.
    """
    density, place = rng.standard_exponential(count), _FOG_RANGE * 2.0 ** rng.uniform(-1.0, 1.0, count)
    faded = np.exp(-2.0 * 3.0 / visibility * place)
    return _seen(100.0 * np.pi * _FOG_BACKSCATTER / visibility * _PULSE_LENGTH * density * faded, place)


def rain_returns(rain_rate: float, count: int, rng: np.random.Generator) -> DropReturns:
    """What rain (millimetres an hour, above 0) sends back to each of N beams."""
    return particle_returns(_DROPS, _SLOPE * rain_rate**_SLOPE_POWER, count, rng)


def particle_returns(density: float, slope: float, count: int, rng: np.random.Generator) -> DropReturns:
    """The particle that each of N beams sees, if any, where there are density exp(-slope D) for each cubic metre and
    millimetre of diameter D.

    A drop of diameter D at distance r fills a part of the beam's cross-section, and shows from D = k r on. So there
    are density / slope pi / 4 divergence^2 r^2 exp(-slope k r) visible drops for each metre of the beam, and the sizes
    of those that show exceed k r exponentially.
    """
    # 100 pi (drop's cross-section) 2 / lidar ratio / (beam's cross-section) per cent = (D / (reach r))^2, in mm and m.
    reach = 1000.0 * _DIVERGENCE * math.sqrt(_LIDAR_RATIO / (200.0 * math.pi))
    from_diameter = reach * math.sqrt(_LEAST)
    expected = density / slope * math.pi / 4 * _DIVERGENCE**2 * 2.0 / (slope * from_diameter) ** 3
    place = rng.standard_gamma(3.0, count) / (slope * from_diameter)
    diameter = from_diameter * place + rng.standard_exponential(count) / slope
    meets = rng.random(count) < -math.expm1(-expected)
    return _seen(np.where(meets, (diameter / (reach * np.maximum(place, 1e-3))) ** 2, 0.0), place)


def _seen(worth: Float64[Array, "N"], place: Float64[Array, "N"]) -> DropReturns:
    """The returns that are strong enough to become points."""
    seen: Bool[Array, N] = worth >= _LEAST
    return DropReturns(np.where(seen, place, np.inf), np.where(seen, worth, 0.0))
