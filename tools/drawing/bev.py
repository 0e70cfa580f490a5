"""The picture of the ground from above: points, radar returns, boxes, the vehicle. Ego x points up, ego y left."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from datasets.boxes import Boxes3D
from tools.drawing.canvas import Text, blank, disc, fill, letter, shrunk, stroke
from tools.drawing.palette import (
    CLASS_COLORS,
    EGO,
    FAINT,
    GROUND,
    HEIGHT_STOPS,
    INK,
    RADAR,
    RING,
    SOFT,
    Color,
)

# Everything is drawn this many times too large and averaged down: smooth points as well as smooth lines.
_SUPERSAMPLING = 2
# The recording vehicle's outline in ego (metres): a compact car around its rear axle.
_EGO_OUTLINE = (
    (3.1, 0.0),
    (2.9, 0.7),
    (2.3, 0.87),
    (-0.8, 0.87),
    (-1.0, 0.7),
    (-1.0, -0.7),
    (-0.8, -0.87),
    (2.3, -0.87),
    (2.9, -0.7),
)
# Boxes slower than this get no velocity arrow, m/s. An arrow shows the way of one second.
_SLOWEST_ARROW = 0.5


@dataclass(frozen=True)
class BevView:
    """Which patch of the ground (ego, metres) a picture shows, and how large."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    pixels_per_metre: float

    @classmethod
    def fitting(cls, x_range: tuple[float, float], y_range: tuple[float, float], width: int, height: int) -> "BevView":
        """The largest view of this patch that fits into `width` x `height` pixels."""
        scale = min(width / (y_range[1] - y_range[0]), height / (x_range[1] - x_range[0]))
        return cls(x_range, y_range, scale)

    @property
    def width(self) -> int:
        """Pixels along ego y."""
        return round((self.y_range[1] - self.y_range[0]) * self.pixels_per_metre)

    @property
    def height(self) -> int:
        """Pixels along ego x."""
        return round((self.x_range[1] - self.x_range[0]) * self.pixels_per_metre)

    def scaled(self, factor: int | float) -> "BevView":
        """The same patch in a picture `factor` times as large."""
        return BevView(self.x_range, self.y_range, self.pixels_per_metre * factor)

    def pixels(self, points_xy: Float[Tensor, "P 2"]) -> Float[Tensor, "P 2"]:
        """Ground points (P, 2; x, y in ego) to pixels (P, 2; u right, v down); (0, 0) is the first pixel's middle."""
        u = (self.y_range[1] - points_xy[:, 1]) * self.pixels_per_metre - 0.5
        v = (self.x_range[1] - points_xy[:, 0]) * self.pixels_per_metre - 0.5
        return torch.stack([u, v], dim=1)


@dataclass(frozen=True)
class BevScene:
    """What is to be seen, all in ego: LiDAR points (P, 3); radar returns (R, 4: x, y, vx, vy over ground).

    `annotations` and `detections` are None where there are none to show; `annotation_colors`: one for each.
    """

    lidar_points: Float32[Tensor, "P 3"]
    radar_returns: Float32[Tensor, "R 4"]
    annotations: Boxes3D | None
    annotation_colors: tuple[Color, ...]
    detections: Boxes3D | None


def draw_bev(scene: BevScene, view: BevView) -> UInt8[Tensor, "H W 3"]:
    """The whole picture, `view.height` x `view.width`."""
    large = view.scaled(_SUPERSAMPLING)
    picture = blank(large.height, large.width, GROUND)
    _draw_rings(picture, large)
    _draw_lidar(picture, large, scene.lidar_points)
    _draw_ego(picture, large)
    if scene.detections is not None:
        found = class_colors(scene.detections)
        draw_ground_boxes(picture, large, scene.detections, found, 5, 0.22)
        _draw_velocities(picture, large, scene.detections, found, 3)
    if scene.annotations is not None:
        plain, colors = scene.detections is None, scene.annotation_colors
        draw_ground_boxes(picture, large, scene.annotations, colors, 3 if plain else 2, 0.16 if plain else 0.0)
        _draw_velocities(picture, large, scene.annotations, colors, 2)
    _draw_radar(picture, large, scene.radar_returns)
    picture = shrunk(picture, view.height, view.width)
    letter(picture, _ring_labels(view))
    _draw_scale(picture, view)
    return picture


def class_colors(boxes: Boxes3D) -> list[Color]:
    """The colour of each box's class."""
    return [CLASS_COLORS[label] for label in boxes.labels.tolist()]


def draw_ground_boxes(
    picture: UInt8[Tensor, "H W 3"],
    view: BevView,
    boxes: Boxes3D,
    colors: Sequence[Color],
    thickness: int,
    opacity: float,
) -> None:
    """Boxes (ego) as turned rectangles with a tick towards their front, filled to `opacity`."""
    corners = boxes.corners()[:, [0, 1, 5, 4], :2]
    for index, color in enumerate(colors):
        outline = view.pixels(corners[index])
        if opacity > 0:
            fill(picture, outline, color, opacity)
        stroke(picture, outline, color, thickness, closed=True)
        center, front = boxes.centers[index, :2], corners[index, :2].mean(dim=0)
        stroke(picture, view.pixels(torch.stack([center, front])), color, thickness)


