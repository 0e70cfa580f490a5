"""Meshes of pedestrians, motorcycles and bicycles, with and without a rider."""

import numpy as np

from datasets.synthetic.materials import Material
from datasets.synthetic.meshes import Mesh, ball, bar, box, combined, cone, wheel


def pedestrian(height: float, shirt: Material, trousers: Material, stride: float) -> Mesh:
    """A person; `stride` is how far the feet are apart (metres), 0 for one who stands."""
    hip, shoulder, chin = 0.5 * height, 0.82 * height, 0.86 * height
    parts = [
        cone((0.15, 0.21), (hip - 0.04, shoulder), shirt, sides=8),
        cone((0.06, 0.06), (shoulder, chin), Material.SKIN, sides=6),
        ball((0.01, 0.0, 0.925 * height), (0.1, 0.085, 0.075 * height), Material.SKIN, sides=8, rings=4),
        ball((-0.02, 0.0, 0.945 * height), (0.1, 0.09, 0.055 * height), Material.HAIR, sides=8, rings=4),
    ]
    for side in (-1, 1):
        foot = side * stride / 2
        parts += [
            bar((0.0, side * 0.09, hip), (0.5 * foot + 0.02, side * 0.1, 0.27 * height), 0.16, trousers),
            bar((0.5 * foot + 0.02, side * 0.1, 0.28 * height), (foot, side * 0.1, 0.04), 0.12, trousers),
            box((foot - 0.08, foot + 0.17), (side * 0.1 - 0.05, side * 0.1 + 0.05), (0.0, 0.08), Material.PLASTIC),
            bar((0.0, side * 0.24, shoulder - 0.03), (-0.4 * foot, side * 0.29, 0.62 * height), 0.1, shirt),
            bar(
                (-0.4 * foot, side * 0.29, 0.62 * height),
                (-0.7 * foot + 0.05, side * 0.28, 0.48 * height),
                0.08,
                Material.SKIN,
            ),
        ]
    return combined(parts)


def _rider(
    seat: tuple[float, float], grip: tuple[float, float], foot: tuple[float, float], shirt: Material
) -> list[Mesh]:
    """A seated person; places are (x, z) in the middle plane."""
    shoulder = (seat[0] + 0.22, seat[1] + 0.52)
    parts = [
        bar((seat[0], 0.0, seat[1]), (shoulder[0], 0.0, shoulder[1]), 0.34, shirt),
        ball((shoulder[0] + 0.07, 0.0, shoulder[1] + 0.2), (0.13, 0.11, 0.14), Material.SAFETY_WHITE, sides=8, rings=4),
        ball((shoulder[0] + 0.12, 0.0, shoulder[1] + 0.14), (0.09, 0.08, 0.1), Material.SKIN, sides=6, rings=4),
    ]
    knee = (seat[0] + 0.38, 0.5 * (seat[1] + foot[1]) + 0.12)
    for side in (-1, 1):
        parts += [
            bar((seat[0], side * 0.1, seat[1]), (knee[0], side * 0.16, knee[1]), 0.15, Material.CLOTH_NAVY),
            bar((knee[0], side * 0.16, knee[1]), (foot[0], side * 0.13, foot[1]), 0.12, Material.CLOTH_NAVY),
            bar((shoulder[0], side * 0.2, shoulder[1]), (grip[0], side * 0.28, grip[1]), 0.09, shirt),
        ]
    return parts


def motorcycle(length: float, width: float, paint: Material, shirt: Material | None) -> Mesh:
    """A motorcycle, with a rider where `shirt` is given."""
    front, radius = length / 2, 0.31
    parts = [
        wheel(front - radius, 0.0, radius, 0.14),
        wheel(-front + radius, 0.0, radius, 0.16),
        box((-0.3, 0.25), (-0.16, 0.16), (0.25, 0.62), Material.METAL),
        ball((0.15, 0.0, 0.75), (0.32, 0.17, 0.17), paint),
        box((-0.75, -0.1), (-0.13, 0.13), (0.68, 0.8), Material.PLASTIC),
        box((-front + 0.1, -0.5), (-0.12, 0.12), (0.62, 0.76), paint),
        bar((front - radius, 0.0, radius), (0.42, 0.0, 0.95), 0.12, Material.METAL),
        bar((0.42, -width / 2, 1.0), (0.42, width / 2, 1.0), 0.06, Material.PLASTIC),
        box((0.48, 0.62), (-0.12, 0.12), (0.76, 0.98), Material.HEADLIGHT),
        box((-front + 0.06, -front + 0.12), (-0.1, 0.1), (0.64, 0.74), Material.TAILLIGHT),
    ]
    if shirt is not None:
        parts += _rider((-0.3, 0.82), (0.4, 1.02), (0.0, 0.3), shirt)
    return combined(parts)


def _ring(x: float, radius: float, sides: int = 12) -> list[Mesh]:
    angles = np.arange(sides + 1) * 2 * np.pi / sides
    around = [(x + radius * np.cos(a), 0.0, radius + radius * np.sin(a)) for a in angles]
    return [bar(around[i], around[i + 1], 0.05, Material.TYRE) for i in range(sides)]


def bicycle(length: float, width: float, paint: Material, shirt: Material | None) -> Mesh:
    """A bicycle, with a rider where `shirt` is given."""
    front, radius = length / 2, 0.33
    rear_hub, front_hub, crank = (-front + radius, radius), (front - radius, radius), (-0.05, 0.3)
    saddle, head = (-0.22, 0.86), (0.34, 0.88)
    tubes = [(rear_hub, saddle), (rear_hub, crank), (crank, saddle), (crank, head), (saddle, head), (head, front_hub)]
    parts = [*_ring(rear_hub[0], radius), *_ring(front_hub[0], radius)]
    parts += [bar((a[0], 0.0, a[1]), (b[0], 0.0, b[1]), 0.06, paint) for a, b in tubes]
    parts += [
        box((-0.36, -0.1), (-0.08, 0.08), (0.88, 0.95), Material.PLASTIC),
        bar((0.36, -width / 2, 1.0), (0.36, width / 2, 1.0), 0.05, Material.PLASTIC),
        bar((0.34, 0.0, 0.86), (0.36, 0.0, 1.0), 0.05, paint),
    ]
    if shirt is not None:
        parts += _rider((-0.22, 0.95), (0.36, 1.03), (-0.02, 0.14), shirt)
    return combined(parts)
