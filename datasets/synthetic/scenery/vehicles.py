"""Meshes of cars, trucks, buses, trailers and construction vehicles.

Each function draws at roughly the size asked for; `bodies.body` then fits the mesh into the exact box.
"""

from functools import lru_cache

import numpy as np

from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, bar, box, combined, frustum, panel, prism, wheel


def _lights(length: float, width: float, z: float) -> list[Mesh]:
    """Head- and tail lights and number plates, just before the surfaces that they sit on."""
    front, rear, edge, inner = length / 2 + 0.01, -length / 2 - 0.01, width / 2 - 0.05, width / 2 - 0.42
    parts = []
    for side in (-1, 1):
        across = (min(side * edge, side * inner), max(side * edge, side * inner))
        parts.append(panel(front, across, (z, z + 0.14), Material.HEADLIGHT))
        parts.append(panel(rear, across, (z + 0.05, z + 0.2), Material.TAILLIGHT))
    return [*parts, *(panel(x, (-0.26, 0.26), (z - 0.2, z - 0.08), Material.PLATE) for x in (front, rear))]


def _wheels(xs: list[float], width: float, radius: float, thickness: float) -> list[Mesh]:
    across = width / 2 - thickness / 2
    return [wheel(x, side * across, radius, thickness, side) for x in xs for side in (-1.0, 1.0)]


def car(length: float, width: float, height: float, paint: Material) -> Mesh:
    """A saloon where it is low, an estate or van where it is tall; drawn to the nearest decimetre or two."""
    shape = _car_shape(round(length * 4) / 4, round(width * 10) / 10, round(height * 10) / 10)
    return Mesh(shape.vertices, shape.triangles, np.where(shape.materials == _CAR_PAINT, paint, shape.materials))


# Stands for the paint of a car whose shape many share.
_CAR_PAINT = Material.PAINT_WHITE


@lru_cache(maxsize=256)
def _car_shape(length: float, width: float, height: float) -> Mesh:
    paint = _CAR_PAINT
    front, half = length / 2, width / 2
    belt, roof = 0.56 * height, height
    hood = 0.26 * length if height < 1.85 else 0.16 * length
    tail = 0.14 * length if height < 1.6 else 0.03 * length
    body = prism(
        [
            (-front, 0.2), (front, 0.2), (front, 0.62 * belt), (front - 0.06 * length, 0.86 * belt),
            (front - hood, belt), (-front + tail, belt), (-front, 0.92 * belt),
        ],
        (-half, half), paint,
    )  # fmt: skip
    slope = 0.16 * length
    cabin = frustum(
        (-front + tail + 0.02, front - hood, -half + 0.06, half - 0.06),
        (-front + tail + 0.09 * length, front - hood - slope, -half + 0.2, half - 0.2),
        (belt, roof - 0.07),
        Material.GLASS,
    )
    top = box(
        (-front + tail + 0.085 * length, front - hood - slope + 0.05),
        (-half + 0.18, half - 0.18),
        (roof - 0.08, roof),
        paint,
    )
    pillars = [
        bar((x0, side * (half - 0.07), belt), (x1, side * (half - 0.2), roof - 0.05), 0.09, paint)
        for side in (-1, 1)
        for x0, x1 in (
            (front - hood, front - hood - slope),
            (-0.03 * length, -0.03 * length),
            (-front + tail + 0.04, -front + tail + 0.1 * length),
        )
    ]
    wheels = _wheels([front - 0.19 * length, -front + 0.19 * length], width + 0.02, 0.33, 0.22)
    return combined([body, cabin, top, *pillars, *wheels, *_lights(length, width, 0.42 * height)])


def truck(length: float, width: float, height: float, paint: Material, cargo: Material) -> Mesh:
    """A cab with a closed cargo body; a small one is a pick-up with an open bed."""
    front, half = length / 2, width / 2
    small = height < 2.1
    cab_length = 0.45 * length if small else min(2.2, 0.34 * length)
    cab_height = height if small else min(height - 0.2, 2.7)
    rear_of_cab, side_windows = front - cab_length, (0.6 * cab_height, 0.9 * cab_height)
    parts = [
        prism(
            [(rear_of_cab, 0.35), (front, 0.35), (front, 0.55 * cab_height), (front - 0.25, 0.58 * cab_height),
             (front - 0.55, cab_height), (rear_of_cab, cab_height)],
            (-half + 0.05, half - 0.05), paint,
        ),
        frustum(
            (front - 0.6, front - 0.2, -half + 0.12, half - 0.12),
            (front - 0.75, front - 0.46, -half + 0.2, half - 0.2),
            (0.6 * cab_height, 0.94 * cab_height), Material.GLASS,
        ),
        box((rear_of_cab + 0.3, front - 0.65), (-half + 0.03, half - 0.03), side_windows, Material.GLASS),
        box((-front, front - 0.4), (-0.45, 0.45), (0.45, 0.75), Material.PLASTIC),
    ]  # fmt: skip
    if small:
        parts.append(box((-front, rear_of_cab), (-half, half), (0.45, 0.55 * height), paint))
    else:
        parts.append(box((-front, rear_of_cab - 0.12), (-half, half), (0.85, height), cargo))
    axles = [front - 0.2 * length, -front + 0.2 * length] + ([-front + 0.34 * length] if length > 8.5 else [])
    return combined(
        [*parts, *_wheels(axles, width - 0.04, 0.36 if small else 0.5, 0.3), *_lights(length, width - 0.1, 0.65)]
    )


