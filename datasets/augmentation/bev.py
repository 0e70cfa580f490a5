"""Augmentation in BEV: one matrix turns points, radar velocities, boxes, cameras and ego motion together.

`augmented_from_ego` is the matrix of a turn about z, a scale, mirrorings and a shift; everything that is said in ego is
said in `augmented` afterwards. Pictures stay as they are: their `ego_from_cam` turns with the world.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.samples.sample import EGO_MOTION_FIELDS, FULL_RADAR_POINT_FIELDS, RADAR_POINT_FIELDS, Sample
from datasets.sensors.moved_points import moved_points

_RADAR_VELOCITY = [RADAR_POINT_FIELDS.index(name) for name in ("vx_comp", "vy_comp")]
_MEASURED_RADAR_VELOCITY = [FULL_RADAR_POINT_FIELDS.index(name) for name in ("vx", "vy")]


@dataclass(frozen=True)
class BevAugmentation:
    """How far the world is turned: the smaller of the two published settings (CenterPoint, Yin et al. 2021)."""

    max_rotation: float = math.radians(22.5)
    """Largest turn to either side, radians."""
    scale_range: tuple[float, float] = (0.95, 1.05)
    flip: bool = True
    """Mirror left to right, and front to back, each with probability one half."""
    translation_std: float = 0.0
    """Standard deviation of a shift along each axis, metres; 0.5 in CenterPoint."""

    def __post_init__(self) -> None:
        if not 0 < self.scale_range[0] <= self.scale_range[1] < math.inf:
            raise ValueError(f"scale_range {self.scale_range} must be two positive numbers, the smaller one first")
        if not 0 <= self.max_rotation < math.inf:
            raise ValueError(f"max_rotation must not be negative, and finite, not {self.max_rotation}")
        if not 0 <= self.translation_std < math.inf:
            raise ValueError(f"translation_std must not be negative, and finite, not {self.translation_std}")

    def draw(self, generator: torch.Generator) -> Float64[Tensor, "4 4"]:
        """A random `augmented_from_ego`."""
        turn, size, mirror_x, mirror_y = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        yaw = (2.0 * turn - 1.0) * self.max_rotation
        scale = self.scale_range[0] + size * (self.scale_range[1] - self.scale_range[0])
        signs = [-1.0 if self.flip and draw < 0.5 else 1.0 for draw in (mirror_x, mirror_y)]
        rotation = torch.tensor(
            [[math.cos(yaw), -math.sin(yaw), 0.0], [math.sin(yaw), math.cos(yaw), 0.0], [0.0, 0.0, 1.0]],
            dtype=torch.float64,
        )
        augmented_from_ego = torch.eye(4, dtype=torch.float64)
        augmented_from_ego[:3, :3] = scale * rotation @ torch.diag(torch.tensor([*signs, 1.0], dtype=torch.float64))
        shift = torch.randn(3, generator=generator, dtype=torch.float64)
        augmented_from_ego[:3, 3] = self.translation_std * shift
        return augmented_from_ego


def augment(sample: Sample, augmented_from_ego: Float64[Tensor, "4 4"]) -> Sample:
    """The sample as if the world around the vehicle had been turned, scaled, mirrored and shifted by this matrix.

    The very same sample where the matrix is the identity.
    """
    if torch.equal(augmented_from_ego, torch.eye(4, dtype=torch.float64)):
        return sample
    linear, shift = augmented_from_ego[:3, :3].float(), augmented_from_ego[:3, 3].float()
    return replace(
        sample,
        ego_from_cam=augmented_from_ego.float() @ sample.ego_from_cam,
        lidar_points=moved_points(sample.lidar_points, augmented_from_ego),
        radar_points=_turned_radar(sample.radar_points, augmented_from_ego),
        ego_motion=_turned_ego_motion(sample.ego_motion, linear, shift) * sample.ego_motion_valid[:, None],
        global_from_ego=sample.global_from_ego @ torch.linalg.inv(augmented_from_ego),
        boxes=None if sample.boxes is None else turned_boxes(sample.boxes, augmented_from_ego),
    )


def _turned_radar(points: Float32[Tensor, "R C"], augmented_from_ego: Float64[Tensor, "4 4"]) -> Float32[Tensor, "R C"]:
    turned = moved_points(points, augmented_from_ego)
    full = points.shape[1] == len(FULL_RADAR_POINT_FIELDS)
    for velocity in [_RADAR_VELOCITY, _MEASURED_RADAR_VELOCITY] if full else [_RADAR_VELOCITY]:
        turned[:, velocity] = points[:, velocity] @ augmented_from_ego[:2, :2].float().T
    return turned


def turned_boxes(boxes: Boxes3D, augmented_from_ego: Float64[Tensor, "4 4"]) -> Boxes3D:
    """Boxes in ego to boxes in augmented: `transformed` carries centres, headings and velocities, mirrors included."""
    turned = boxes.transformed(augmented_from_ego)
    scale = float(augmented_from_ego[2, 2])
    return replace(turned, sizes_wlh=turned.sizes_wlh * scale)


def _turned_ego_motion(
    rows: Float32[Tensor, "T 11"], linear: Float[Tensor, "3 3"], shift: Float[Tensor, "3"]
) -> Float32[Tensor, "T 11"]:
    columns = {name: rows[:, index] for index, name in enumerate(EGO_MOTION_FIELDS)}
    scale = float(linear[2, 2])
    plane = linear[:2, :2]
    mirrored = -1.0 if float(torch.linalg.det(plane)) < 0 else 1.0
    headings = torch.stack([columns["cos_yaw"], columns["sin_yaw"]], dim=1) @ (plane / scale).T
    # The vehicle itself is shifted with the world; GPS is relative to its own newest fix.
    positions = torch.stack([columns["x"], columns["y"]], dim=1) @ plane.T + shift[:2]
    gps = torch.stack([columns["gps_x"], columns["gps_y"]], dim=1) @ plane.T
    columns |= {
        "x": positions[:, 0],
        "y": positions[:, 1],
        "cos_yaw": headings[:, 0],
        "sin_yaw": headings[:, 1],
        "speed": columns["speed"] * scale,
        "acceleration": columns["acceleration"] * scale,
        "yaw_rate": columns["yaw_rate"] * mirrored,
        "gps_x": gps[:, 0],
        "gps_y": gps[:, 1],
    }
    return torch.stack([columns[name] for name in EGO_MOTION_FIELDS], dim=1)
