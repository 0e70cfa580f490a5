"""3D boxes in a camera picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from calibration.cameras import PinholeCamera, project
from calibration.transforms import Transform, transform_points
from datasets.boxes import Boxes3D
from tools.drawing.canvas import stroke
from tools.drawing.palette import Color

# Corners as Boxes3D.corners numbers them: front face, rear face, and what joins them.
_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip
# Nothing nearer than this to the camera's plane is drawn, metres.
NEAR_PLANE = 0.1


@dataclass(frozen=True)
class Strokes:
    """S straight strokes in a picture, clipped to it. `box_index` (S) says which box each belongs to."""

    starts_img: Float64[Tensor, "S 2"]
    ends_img: Float64[Tensor, "S 2"]
    box_index: Int64[Tensor, "S"]


def box_strokes(boxes: Boxes3D, cam_from_boxes: Transform, camera: PinholeCamera, margin: float = 8.0) -> Strokes:
    """The twelve edges of each box and the mark of its heading, as seen by a camera.

    `cam_from_boxes`: from the frame in which the boxes are given. The heading mark runs on the floor of the box from
    its middle to the middle of its front. Strokes end at the near plane and `margin` pixels outside the picture.
    """
    corners = transform_points(cam_from_boxes, boxes.to(torch.float64).corners().reshape(-1, 3)).reshape(-1, 8, 3)
    floor_middle = corners[:, [2, 3, 6, 7]].mean(dim=1, keepdim=True)
    front_middle = corners[:, [2, 3]].mean(dim=1, keepdim=True)
    edges = torch.tensor(_EDGES)
    starts = torch.cat([corners[:, edges[:, 0]], floor_middle], dim=1).reshape(-1, 3)
    ends = torch.cat([corners[:, edges[:, 1]], front_middle], dim=1).reshape(-1, 3)
    box_index = torch.arange(len(boxes)).repeat_interleave(len(_EDGES) + 1)

    before = (starts[:, 2] > NEAR_PLANE) | (ends[:, 2] > NEAR_PLANE)
    starts, ends, box_index = starts[before], ends[before], box_index[before]
    starts, ends = _cut_at_near_plane(starts, ends), _cut_at_near_plane(ends, starts)
    starts_img, _ = project(camera.intrinsics, starts)
    ends_img, _ = project(camera.intrinsics, ends)
    return _cut_at_border(Strokes(starts_img, ends_img, box_index), camera.width, camera.height, margin)


def _cut_at_near_plane(
    points_cam: Float64[Tensor, "S 3"], partners_cam: Float64[Tensor, "S 3"]
) -> Float64[Tensor, "S 3"]:
    """The points, moved along their stroke to the near plane where they lie behind it."""
    depth, partner_depth = points_cam[:, 2:], partners_cam[:, 2:]
    behind = depth < NEAR_PLANE
    difference = torch.where(behind, partner_depth - depth, torch.ones_like(depth))
    fraction = torch.where(behind, (NEAR_PLANE - depth) / difference, torch.zeros_like(depth))
    return points_cam + fraction * (partners_cam - points_cam)


def _cut_at_border(strokes: Strokes, width: int, height: int, margin: float) -> Strokes:
    """Liang and Barsky's line clipping (ACM Transactions on Graphics 3:1, 1984) against the picture and its margin."""
    direction = strokes.ends_img - strokes.starts_img
    low = torch.tensor([-0.5 - margin, -0.5 - margin], dtype=torch.float64)
    high = torch.tensor([width - 0.5 + margin, height - 0.5 + margin], dtype=torch.float64)
    # Along each of the four borders: the stroke enters where p < 0 and leaves where p > 0.
    p = torch.cat([-direction, direction], dim=1)
    q = torch.cat([strokes.starts_img - low, high - strokes.starts_img], dim=1)
    parallel = p == 0
    ratio = q / torch.where(parallel, torch.ones_like(p), p)
    enter = torch.where(p < 0, ratio, torch.zeros_like(ratio)).amax(dim=1).clamp(min=0.0)
    leave = torch.where(p > 0, ratio, torch.ones_like(ratio)).amin(dim=1).clamp(max=1.0)
    inside = (enter <= leave) & ~(parallel & (q < 0)).any(dim=1)
    starts = strokes.starts_img + enter[:, None] * direction
    ends = strokes.starts_img + leave[:, None] * direction
    return Strokes(starts[inside], ends[inside], strokes.box_index[inside])


def draw_boxes(
    picture: UInt8[Tensor, "H W 3"],
    boxes: Boxes3D,
    cam_from_boxes: Transform,
    camera: PinholeCamera,
    colors: Sequence[Color],
    thickness: int,
) -> None:
    """Draw the boxes (in any frame, with `cam_from_boxes`) into the picture, the farthest first.

    `camera` must be that of this picture (of its size); one colour for each box.
    """
    distance = transform_points(cam_from_boxes, boxes.centers.double()).norm(dim=1)
    strokes = box_strokes(boxes, cam_from_boxes, camera)
    farthest_first = torch.argsort(distance[strokes.box_index], descending=True, stable=True)
    for index in farthest_first.tolist():
        ends = torch.stack([strokes.starts_img[index], strokes.ends_img[index]])
        stroke(picture, ends, colors[int(strokes.box_index[index])], thickness)
