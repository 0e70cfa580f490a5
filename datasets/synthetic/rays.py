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

    def __init__(self, mesh: Mesh, owners: Int32[Array, "T"]) -> None:
        self._materials = np.append(mesh.materials, -1).astype(np.int32)
        self._owners = np.append(owners, BACKGROUND).astype(np.int32)
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


class _Movers:
    """All users that move, as one mesh whose vertices can be put where they are at a time."""

    def __init__(self, users: list[RoadUser]) -> None:
        self._users = users
        # A body's triangles stay the same in every posture; its vertices are taken at the instant.
        self._mesh = combined([user.body.mesh for user in users])
        counts = [len(user.body.mesh.vertices) for user in users]
        self._user_of_vertex = np.repeat(np.arange(len(users)), counts)
        self._owners = np.repeat(
            np.array([user.number for user in users], np.int32), [len(user.body.mesh.triangles) for user in users]
        )

    def at(self, time: float) -> _Target:
        poses = np.array([(*user.track.at(time), user.track.z) for user in self._users], np.float64).reshape(-1, 4)
        cos, sin = np.cos(poses[:, 2])[self._user_of_vertex], np.sin(poses[:, 2])[self._user_of_vertex]
        own = np.concatenate([np.zeros((0, 3), np.float32), *(user.mesh_at(time).vertices for user in self._users)])
        place = poses[self._user_of_vertex]
        vertices = np.empty_like(own)
        vertices[:, 0] = cos * own[:, 0] - sin * own[:, 1] + place[:, 0]
        vertices[:, 1] = sin * own[:, 0] + cos * own[:, 1] + place[:, 1]
        vertices[:, 2] = own[:, 2] + place[:, 3]
        return _Target(Mesh(vertices, self._mesh.triangles, self._mesh.materials), self._owners)


class Surroundings:
    """The world as rays see it."""

    def __init__(self, world: World) -> None:
        self.world = world
        resting = [user for user in world.users if not user.track.moves]
        meshes = [world.background, *(_placed(user) for user in resting)]
        owners = np.array([BACKGROUND, *(user.number for user in resting)], np.int32)
        self._still = _Target(combined(meshes), np.repeat(owners, [len(mesh.triangles) for mesh in meshes]))
        self._movers = _Movers([user for user in world.users if user.track.moves])

    def at(self, time: float) -> "Instant":
        """The world frozen at a time."""
        return Instant(self.world, self._still, self._movers.at(time))


def _placed(user: RoadUser) -> Mesh:
    x, y, yaw = user.track.at(0.0)
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
        # Few rays meet what moves: only those are taken over.
        nearer = (moving.distances < still.distances).nonzero()[0]
        distances, normals, materials, owners = (
            a.copy() for a in (still.distances, still.normals, still.materials, still.owners)
        )
        distances[nearer], normals[nearer] = moving.distances[nearer], moving.normals[nearer]
        materials[nearer], owners[nearer] = moving.materials[nearer], moving.owners[nearer]
        away = np.einsum("ij,ij->i", normals, rays[:, 3:]) > 0
        normals[away] *= -1
        ground = (materials == Material.GROUND).nonzero()[0]
        places = rays[ground, :2].astype(np.float64) + distances[ground, None].astype(np.float64) * rays[ground, 3:5]
        materials[ground] = self._world.plan.surface.at(places)
        return Hits(distances, normals, materials, owners)

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
