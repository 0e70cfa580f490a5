"""The colours of all pictures, RGB. Restrained: the scene is grey, only what was found or measured has a colour."""

from datasets.classes import DETECTION_CLASSES

Color = tuple[int, int, int]

PAGE: Color = (11, 14, 20)
GROUND: Color = (17, 21, 29)
TILE: Color = (26, 31, 41)
RING: Color = (44, 52, 66)
FAINT: Color = (98, 110, 130)
SOFT: Color = (160, 170, 186)
INK: Color = (232, 236, 242)
ANNOTATION: Color = (236, 239, 244)
EGO: Color = (232, 236, 242)
RADAR: Color = (124, 240, 96)
WARNING: Color = (250, 190, 88)

_COLOR_OF_CLASS: dict[str, Color] = {
    "car": (79, 195, 247),
    "truck": (92, 130, 246),
    "construction_vehicle": (167, 139, 250),
    "bus": (45, 212, 191),
    "trailer": (160, 184, 255),
    "barrier": (196, 178, 150),
    "motorcycle": (232, 121, 249),
    "bicycle": (253, 224, 71),
    "pedestrian": (251, 146, 60),
    "traffic_cone": (248, 96, 96),
}
CLASS_COLORS: tuple[Color, ...] = tuple(_COLOR_OF_CLASS[name] for name in DETECTION_CLASSES)

# LiDAR points by height above the ground, metres: the road recedes, what stands up is bright.
HEIGHT_STOPS: tuple[tuple[float, Color], ...] = (
    (-1.0, (58, 70, 90)),
    (0.2, (84, 102, 130)),
    (0.7, (116, 150, 178)),
    (2.0, (178, 208, 222)),
    (4.0, (244, 238, 218)),
)


def dimmed(color: Color) -> Color:
    """The colour of what is there but was not seen."""
    red, green, blue = ((value + 2 * ground) // 3 for value, ground in zip(color, FAINT, strict=True))
    return red, green, blue
