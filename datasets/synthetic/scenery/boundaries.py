"""What bounds plots of land: low walls, hedges, fences; and what stands on sidewalks: boxes, bollards, shelters."""

from itertools import pairwise

import numpy as np

from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, bar, box, combined, cone, panel


def boundary(length: float, rng: np.random.Generator) -> Mesh:
    """A low wall, a hedge or a fence along x, about half a metre thick."""
    draw = rng.random()
    if draw < 0.3:
        return low_wall(length, float(rng.uniform(0.6, 1.3)))
    if draw < 0.75:
        return hedge(length, float(rng.uniform(0.8, 1.7)), rng)
    return fence(length, float(rng.uniform(1.2, 1.9)))


def low_wall(length: float, height: float) -> Mesh:
    """A wall of concrete with a coping."""
    half = length / 2
    return combined(
        [
            box((-half, half), (-0.12, 0.12), (0.0, height - 0.08), Material.CURB),
            box((-half - 0.04, half + 0.04), (-0.17, 0.17), (height - 0.08, height), Material.SIDEWALK),
        ]
    )


def hedge(length: float, height: float, rng: np.random.Generator) -> Mesh:
    """A clipped hedge in pieces of slightly different size."""
    edges = np.linspace(-length / 2, length / 2, max(2, round(length / 2.5) + 1))
    parts = []
    for low, high in pairwise(edges):
        half, top = float(rng.uniform(0.26, 0.34)), height * float(rng.uniform(0.92, 1.05))
        material = Material.LEAVES if rng.random() < 0.5 else Material.LEAVES_DARK
        parts.append(box((float(low), float(high)), (-half, half), (0.0, top), material))
    return combined(parts)


def fence(length: float, height: float) -> Mesh:
    """Posts and upright boards with gaps between them."""
    half = length / 2
    posts = np.linspace(-half, half, max(2, round(length / 2.5) + 1))
    parts = [bar((float(x), 0.0, 0.0), (float(x), 0.0, height), 0.1, Material.BARK) for x in posts]
    parts += [bar((-half, 0.0, z), (half, 0.0, z), 0.08, Material.BARK) for z in (0.25 * height, 0.85 * height)]
    boards = np.arange(-half + 0.1, half - 0.1, 0.22)
    # Boards are thin: a single upright rectangle each.
    flat = [panel(0.05, (-0.085, 0.085), (0.06, height - 0.04), Material.BARK).moved(0.0, 0.0, 0.0, np.pi / 2)]
    parts += [flat[0].moved(float(x), 0.0, 0.0) for x in boards]
    return combined(parts)


def street_box(rng: np.random.Generator) -> Mesh:
    """What stands at the curb: a litter bin, a cabinet, a planter, a pair of bollards."""
    match int(rng.integers(4)):
        case 0:
            return cone((0.25, 0.28), (0.0, 0.95), Material.PAINT_GREEN, sides=8, top=Material.PLASTIC)
        case 1:
            return box((-0.5, 0.5), (-0.22, 0.22), (0.0, 1.25), Material.PAINT_GREY)
        case 2:
            soil = box((-0.7, 0.7), (-0.35, 0.35), (0.0, 0.5), Material.CURB)
            return combined([soil, box((-0.6, 0.6), (-0.27, 0.27), (0.5, 0.95), Material.LEAVES)])
        case _:
            post = cone((0.08, 0.08), (0.0, 0.9), Material.METAL, sides=6)
            return combined([post.moved(-0.6, 0.0, 0.0), post.moved(0.6, 0.0, 0.0)])


def bus_shelter() -> Mesh:
    """A roof on posts with glass behind and at one end, a bench and a poster; open towards +y."""
    parts = [
        box((-1.9, 1.9), (-0.75, 0.75), (2.3, 2.42), Material.METAL),
        box((-1.8, 1.8), (-0.7, -0.67), (0.15, 2.3), Material.GLASS),
        box((1.78, 1.84), (-0.7, 0.5), (0.2, 2.2), Material.PAINT_WHITE),
        box((-1.4, 1.2), (-0.55, -0.2), (0.42, 0.5), Material.BARK),
    ]
    parts += [bar((x, y, 0.0), (x, y, 2.35), 0.1, Material.METAL) for x in (-1.8, 1.8) for y in (-0.68, 0.6)]
    return combined(parts)
