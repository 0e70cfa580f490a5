"""What the LiDAR sees of the vehicle that carries it: the roof, the rack, the windscreen and the bonnet."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from datasets.arrays import Array
from datasets.synthetic.rays import BACKGROUND, Target
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, combined, frustum

# Lidar frame (x right, y forward, z up), metres; measured in the returns within 2.5 m of two sweeps of nuScenes (one
# of each car). The outline of the roof, all at one height.
_ROOF_Z = -0.345
_RIGHT_OUTLINE = (
    (0.12, -0.93), (0.28, -0.87), (0.39, -0.69), (0.435, -0.555), (0.475, -0.43), (0.525, -0.26), (0.555, 0.0),
    (0.55, 0.30), (0.51, 0.54), (0.43, 0.75),
)  # fmt: skip
# Half width, forward and height where the windscreen begins, bends, ends, and where the bonnet ends.
_NOSE = ((0.43, 0.75, -0.345), (0.50, 0.94, -0.44), (0.56, 1.81, -0.80), (0.38, 2.14, -0.885))
# Parts of the rack: x0, x1, y0, y1 and the top.
_RACK = (
    (-0.05, 0.05, 0.60, 0.72, -0.275),
    (-0.49, -0.40, 0.46, 0.56, -0.280),
    (0.40, 0.49, 0.46, 0.56, -0.280),
    (-0.09, 0.09, -0.84, -0.68, -0.265),
    (-0.46, -0.42, 0.06, 0.2, -0.273),
    (0.42, 0.46, 0.06, 0.2, -0.273),
)


@dataclass(frozen=True)
class OwnReturns:
    """What N beams meet of the own vehicle: distances (metres; inf: nothing), cosines of incidence, materials."""

    distances: Float32[Array, "N"]
    facing: Float32[Array, "N"]
    materials: Int32[Array, "N"]


def vehicle_mesh() -> Mesh:
    """The parts of the vehicle that the beams reach, in the lidar frame."""
    outline = [*_RIGHT_OUTLINE, *((-x, y) for x, y in reversed(_RIGHT_OUTLINE))]
    roof = np.array([(x, y, _ROOF_Z) for x, y in outline], np.float32)
    fan = np.array([(0, i, i + 1) for i in range(1, len(roof) - 1)], np.int32)
    nose = np.array([(side * half, y, z) for half, y, z in _NOSE for side in (-1, 1)], np.float32)
    strip = np.array([(i, i + 1, i + 2) for i in range(len(nose) - 2)], np.int32)
    sheets = [
        Mesh(roof, fan, np.full(len(fan), int(Material.PAINT_GREY), np.int32)),
        Mesh(nose, strip, np.array([int(Material.GLASS)] * 4 + [int(Material.PAINT_GREY)] * 2, np.int32)),
    ]
    rack = [frustum((x0, x1, y0, y1), (x0, x1, y0, y1), (_ROOF_Z, top), Material.RIM) for x0, x1, y0, y1, top in _RACK]
    return combined([*sheets, *rack])


def own_returns(directions: Float32[Array, "N 3"]) -> OwnReturns:
    """What beams from the LiDAR along unit directions in its frame meet of the vehicle."""
    mesh = vehicle_mesh()
    vehicle = Target(mesh, np.full(len(mesh.triangles), BACKGROUND, np.int32))
    distances, triangles = vehicle.first(np.concatenate([np.zeros_like(directions), directions], axis=1))
    facing = np.abs(np.einsum("ij,ij->i", vehicle.surfaces.normals[triangles], directions))
    return OwnReturns(distances, facing, vehicle.surfaces.materials[triangles])
