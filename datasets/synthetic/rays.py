"""Casting rays into a world at one instant: what stands still is built once for a scene, what moves for the instant."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import open3d as o3d
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from datasets.arrays import Array
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, combined
from datasets.synthetic.traffic.users import RoadUser
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


@dataclass(frozen=True)
class Surfaces:
    """By triangle: unit normal (to either side), material (the ground is GROUND), owner; last row: no triangle."""

    normals: Float32[Array, "T 3"]
    materials: Int32[Array, "T"]
    owners: Int32[Array, "T"]


class Target:
    """A set of triangles that rays can be cast at, and their surfaces."""

    def __init__(self, mesh: Mesh, owners: Int32[Array, "T"]) -> None:
        self.mesh = mesh
        corners = mesh.vertices[mesh.triangles]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
        self.surfaces = Surfaces(
            np.append(across, np.zeros((1, 3), across.dtype), axis=0).astype(np.float32),
            np.append(mesh.materials, -1).astype(np.int32),
            np.append(owners, BACKGROUND).astype(np.int32),
        )
        self._scene = None
        if len(mesh.triangles):
            self._scene = o3d.t.geometry.RaycastingScene(nthreads=1)
            self._scene.add_triangles(
                o3d.core.Tensor.from_numpy(mesh.vertices),
                o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.uint32)),
            )

    def first(self, rays: Float32[Array, "N 6"]) -> tuple[Float32[Array, "N"], Int32[Array, "N"]]:
        """How far each ray goes (inf: for ever) and which triangle it meets (-1: none)."""
        if self._scene is None or not len(rays):
            return np.full(len(rays), np.inf, np.float32), np.full(len(rays), -1, np.int32)
        found = self._scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)
        # Embree's number for no triangle is the largest of 32 bits.
        return found["t_hit"].numpy(), found["primitive_ids"].numpy().view(np.int32)

    def blocked(self, rays: Float32[Array, "N 6"]) -> Bool[Array, "N"]:
        """Which rays meet anything."""
        if self._scene is None or not len(rays):
            return np.zeros(len(rays), bool)
        found: Bool[Array, N] = self._scene.test_occlusions(o3d.core.Tensor.from_numpy(rays), nthreads=1).numpy()
        return found


class Surroundings:
    """The world as rays see it."""

    def __init__(self, world: World) -> None:
        self.world = world
        resting = [user for user in world.users if not user.track.moves]
        meshes = [world.background, *(_placed(user) for user in resting)]
        owners = np.array([BACKGROUND, *(user.number for user in resting)], np.int32)
        self.still = Target(combined(meshes), np.repeat(owners, [len(mesh.triangles) for mesh in meshes]))
        self.movers = [user for user in world.users if user.track.moves]

    def at(self, time: float, chosen: Sequence[RoadUser] | None = None) -> "Instant":
        """The world frozen at a time; of what moves only the chosen users, where they are given."""
        users = self.movers if chosen is None else chosen
        return Instant(self.world, time, self.still, _moved(users, time))


def _placed(user: RoadUser) -> Mesh:
    x, y, yaw = user.track.at(0.0)
    return user.body.mesh.moved(x, y, user.track.z, yaw)


def _moved(users: Sequence[RoadUser], time: float) -> Target:
    """Users as one mesh whose vertices are where they are at a time."""
    mesh = combined([user.mesh_at(time) for user in users])
    numbers = np.array([user.number for user in users], np.int32)
    owners = np.repeat(numbers, [len(user.body.mesh.triangles) for user in users])
    poses = np.array([(*user.track.at(time), user.track.z) for user in users], np.float64).reshape(-1, 4)
    place = np.repeat(poses, [len(user.body.mesh.vertices) for user in users], axis=0)
    cos, sin = np.cos(place[:, 2]), np.sin(place[:, 2])
    own, vertices = mesh.vertices, np.empty_like(mesh.vertices)
    vertices[:, 0] = cos * own[:, 0] - sin * own[:, 1] + place[:, 0]
    vertices[:, 1] = sin * own[:, 0] + cos * own[:, 1] + place[:, 1]
    vertices[:, 2] = own[:, 2] + place[:, 3]
    return Target(Mesh(vertices, mesh.triangles, mesh.materials), owners)


@dataclass(frozen=True)
class Instant:
    """The world frozen at one time. Rays (N, 6) are origin and unit direction in world coordinates."""

    world: World
    time: float
    still: Target
    moving: Target

    @cached_property
    def surfaces(self) -> Surfaces:
        """Those of all triangles: what stands still first, then what moves, then the row for none."""
        still, moving = self.still.surfaces, self.moving.surfaces
        return Surfaces(
            np.concatenate([still.normals[:-1], moving.normals]),
            np.concatenate([still.materials[:-1], moving.materials]),
            np.concatenate([still.owners[:-1], moving.owners]),
        )

    def first(self, rays: Float32[Array, "N 6"]) -> tuple[Float32[Array, "N"], Int32[Array, "N"]]:
        """How far each ray goes (inf: for ever) and which row of `surfaces` it meets (-1: none)."""
        distances, triangles = self.still.first(rays)
        self.meet_moving(rays, np.arange(len(rays)), distances, triangles)
        return distances, triangles

    def meet_moving(
        self,
        rays: Float32[Array, "K 6"],
        numbers: Int64[Array, "K"],
        distances: Float32[Array, "N"],
        triangles: Int32[Array, "N"],
    ) -> None:
        """Write to `distances` and `triangles` of the rays with these numbers what moves and is nearer."""
        found, triangle = self.moving.first(rays)
        nearer = (found < distances[numbers]).nonzero()[0]
        distances[numbers[nearer]] = found[nearer]
        triangles[numbers[nearer]] = triangle[nearer] + (len(self.still.surfaces.owners) - 1)

    def cast(self, rays: Float32[Array, "N 6"]) -> Hits:
        """What each ray meets first; the ground's material is looked up in the surface map."""
        distances, triangles = self.first(rays)
        normals, materials, owners = (
            table[triangles] for table in (self.surfaces.normals, self.surfaces.materials, self.surfaces.owners)
        )
        return completed(self.world, rays, Hits(distances, normals, materials, owners))

    def blocked(self, rays: Float32[Array, "N 6"]) -> Bool[Array, "N"]:
        """Which rays meet anything at all."""
        blocked = self.still.blocked(rays)
        free = (~blocked).nonzero()[0]
        blocked[free] = self.moving.blocked(np.ascontiguousarray(rays[free]))
        return blocked


def completed(world: World, rays: Float32[Array, "N 6"], hits: Hits) -> Hits:
    """Hits whose normals may look to either side and whose ground is only GROUND, made what Hits promises."""
    normals, materials = hits.normals.copy(), hits.materials.copy()
    away = np.einsum("ij,ij->i", normals, rays[:, 3:]) > 0
    normals[away] *= -1
    ground = (materials == Material.GROUND).nonzero()[0]
    along = hits.distances[ground, None].astype(np.float64)
    materials[ground] = world.plan.surface.at(rays[ground, :2].astype(np.float64) + along * rays[ground, 3:5])
    return Hits(hits.distances, normals, materials, hits.owners)


def rays_from(world_from_sensor: Float64[Array, "4 4"], directions: Float32[Array, "N 3"]) -> Float32[Array, "N 6"]:
    """Rays from a sensor's origin along directions in its frame."""
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3] = world_from_sensor[:3, 3]
    turn = world_from_sensor[:3, :3].astype(np.float32)
    for axis in range(3):  # a third of what a product of so thin matrices takes
        rays[:, 3 + axis] = directions @ turn[axis]
    return rays