def bus(length: float, width: float, height: float, paint: Material) -> Mesh:
    """A city bus: a band of windows, a large windscreen, doors on the right."""
    front, half = length / 2, width / 2
    parts = [
        box((-front, front), (-half, half), (0.35, height), paint),
        box((-front + 0.4, front - 0.9), (-half - 0.015, half + 0.015), (0.45 * height, 0.82 * height), Material.GLASS),
        box((front - 0.2, front + 0.015), (-half + 0.12, half - 0.12), (0.36 * height, 0.86 * height), Material.GLASS),
        box((-front - 0.015, -front + 0.2), (-half + 0.3, half - 0.3), (0.5 * height, 0.82 * height), Material.GLASS),
        box((front - 0.3, front + 0.01), (-half + 0.4, half - 0.4), (0.88 * height, 0.97 * height), Material.PLASTIC),
    ]
    parts += [
        box((x, x + 0.12), (-half - 0.018, half + 0.018), (0.45 * height, 0.82 * height), paint)
        for x in (-0.3 * length, -0.16 * length, -0.02 * length, 0.12 * length, 0.26 * length)
    ]
    parts += [
        box((x, x + 1.1), (-half - 0.025, -half + 0.1), (0.4, 0.8 * height), Material.GLASS)
        for x in (front - 1.9, -0.05 * length)
    ]
    wheels = _wheels([front - 0.22 * length, -front + 0.25 * length], width + 0.04, 0.48, 0.3)
    return combined([*parts, *wheels, *_lights(length, width, 0.75)])


def trailer(length: float, width: float, height: float, cargo: Material) -> Mesh:
    """A semi-trailer: a long box on axles at its rear, legs at its front."""
    front, half = length / 2, width / 2
    parts = [
        box((-front, front), (-half, half), (1.1, height), cargo),
        box((-front, front - 1.0), (-0.5, 0.5), (0.8, 1.1), Material.PLASTIC),
        box((-front + 0.02, front), (-half - 0.01, half + 0.01), (1.12, 1.24), Material.SIGN_RED),
        panel(-front - 0.01, (-half + 0.1, half - 0.1), (0.5, 0.62), Material.SAFETY_WHITE),
    ]
    parts += [box((front - 2.6, front - 2.4), (y - 0.08, y + 0.08), (0.0, 1.1), Material.METAL) for y in (-0.7, 0.7)]
    wheels = _wheels([-front + 1.0, -front + 2.2, -front + 3.4], width - 0.04, 0.5, 0.35)
    return combined([*parts, *wheels])


def construction_vehicle(length: float, width: float, height: float) -> Mesh:
    """An excavator: tracks, a turning upper body with a cab, a boom, an arm and a bucket."""
    front, half = length / 2, width / 2
    yellow, dark = Material.MACHINE_YELLOW, Material.PLASTIC
    track = [(-0.46 * length, 0.25), (-0.4 * length, 0.0), (0.1 * length, 0.0), (0.16 * length, 0.25),
             (0.12 * length, 0.75), (-0.42 * length, 0.75)]  # fmt: skip
    parts = [
        prism(track, (side * half - (0.5 if side > 0 else 0.0), side * half + (0.5 if side < 0 else 0.0)), dark)
        for side in (-1, 1)
    ]
    parts += [
        box((-0.48 * length, 0.1 * length), (-half + 0.15, half - 0.15), (0.8, 0.48 * height), yellow),
        box((-0.5 * length, -0.36 * length), (-half + 0.1, half - 0.1), (0.8, 0.55 * height), dark),
        box((-0.12 * length, 0.13 * length), (0.05, half - 0.15), (0.48 * height, 0.84 * height), Material.GLASS),
        box((-0.14 * length, 0.14 * length), (0.02, half - 0.12), (0.84 * height, 0.88 * height), yellow),
        bar((0.0, -0.3, 0.45 * height), (0.25 * length, -0.3, height - 0.2), 0.4, yellow),
        bar((0.24 * length, -0.3, height - 0.2), (0.44 * length, -0.3, 0.3 * height), 0.3, yellow),
        frustum((0.36 * length, front, -0.8, 0.2), (0.42 * length, front - 0.1, -0.7, 0.1), (0.1, 0.33 * height), dark),
    ]
    return combined(parts)
