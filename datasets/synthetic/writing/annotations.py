"""The truth of one keyframe: boxes, how many points lie in them, how much of each object the cameras see."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from calibration.cameras import PinholeCamera
from datasets.arrays import Array
from datasets.boxes import Boxes3D
from datasets.sensors.points_in_boxes import points_in_boxes
from datasets.synthetic.rays import Instant
from datasets.synthetic.traffic.users import RoadUser
from datasets.synthetic.world import World

ANNOTATED_RANGE = 80.0
_VISIBILITY_POINTS = 40


@dataclass(frozen=True)
class Annotation:
    """One road user at one keyframe. `translation` is the box's middle in global; `visibility` lies in 0..1."""

    user: int
    translation: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]
    attribute: str | None
    visibility: float
    lidar_points: int
    radar_points: int


@dataclass(frozen=True)
class KeyframePoints:
    """Points of a keyframe in global, of sensors whose stamps are late by `stamped_late` seconds (a fault).

    They are counted in the boxes that they met: those of `stamped_late` seconds before the keyframe.
    """

    lidar_global: Float64[Array, "P 3"]
    radar_global: Float64[Array, "R 3"]
    stamped_late: float = 0.0


def annotate(
    world: World,
    time: float,
    clouds: list[KeyframePoints],
    instant: Instant,
    cameras: dict[str, tuple[PinholeCamera, Float64[Array, "4 4"]]],
) -> list[Annotation]:
    """Every road user within ANNOTATED_RANGE of the ego vehicle, also those that nothing sees.

    `cameras` holds each camera with its world_from_cam; `instant` is the world at `time`.
    """
    here = world.drive.track.at(time)[:2]
    users = [u for u in world.users if np.hypot(*np.subtract(u.track.at(time)[:2], here)) <= ANNOTATED_RANGE]
    places, yaws = _stand(users, world, time)
    lidar_counts, radar_counts = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    for points in clouds:
        lidar, radar = _count(users, *_stand(users, world, time - points.stamped_late), points)
        lidar_counts, radar_counts = lidar_counts + lidar, radar_counts + radar
    seen = _visibilities(users, world, time, instant, cameras)
    return [
        Annotation(
            user=user.number,
            translation=(places[i][0], places[i][1], places[i][2]),
            rotation_wxyz=(float(np.cos(yaws[i] / 2)), 0.0, 0.0, float(np.sin(yaws[i] / 2))),
            attribute=user.attribute(time),
            visibility=seen[i],
            lidar_points=int(lidar_counts[i]),
            radar_points=int(radar_counts[i]),
        )
        for i, user in enumerate(users)
    ]


def _stand(users: list[RoadUser], world: World, time: float) -> tuple[list[tuple[float, ...]], list[float]]:
    """The middles of the users' boxes in global and their yaws."""
    places, yaws = [], []
    for user in users:
        x, y, yaw = user.track.at(time)
        middle = np.array([x, y, user.track.z + user.body.size_wlh[2] / 2]) + world.global_offset
        places.append(tuple(round(float(v), 3) for v in middle))
        yaws.append(float((yaw + np.pi) % (2 * np.pi) - np.pi))
    return places, yaws


def _count(
    users: list[RoadUser], places: list[tuple[float, ...]], yaws: list[float], points: KeyframePoints
) -> tuple[Int64[Array, "M"], Int64[Array, "M"]]:
    boxes = Boxes3D(
        centers=torch.tensor(places, dtype=torch.float64).reshape(-1, 3),
        sizes_wlh=torch.tensor([u.body.size_wlh for u in users], dtype=torch.float64).reshape(-1, 3),
        yaws=torch.tensor(yaws, dtype=torch.float64),
        velocities=torch.zeros(len(users), 2, dtype=torch.float64),
        labels=torch.zeros(len(users), dtype=torch.int64),
        scores=torch.ones(len(users), dtype=torch.float64),
        attributes=torch.full((len(users),), -1),
    )
    return _points_in(boxes, points.lidar_global), _points_in(boxes, points.radar_global)


def _points_in(boxes: Boxes3D, cloud: Float64[Array, "P 3"]) -> Int64[Array, "M"]:
    return points_in_boxes(boxes, torch.from_numpy(cloud)).counts.numpy()


def _visibilities(
    users: list[RoadUser],
    world: World,
    time: float,
    instant: Instant,
    cameras: dict[str, tuple[PinholeCamera, Float64[Array, "4 4"]]],
) -> list[float]:
    """The share of rays from cameras to places on each object that reach the object; 0 outside all pictures."""
    rays, owners = [np.zeros((0, 6), np.float32)], [np.zeros(0, np.int64)]
    targets = np.concatenate([np.zeros((0, 3)), *(_surface_points(user, time) for user in users)])
    numbers = np.repeat(np.array([user.number for user in users], np.int64), _VISIBILITY_POINTS)
    for camera, world_from_cam in cameras.values():
        offsets = targets - world_from_cam[:3, 3]
        in_cam = offsets @ world_from_cam[:3, :3]
        image = in_cam @ camera.intrinsics.numpy().T
        u, v = (image[:, i] / np.maximum(in_cam[:, 2], 1e-6) for i in (0, 1))
        inside = (in_cam[:, 2] > 0.3) & (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
        directions = offsets[inside] / np.linalg.norm(offsets[inside], axis=1, keepdims=True)
        origins = np.broadcast_to(world_from_cam[:3, 3], directions.shape)
        rays.append(np.hstack([origins, directions]).astype(np.float32))
        owners.append(numbers[inside])
    meant = np.concatenate(owners)
    reached = instant.cast(np.concatenate(rays)).owners == meant
    return [float(reached[meant == user.number].mean()) if (meant == user.number).any() else 0.0 for user in users]


def _surface_points(user: RoadUser, time: float) -> Float32[Array, "K 3"]:
    """Places on the object's surface, spread over its triangles by their area."""
    mesh = user.mesh_at(time)
    rng = np.random.default_rng(user.number)
    corners = mesh.vertices[mesh.triangles]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = corners[rng.choice(len(areas), _VISIBILITY_POINTS, p=areas / areas.sum())]
    weights = rng.dirichlet([1.0, 1.0, 1.0], _VISIBILITY_POINTS)
    local = np.einsum("ki,kij->kj", weights, chosen)
    x, y, yaw = user.track.at(time)
    cos, sin = np.cos(yaw), np.sin(yaw)
    placed = local @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]) + np.array([x, y, user.track.z])
    return np.asarray(placed, np.float32)
