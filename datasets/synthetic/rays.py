"""Casting rays into a world at one instant: what stands still is built once for a scene, what moves for the instant."""

from dataclasses import dataclass

import numpy as np
import open3d as o3d
from jaxtyping import Bool, Float32, Float64, Int32

from datasets.synthetic.arrays import Array
from datasets.synthetic.materials import Material
from datasets.synthetic.meshes import Mesh, combined
from datasets.synthetic.traffic import RoadUser
from datasets.synthetic.world import World

BACKGROUND = -1  # The owner of what is not a road user.
_MOVING_REACH = 130.0


@dataclass(frozen=True)
class Hits:
    """What N rays met first. `distances` is inf and `materials` -1 for rays that met nothing.

    `normals` look towards where the ray came from; `owners` are road users' numbers or BACKGROUND.
    """

    distances: Float32[Array, "N"]
    normals: Float32[Array, "N 3"]
    materials: Int32[Array, "N"]
    owners: Int32[Array, "N"]


class _Target:
    """A set of triangles that rays can be cast at, each with its material and its owner."""

    def __init__(self, meshes: list[Mesh], owners: list[int]) -> None:
        mesh = combined(meshes)
        self._materials = np.append(mesh.materials, -1).astype(np.int32)
        counts = [len(m.triangles) for m in meshes]
        self._owners = np.append(np.repeat(np.array(owners, np.int32), counts), BACKGROUND).astype(np.int32)
        self._scene = None
        if len(mesh.triangles):
            self._scene = o3d.t.geometry.RaycastingScene(nthreads=1)
            self._scene.add_triangles(
                o3d.core.Tensor.from_numpy(mesh.vertices),
                o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.uint32)),
            )

    def cast(self, rays: Float32[Array, "N 6"]) -> Hits:
        if self._scene is None:
            count = len(rays)
            return Hits(
                np.full(count, np.inf, np.float32),
                np.zeros((count, 3), np.float32),
                np.full(count, -1, np.int32),
                np.full(count, BACKGROUND, np.int32),
            )
        found = self._scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)
        # Rays that meet nothing carry the largest number as their triangle: the last row of the look-up tables.
        triangle = np.minimum(found["primitive_ids"].numpy(), len(self._materials) - 1).astype(np.int64)
        return Hits(
            found["t_hit"].numpy(),
            found["primitive_normals"].numpy(),
            self._materials[triangle],
            self._owners[triangle],
        )

    def blocked(self, rays: Float32[Array, "N 6"]) -> Bool[Array, "N"]:
        if self._scene is None:
            return np.zeros(len(rays), bool)
        found: Bool[Array, N] = self._scene.test_occlusions(o3d.core.Tensor.from_numpy(rays), nthreads=1).numpy()
        return found


class Surroundings:
    """The world as rays see it."""

    def __init__(self, world: World) -> None:
        self.world = world
        resting = [user for user in world.users if not user.track.moves]
        self._moving = [user for user in world.users if user.track.moves]
        self._still = _Target(
            [world.background, *(_placed(user, 0.0) for user in resting)],
            [BACKGROUND, *(user.number for user in resting)],
        )

    def at(self, time: float) -> "Instant":
        """The surroundings of the ego vehicle at a time."""
        x, y, _ = self.world.drive.track.at(time)
        near = [
            user for user in self._moving if np.hypot(*np.subtract(user.track.at(time)[:2], (x, y))) < _MOVING_REACH
        ]
        return Instant(
            self.world, self._still, _Target([_placed(user, time) for user in near], [u.number for u in near])
        )


def _placed(user: RoadUser, time: float) -> Mesh:
    x, y, yaw = user.track.at(time)
    return user.body.mesh.moved(x, y, user.track.z, yaw)


class Instant:
    """The world frozen at one time. Rays (N, 6) are origin and unit direction in world coordinates."""

    def __init__(self, world: World, still: _Target, moving: _Target) -> None:
        self._world = world
        self._still = still
        self._moving = moving

    def cast(self, rays: Float32[Array, "N 6"]) -> Hits:
        """What each ray meets first; the ground's material is looked up in the surface map."""
        still, moving = self._still.cast(rays), self._moving.cast(rays)
        nearer = moving.distances < still.distances
        distances = np.where(nearer, moving.distances, still.distances)
        normals = np.where(nearer[:, None], moving.normals, still.normals)
        normals *= -np.sign(np.einsum("ij,ij->i", normals, rays[:, 3:]))[:, None]
        materials = np.where(nearer, moving.materials, still.materials)
        ground = (materials == Material.GROUND).nonzero()[0]
        places = rays[ground, :2].astype(np.float64) + distances[ground, None].astype(np.float64) * rays[ground, 3:5]
        materials[ground] = self._world.plan.surface.at(places)
        return Hits(distances, normals, materials, np.where(nearer, moving.owners, still.owners))

    def blocked(self, rays: Float32[Array, "N 6"]) -> Bool[Array, "N"]:
        """Which rays meet anything at all."""
        blocked = self._still.blocked(rays)
        free = (~blocked).nonzero()[0]
        blocked[free] = self._moving.blocked(np.ascontiguousarray(rays[free]))
        return blocked


def rays_from(world_from_sensor: Float64[Array, "4 4"], directions: Float32[Array, "N 3"]) -> Float32[Array, "N 6"]:
    """Rays from a sensor's origin along directions in its frame."""
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3] = world_from_sensor[:3, 3]
    rays[:, 3:] = directions @ world_from_sensor[:3, :3].T.astype(np.float32)
    return rays
