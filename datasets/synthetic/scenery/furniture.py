"""Meshes of what stands in a street: cones and barriers (annotated), poles, signs, trees, buildings (background)."""

import numpy as np

from datasets.synthetic.scenery.materials import FACADES, Material
from datasets.synthetic.scenery.meshes import Mesh, ball, bar, box, combined, cone, panel


def traffic_cone(width: float, height: float) -> Mesh:
    """An orange cone with two reflecting bands on a square foot."""
    half, slope = width / 2, 0.38 * width
    bands = np.array([0.05, 0.35, 0.5, 0.65, 0.8, 1.0])
    parts = [box((-half, half), (-half, half), (0.0, 0.05 * height), Material.PLASTIC)]
    for i in range(len(bands) - 1):
        low, high = float(bands[i]), float(bands[i + 1])
        material = Material.SAFETY_WHITE if i in (1, 3) else Material.SAFETY_ORANGE
        parts.append(
            cone((slope * (1.1 - low), slope * (1.1 - high)), (low * height, high * height), material, sides=6)
        )
    return combined(parts)


def barrier(width: float, length: float, height: float) -> Mesh:
    """A work-zone barrier: striped boards along y on two feet."""
    half = width / 2
    parts = []
    for low, high in ((0.3 * height, 0.58 * height), (0.7 * height, height)):
        parts.append(box((-0.05, 0.05), (-half, half), (low, high), Material.SAFETY_ORANGE))
        edges = np.linspace(-half, half, 9)
        for i in range(1, 8, 2):
            stripe = (float(edges[i]), float(edges[i + 1]))
            parts += [panel(x, stripe, (low, high), Material.SAFETY_WHITE) for x in (-0.055, 0.055)]
    for y in (-0.8 * half, 0.8 * half):
        parts.append(bar((0.0, y, 0.1), (0.0, y, height), 0.11, Material.METAL))
        parts.append(box((-length / 2, length / 2), (y - 0.1, y + 0.1), (0.0, 0.12), Material.PLASTIC))
    return combined(parts)


def lamp_post(height: float) -> Mesh:
    """A street lamp whose arm reaches along x."""
    return combined(
        [
            cone((0.12, 0.07), (0.0, height), Material.METAL, sides=6),
            bar((0.0, 0.0, height - 0.1), (1.8, 0.0, height + 0.1), 0.09, Material.METAL),
            box((1.3, 2.0), (-0.14, 0.14), (height + 0.02, height + 0.12), Material.PLASTIC),
            box((1.35, 1.95), (-0.12, 0.12), (height - 0.02, height + 0.02), Material.LAMP),
        ]
    )


def traffic_light(height: float) -> Mesh:
    """A signal on a post; its lamps look along -x."""
    parts = [
        cone((0.09, 0.07), (0.0, height), Material.METAL, sides=6),
        box((-0.25, 0.05), (-0.18, 0.18), (height - 1.0, height), Material.PLASTIC),
        panel(-0.27, (-0.1, 0.1), (height - 0.3, height - 0.1), Material.SIGNAL_RED),
    ]
    return combined(parts)


def sign(height: float) -> Mesh:
    """A round-cornered sign on a thin post; its face looks along -x."""
    return combined(
        [
            cone((0.04, 0.04), (0.0, height), Material.METAL, sides=5),
            box((-0.08, -0.04), (-0.32, 0.32), (height - 0.7, height), Material.SAFETY_WHITE),
            panel(-0.09, (-0.25, 0.25), (height - 0.62, height - 0.08), Material.SIGN_RED),
        ]
    )


def tree(height: float, rng: np.random.Generator) -> Mesh:
    """A trunk and a crown of a few balls."""
    radius = 0.26 * height
    parts = [cone((0.2, 0.13), (0.0, 0.5 * height), Material.BARK, sides=6)]
    for material, count in ((Material.LEAVES, 2), (Material.LEAVES_DARK, 2)):
        for _ in range(count):
            x, y = (float(v) for v in rng.uniform(-0.45, 0.45, 2) * radius)
            z = float(rng.uniform(0.55, 0.8)) * height
            size = radius * float(rng.uniform(0.6, 0.9))
            parts.append(ball((x, y, z), (size, size, 0.8 * size), material, sides=7, rings=4))
    return combined(parts)


def building(length: float, depth: float, height: float, rng: np.random.Generator) -> Mesh:
    """A block along x whose front is the plane y = 0 and whose rear is y = depth; windows come from shading."""
    facade = FACADES[int(rng.integers(len(FACADES)))]
    parts = [box((-length / 2, length / 2), (0.0, depth), (0.0, height), facade, Material.ROOF)]
    parts.append(box((-length / 2, length / 2), (-0.2, 0.05), (3.4, 3.7), Material.CONCRETE))
    for x in np.arange(-length / 2 + 3.0, length / 2 - 1.0, 7.0):
        parts.append(box((float(x) - 0.6, float(x) + 0.6), (-0.06, 0.1), (0.0, 2.3), Material.PLASTIC))
    return combined(parts)
