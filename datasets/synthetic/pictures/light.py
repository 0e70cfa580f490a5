"""What lights a scene: sun and sky by weather and time of day."""

from typing import NamedTuple

from datasets.synthetic.conditions import ConditionName

Colour = tuple[float, float, float]


class Light(NamedTuple):
    """Linear light, in units in which a white sheet in the sun by day is about 1.

    `sun` comes from the sun's direction and casts shadows, `ambient` from the whole sky. The sky goes from `horizon`
    to `zenith`, with a `glow` around the sun and clouds over a share `cloudiness` of it. A camera exposes so that the
    mean of a picture becomes `brightness`; `gain` is its amplification, by which its noise grows. `lamps_on` also means
    headlights and lit windows. `wetness` (0..1) makes the ground a mirror.
    """

    sun: Colour
    ambient: Colour
    horizon: Colour
    zenith: Colour
    glow: Colour
    cloudiness: float
    brightness: float
    gain: float
    lamps_on: bool = False
    wetness: float = 0.0


_LIGHTS: dict[ConditionName, Light] = {
    "day": Light(
        (1.5, 1.42, 1.25), (0.5, 0.56, 0.66), (0.68, 0.76, 0.84), (0.2, 0.36, 0.66), (0.5, 0.45, 0.35), 0.4, 0.34, 1.0
    ),
    "dusk": Light(
        (1.0, 0.5, 0.22), (0.2, 0.2, 0.28), (0.62, 0.42, 0.34), (0.1, 0.15, 0.32), (1.2, 0.55, 0.15), 0.5, 0.22, 2.0,
        lamps_on=True,
    ),
    "night": Light(
        (0.002, 0.0025, 0.004), (0.003, 0.0032, 0.005), (0.012, 0.01, 0.012), (0.0015, 0.002, 0.005), (0.0, 0.0, 0.0),
        0.3, 0.13, 6.0, lamps_on=True,
    ),
    "rain": Light(
        (0.0, 0.0, 0.0), (0.5, 0.53, 0.57), (0.56, 0.59, 0.62), (0.42, 0.46, 0.5), (0.0, 0.0, 0.0), 1.0, 0.3, 1.8,
        lamps_on=True, wetness=1.0,
    ),
    "fog": Light(
        (0.0, 0.0, 0.0), (0.55, 0.57, 0.6), (0.66, 0.68, 0.7), (0.6, 0.62, 0.65), (0.0, 0.0, 0.0), 1.0, 0.38, 1.4,
        lamps_on=True, wetness=0.25,
    ),
}  # fmt: skip


def light_of(condition: ConditionName) -> Light:
    """The light of scenes of this condition."""
    return _LIGHTS[condition]
