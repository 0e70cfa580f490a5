"""What surfaces are made of: colour for cameras, reflectivity for the LiDAR."""

from enum import IntEnum

import numpy as np
from jaxtyping import Float32

from datasets.arrays import Array


class Material(IntEnum):
    """One entry for each kind of surface; a triangle carries one. GROUND is looked up in the scene's surface map."""

    GROUND = 0
    GRASS = 1
    ASPHALT = 2
    SIDEWALK = 3
    MARKING_WHITE = 4
    MARKING_YELLOW = 5
    CURB = 6
    BRICK = 7
    CONCRETE = 8
    PLASTER = 9
    SANDSTONE = 10
    ROOF = 11
    BARK = 12
    LEAVES = 13
    LEAVES_DARK = 14
    METAL = 15
    GLASS = 16
    TYRE = 17
    RIM = 18
    PLASTIC = 19
    HEADLIGHT = 20
    TAILLIGHT = 21
    PLATE = 22
    SAFETY_ORANGE = 23
    SAFETY_WHITE = 24
    MACHINE_YELLOW = 25
    SKIN = 26
    HAIR = 27
    SIGN_RED = 28
    PAINT_WHITE = 29
    PAINT_SILVER = 30
    PAINT_GREY = 31
    PAINT_BLACK = 32
    PAINT_RED = 33
    PAINT_BLUE = 34
    PAINT_GREEN = 35
    PAINT_BEIGE = 36
    CLOTH_NAVY = 37
    CLOTH_RED = 38
    CLOTH_GREY = 39
    CLOTH_OLIVE = 40
    CLOTH_WHITE = 41
    CLOTH_BLACK = 42
    CLOTH_BLUE = 43
    VEST = 44
    LAMP = 45
    SIGNAL_RED = 46


PAINTS = tuple(m for m in Material if m.name.startswith("PAINT_"))
CLOTHES = tuple(m for m in Material if m.name.startswith("CLOTH_"))
FACADES = (Material.BRICK, Material.CONCRETE, Material.PLASTER, Material.SANDSTONE)

# Linear-light red, green, blue in 0..1 and the LiDAR intensity (0..255) of a surface hit squarely.
_LOOKS: dict[Material, tuple[float, float, float, float]] = {
    Material.GROUND: (0.2, 0.2, 0.2, 10.0),
    Material.GRASS: (0.13, 0.2, 0.06, 16.0),
    Material.ASPHALT: (0.125, 0.125, 0.13, 12.0),
    Material.SIDEWALK: (0.34, 0.33, 0.31, 20.0),
    Material.MARKING_WHITE: (0.72, 0.72, 0.7, 55.0),
    Material.MARKING_YELLOW: (0.7, 0.5, 0.08, 50.0),
    Material.CURB: (0.42, 0.42, 0.4, 22.0),
    Material.BRICK: (0.32, 0.13, 0.09, 22.0),
    Material.CONCRETE: (0.36, 0.36, 0.36, 22.0),
    Material.PLASTER: (0.55, 0.5, 0.4, 30.0),
    Material.SANDSTONE: (0.45, 0.36, 0.25, 26.0),
    Material.ROOF: (0.2, 0.16, 0.15, 15.0),
    Material.BARK: (0.14, 0.09, 0.06, 14.0),
    Material.LEAVES: (0.09, 0.2, 0.04, 20.0),
    Material.LEAVES_DARK: (0.05, 0.13, 0.04, 17.0),
    Material.METAL: (0.3, 0.31, 0.32, 35.0),
    Material.GLASS: (0.035, 0.045, 0.055, 0.6),
    Material.TYRE: (0.02, 0.02, 0.02, 3.0),
    Material.RIM: (0.4, 0.4, 0.42, 30.0),
    Material.PLASTIC: (0.05, 0.05, 0.05, 6.0),
    Material.HEADLIGHT: (0.9, 0.9, 0.85, 60.0),
    Material.TAILLIGHT: (0.5, 0.02, 0.02, 90.0),
    Material.PLATE: (0.75, 0.75, 0.72, 200.0),
    Material.SAFETY_ORANGE: (0.85, 0.19, 0.02, 40.0),
    Material.SAFETY_WHITE: (0.8, 0.8, 0.8, 150.0),
    Material.MACHINE_YELLOW: (0.75, 0.45, 0.03, 34.0),
    Material.SKIN: (0.45, 0.26, 0.18, 28.0),
    Material.HAIR: (0.05, 0.03, 0.02, 10.0),
    Material.SIGN_RED: (0.55, 0.03, 0.03, 160.0),
    Material.PAINT_WHITE: (0.75, 0.75, 0.75, 38.0),
    Material.PAINT_SILVER: (0.48, 0.49, 0.5, 32.0),
    Material.PAINT_GREY: (0.2, 0.21, 0.22, 20.0),
    Material.PAINT_BLACK: (0.03, 0.03, 0.035, 7.0),
    Material.PAINT_RED: (0.42, 0.03, 0.03, 26.0),
    Material.PAINT_BLUE: (0.04, 0.1, 0.35, 18.0),
    Material.PAINT_GREEN: (0.05, 0.18, 0.1, 18.0),
    Material.PAINT_BEIGE: (0.5, 0.42, 0.3, 30.0),
    Material.CLOTH_NAVY: (0.03, 0.04, 0.1, 22.0),
    Material.CLOTH_RED: (0.4, 0.04, 0.05, 30.0),
    Material.CLOTH_GREY: (0.2, 0.2, 0.21, 28.0),
    Material.CLOTH_OLIVE: (0.14, 0.14, 0.06, 24.0),
    Material.CLOTH_WHITE: (0.65, 0.64, 0.6, 38.0),
    Material.CLOTH_BLACK: (0.025, 0.025, 0.025, 14.0),
    Material.CLOTH_BLUE: (0.08, 0.16, 0.4, 28.0),
    Material.VEST: (0.6, 0.75, 0.04, 120.0),
    Material.LAMP: (0.7, 0.7, 0.66, 25.0),
    Material.SIGNAL_RED: (0.5, 0.03, 0.02, 60.0),
}

_TABLE = np.array([_LOOKS[material] for material in Material], dtype=np.float32)

# How fast the LiDAR's return from a surface falls off its normal: the exponent of the cosine of incidence. Rough
# surfaces scatter almost evenly; clear coats, polished metal and glass send most of the light away, and what meets
# glass squarely mostly goes through. Set so that cars get about as many points as they do in nuScenes.
_FALLOFF: dict[Material, float] = {**dict.fromkeys(PAINTS, 6.0), Material.GLASS: 14.0, Material.METAL: 1.5}

# Indexed by Material.
FALLOFF: Float32[Array, "K"] = np.array([_FALLOFF.get(material, 0.35) for material in Material], np.float32)
COLOURS: Float32[Array, "K 3"] = _TABLE[:, :3].copy()
REFLECTIVITY: Float32[Array, "K"] = _TABLE[:, 3].copy()
