"""How far away what a camera sees is, roughly: as much as fog needs to know.

Flat ground (z = 0 in ego) below the horizon; the LiDAR's newest sweep where something stands on it; above, the way
through a layer of fog. A LiDAR's beams lie degrees apart, so each of its points stands for the few cells around it. Its
top beams look up by 10 degrees only: what they meet (a house, a tree) goes on upwards as far as the picture is darker
than its sky. What is no sky and was not reached is taken to stand behind the LiDAR's reach. Without a LiDAR there is
the ground alone, and what stands on it fades like the ground behind it.
"""

import math

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64

from calibration.transforms import invert
from datasets.arrays import Array
from datasets.classes import LIDAR_CHANNEL
from datasets.corruptions.pictures import Picture
from datasets.frames import LogFrame

# The share of a picture that is darker than the light of its air.
_AIRLIGHT = 0.8
# What is as bright as this share of the air's light, above the horizon, is sky.
_BRIGHT = 0.8
# Metres: how high fog reaches above the ground, the longest way through it, and where stands what no beam of the LiDAR
# reached and is no sky either.
_LAYER, _FARTHEST, _OUT_OF_REACH = 100.0, 2000.0, 100.0
# Cells across a picture; those that a point stands for: columns, rows. (32 beams are 1.33 degrees apart, 4 rows.)
_COLUMNS, _STANDS_FOR = 200, (3, 5)
# Lower than this (metres above flat ground) is the ground; nearer to the camera than this lies the vehicle itself.
_GROUND, _NEAREST = 0.4, 2.5
# Points within this angle (radians) of a sweep's highest ones belong to its top beams.
_TOP_BEAMS = math.radians(2.8)


def airlight(pixels: Picture) -> float:
    """How bright the air is, 0..255: as bright as the picture's bright parts, so that fog at night is dark."""
    return float(np.quantile(pixels[::4, ::4].mean(axis=2), _AIRLIGHT))


def picture_distances(frame: LogFrame, channel: str, pixels: Picture) -> Float32[Array, "h w"]:
    """Metres from the camera for each of 200 cells across its picture (and as many down as keep them square)."""
    camera = frame.rig.cameras[channel]
    cell = max(camera.width / _COLUMNS, 1.0)
    width, height = math.ceil(camera.width / cell), math.ceil(camera.height / cell)
    u, v = np.meshgrid((np.arange(width) + 0.5) * cell - 0.5, (np.arange(height) + 0.5) * cell - 0.5)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.intrinsics.numpy()).T
    distances = _through_the_air(rays / np.linalg.norm(rays, axis=-1, keepdims=True), frame, channel)
    grey = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).mean(axis=2)
    standing = _standing_points(frame, channel)
    if standing is not None:
        bright = grey > _BRIGHT * airlight(pixels)
        distances = np.where(bright, distances, np.minimum(distances, _OUT_OF_REACH))
        distances = np.minimum(distances, _to_points(*standing, camera.intrinsics.numpy(), cell, bright))
    return distances.astype(np.float32)


def _through_the_air(rays_cam: Float64[Array, "h w 3"], frame: LogFrame, channel: str) -> Float64[Array, "h w"]:
    """To the ground, or out of the fog."""
    ego_from_cam = frame.rig.ego_from_sensor[channel].numpy()
    rising = (rays_cam @ ego_from_cam[:3, :3].T)[..., 2]
    height = np.where(rising > 0, _LAYER, max(float(ego_from_cam[2, 3]), 0.1))
    return np.asarray(np.minimum(height / np.maximum(np.abs(rising), 1e-6), _FARTHEST))


def _standing_points(frame: LogFrame, channel: str) -> tuple[Float64[Array, "P 3"], Bool[Array, "P"]] | None:
    """LiDAR points above the ground in cam, and which of them the sweep's top beams met; None without a LiDAR."""
    sweeps = frame.raw_lidar_sweeps.get(LIDAR_CHANNEL, ())
    if not sweeps or not len(sweeps[0].points):
        return None
    points = torch.cat([sweeps[0].points[:, :3].double(), torch.ones(len(sweeps[0].points), 1)], dim=1)
    points_ego = points @ frame.rig.ego_from_sensor[LIDAR_CHANNEL].T
    cam_from_global = invert(frame.images[channel].global_from_ego @ frame.rig.ego_from_sensor[channel])
    points_cam = (points_ego @ (cam_from_global @ sweeps[0].global_from_ego).T).numpy()[:, :3]
    upwards = np.arctan2(points[:, 2].numpy(), points[:, :2].norm(dim=1).numpy())
    standing = (points_ego[:, 2].numpy() > _GROUND) & (np.linalg.norm(points_cam, axis=1) > _NEAREST)
    return points_cam[standing], (upwards > upwards.max() - _TOP_BEAMS)[standing]


def _to_points(
    points_cam: Float64[Array, "P 3"],
    top: Bool[Array, "P"],
    intrinsics: Float64[Array, "3 3"],
    cell: float,
    bright: Bool[Array, "h w"],
) -> Float64[Array, "h w"]:
    """The nearest point for each cell; the farthest way where there is none near."""
    ahead = points_cam[:, 2] > 0.1
    points_cam, top = points_cam[ahead], top[ahead]
    projected = points_cam @ intrinsics.T
    columns, rows = np.floor((projected[:, :2] / projected[:, 2:] + 0.5) / cell).astype(np.int64).T
    inside = (rows >= 0) & (rows < bright.shape[0]) & (columns >= 0) & (columns < bright.shape[1])
    columns, rows, top = columns[inside], rows[inside], top[inside]
    away = np.linalg.norm(points_cam[inside], axis=1)
    nearest = np.full(bright.shape, _FARTHEST)
    np.minimum.at(nearest, (rows, columns), away)
    highest = np.full(bright.shape, _FARTHEST)
    np.minimum.at(highest, (rows[top], columns[top]), away[top])
    nearest, highest = (cv2.erode(cells, np.ones(_STANDS_FOR[::-1], np.uint8)) for cells in (nearest, highest))
    for column in np.flatnonzero((highest < _FARTHEST).any(axis=0)):
        met = int(np.flatnonzero(highest[:, column] < _FARTHEST)[0])
        sky = np.flatnonzero(bright[:met, column])
        end = int(sky[-1]) + 1 if len(sky) else 0
        nearest[end:met, column] = np.minimum(nearest[end:met, column], highest[met, column])
    return np.asarray(nearest)