def _draw_velocities(
    picture: UInt8[Tensor, "H W 3"], view: BevView, boxes: Boxes3D, colors: Sequence[Color], thickness: int
) -> None:
    """An arrow of one second's motion from the middle of each box that moves and whose velocity is known."""
    moving = torch.isfinite(boxes.velocities).all(dim=1) & (boxes.velocities.norm(dim=1) >= _SLOWEST_ARROW)
    for index in moving.nonzero()[:, 0].tolist():
        center = boxes.centers[index, :2]
        way = torch.stack([center, center + boxes.velocities[index]])
        _draw_arrow(picture, view.pixels(way), colors[index], thickness)


def _draw_arrow(
    picture: UInt8[Tensor, "H W 3"], points_img: Float[Tensor, "2 2"], color: Color, thickness: int
) -> None:
    stroke(picture, points_img, color, thickness)
    tail, tip = points_img
    along = (tip - tail) / (tip - tail).norm().clamp(min=1e-6)
    across = torch.stack([-along[1], along[0]])
    size = 3.0 * thickness + 2.0
    head = torch.stack(
        [tip + along * 0.4 * size, tip - along * size + across * 0.6 * size, tip - along * size - across * 0.6 * size]
    )
    fill(picture, head, color)


def _ring_radii(view: BevView) -> list[int]:
    farthest = max(abs(value) for value in (*view.x_range, *view.y_range))
    return list(range(10, int(math.hypot(farthest, farthest)) + 1, 10))


def _draw_rings(picture: UInt8[Tensor, "H W 3"], view: BevView) -> None:
    middle = view.pixels(torch.zeros(1, 2))[0]
    for radius in _ring_radii(view):
        disc(picture, middle, radius * view.pixels_per_metre, RING, _SUPERSAMPLING)


def _ring_labels(view: BevView) -> list[Text]:
    labels = []
    for radius in _ring_radii(view):
        if radius % 20 == 0 and radius < view.x_range[1]:
            u, v = view.pixels(torch.tensor([[float(radius), 0.0]]))[0].tolist()
            labels.append(Text(u + 5, v - 3, f"{radius} m", 14, FAINT, "lb"))
    return labels


def _draw_scale(picture: UInt8[Tensor, "H W 3"], view: BevView) -> None:
    length = 10.0 * view.pixels_per_metre
    right, v = view.width - 18.0, view.height - 20.0
    bar = torch.tensor([[right - length, v - 5], [right - length, v], [right, v], [right, v - 5]])
    stroke(picture, bar, SOFT, 1)
    letter(picture, [Text(right - length / 2, v - 6, "10 m", 14, SOFT, "mb")])


def _draw_lidar(picture: UInt8[Tensor, "H W 3"], view: BevView, points: Float32[Tensor, "P 3"]) -> None:
    """Each point a dot of its height's colour; the higher points are drawn last."""
    points = points[torch.isfinite(points).all(dim=1)]
    points = points[torch.argsort(points[:, 2])]
    pixels = view.pixels(points[:, :2]).round().long()
    heights = points[:, 2].numpy()
    stops = np.array([height for height, _ in HEIGHT_STOPS])
    shades = np.array([color for _, color in HEIGHT_STOPS], dtype=np.float64)
    colors = torch.from_numpy(np.stack([np.interp(heights, stops, shades[:, axis]) for axis in range(3)], axis=-1))
    # A dot is three by three pixels of the large picture: one and a half in the final one.
    for step_u, step_v in itertools.product((-1, 0, 1), repeat=2):
        u, v = pixels[:, 0] + step_u, pixels[:, 1] + step_v
        inside = (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
        picture[v[inside], u[inside]] = colors[inside].to(torch.uint8)


def _draw_radar(picture: UInt8[Tensor, "H W 3"], view: BevView, returns: Float32[Tensor, "R 4"]) -> None:
    """Each return a small dot with a tick along its compensated radial velocity: the way of one second."""
    returns = returns[torch.isfinite(returns).all(dim=1)]
    starts = view.pixels(returns[:, :2])
    ends = view.pixels(returns[:, :2] + returns[:, 2:])
    for start, end in zip(starts, ends, strict=True):
        stroke(picture, torch.stack([start, end]), RADAR, _SUPERSAMPLING)
        disc(picture, start, 1.6 * _SUPERSAMPLING, RADAR)


def _draw_ego(picture: UInt8[Tensor, "H W 3"], view: BevView) -> None:
    outline = view.pixels(torch.tensor(_EGO_OUTLINE))
    fill(picture, outline, EGO, 0.85)
    windscreen = view.pixels(torch.tensor([[1.9, 0.62], [1.9, -0.62], [1.35, -0.7], [1.35, 0.7]]))
    fill(picture, windscreen, GROUND, 0.9)
    stroke(picture, outline, INK, _SUPERSAMPLING, closed=True)
