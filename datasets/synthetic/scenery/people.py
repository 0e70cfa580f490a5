"""Meshes of pedestrians, motorcycles and bicycles, with and without a rider, in the postures that motion needs."""

from dataclasses import dataclass

import numpy as np

from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, ball, bar, box, combined, cone, hoop, wheel


@dataclass(frozen=True)
class Clothes:
    """What a person wears; `helmet` is None for who goes bare-headed."""

    shirt: Material
    trousers: Material
    helmet: Material | None = None


def pedestrian(height: float, clothes: Clothes, stride: float) -> Mesh:
    """A person; `stride` is how far (metres) the left foot is ahead of the right one, 0 for one who stands.

    Every stride gives the same triangles: only vertices differ.
    """
    hip, shoulder, chin = 0.5 * height, 0.82 * height, 0.86 * height
    hat, broad = clothes.helmet, height / 1.75
    parts = [
        cone((0.15 * broad, 0.21 * broad), (hip - 0.04, shoulder), clothes.shirt, sides=6),
        cone((0.06, 0.06), (shoulder, chin), Material.SKIN, sides=4),
        ball((0.01, 0.0, 0.925 * height), (0.1, 0.085, 0.075 * height), Material.SKIN, sides=6, rings=4),
        ball(
            (-0.02, 0.0, 0.945 * height),
            (0.1, 0.09, 0.055 * height) if hat is None else (0.13, 0.12, 0.065 * height),
            Material.HAIR if hat is None else hat,
            sides=6,
            rings=4,
        ),
    ]
    for side in (-1, 1):
        foot, y = side * stride / 2, side * 0.1 * broad
        elbow, hand = (-0.4 * foot, side * 0.29 * broad, 0.62 * height), (
            -0.7 * foot + 0.05, side * 0.28 * broad, 0.48 * height,
        )  # fmt: skip
        knee = (0.5 * foot + 0.02, y, 0.275 * height)
        parts += [
            bar((0.0, 0.9 * y, hip), knee, 0.16 * broad, clothes.trousers),
            bar(knee, (foot, y, 0.04), 0.12 * broad, clothes.trousers),
            box((foot - 0.08, foot + 0.17), (y - 0.05, y + 0.05), (0.0, 0.08), Material.PLASTIC),
            bar((0.0, side * 0.24 * broad, shoulder - 0.03), elbow, 0.1, clothes.shirt),
            bar(elbow, hand, 0.08, Material.SKIN),
        ]
    return combined(parts)


def _rider(
    seat: tuple[float, float],
    grip: tuple[float, float],
    feet: tuple[tuple[float, float], tuple[float, float]],
    clothes: Clothes,
) -> list[Mesh]:
    """A seated person; places are (x, z) in the middle plane, `feet` the right and the left one."""
    shoulder = (seat[0] + 0.22, seat[1] + 0.52)
    helmet = Material.SAFETY_WHITE if clothes.helmet is None else clothes.helmet
    parts = [
        bar((seat[0], 0.0, seat[1]), (shoulder[0], 0.0, shoulder[1]), 0.34, clothes.shirt),
        ball((shoulder[0] + 0.07, 0.0, shoulder[1] + 0.2), (0.13, 0.11, 0.14), helmet, sides=6, rings=4),
        ball((shoulder[0] + 0.12, 0.0, shoulder[1] + 0.14), (0.09, 0.08, 0.1), Material.SKIN, sides=6, rings=3),
    ]
    for side, foot in zip((-1, 1), feet, strict=True):
        knee = (seat[0] + 0.3 + 0.35 * (foot[0] - seat[0]), 0.5 * (seat[1] + foot[1]) + 0.12)
        parts += [
            bar((seat[0], side * 0.1, seat[1]), (knee[0], side * 0.16, knee[1]), 0.15, clothes.trousers),
            bar((knee[0], side * 0.16, knee[1]), (foot[0], side * 0.13, foot[1]), 0.12, clothes.trousers),
            bar((shoulder[0], side * 0.2, shoulder[1]), (grip[0], side * 0.28, grip[1]), 0.09, clothes.shirt),
        ]
    return parts


def motorcycle(length: float, width: float, paint: Material, rider: Clothes | None) -> Mesh:
    """A motorcycle, with a rider where clothes are given."""
    front, radius = length / 2, 0.31
    parts = [
        wheel(front - radius, 0.0, radius, 0.14, 1.0),
        wheel(-front + radius, 0.0, radius, 0.16, 1.0),
        box((-0.3, 0.25), (-0.16, 0.16), (0.25, 0.62), Material.METAL),
        ball((0.15, 0.0, 0.75), (0.32, 0.17, 0.17), paint, sides=6, rings=4),
        box((-0.75, -0.1), (-0.13, 0.13), (0.68, 0.8), Material.PLASTIC),
        box((-front + 0.1, -0.5), (-0.12, 0.12), (0.62, 0.76), paint),
        bar((front - radius, 0.0, radius), (0.42, 0.0, 0.95), 0.12, Material.METAL),
        bar((0.42, -width / 2, 1.0), (0.42, width / 2, 1.0), 0.06, Material.PLASTIC),
        box((0.48, 0.62), (-0.12, 0.12), (0.76, 0.98), Material.HEADLIGHT),
        box((-front + 0.06, -front + 0.12), (-0.1, 0.1), (0.64, 0.74), Material.TAILLIGHT),
    ]
    if rider is not None:
        parts += _rider((-0.3, 0.82), (0.4, 1.02), ((0.0, 0.3), (0.0, 0.3)), rider)
    return combined(parts)


def bicycle(length: float, width: float, paint: Material, rider: Clothes | None, crank_angle: float = 0.0) -> Mesh:
    """A bicycle, with a rider where clothes are given, whose right foot is at `crank_angle` (0: foremost, falling).

    Every angle gives the same triangles: only vertices differ.
    """
    front, radius = length / 2, 0.33
    rear_hub, front_hub, crank = (-front + radius, radius), (front - radius, radius), (-0.05, 0.3)
    saddle, head = (-0.22, 0.86), (0.34, 0.88)
    tubes = [(rear_hub, saddle), (rear_hub, crank), (crank, saddle), (crank, head), (saddle, head), (head, front_hub)]
    parts = [hoop(hub[0], radius, 0.05, Material.TYRE) for hub in (rear_hub, front_hub)]
    parts += [bar((a[0], 0.0, a[1]), (b[0], 0.0, b[1]), 0.06, paint) for a, b in tubes]
    parts += [
        box((-0.36, -0.1), (-0.08, 0.08), (0.88, 0.95), Material.PLASTIC),
        bar((0.36, -width / 2, 1.0), (0.36, width / 2, 1.0), 0.05, Material.PLASTIC),
        bar((0.34, 0.0, 0.86), (0.36, 0.0, 1.0), 0.05, paint),
    ]
    if rider is not None:
        right = (0.17 * float(np.cos(crank_angle)), -0.17 * float(np.sin(crank_angle)))
        feet = (crank[0] + right[0], crank[1] + 0.04 + right[1]), (crank[0] - right[0], crank[1] + 0.04 - right[1])
        parts += _rider((-0.22, 0.95), (0.36, 1.03), feet, rider)
    return combined(parts)
