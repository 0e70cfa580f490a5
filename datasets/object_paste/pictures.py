"""Pictures of pasted objects, put into the cameras' in the order of depth.

The region of an object is what its projected box covers. From the farthest object to the nearest, a pasted one's region
is filled with its own picture, one that was there with the frame's: what is nearer covers what is farther.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.boxes import Boxes3D
from datasets.object_paste.database import ObjectPicture
from datasets.sensors.picture_change import PictureChange, resize_matrix

_NEAR = 0.2  # metres in front of the camera; what lies behind is cut off
# The edges of Boxes3D.corners: front face, rear face, and from the one to the other.
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def paste_pictures(
    picture: UInt8[Tensor, "3 H W"],
    change: PictureChange,
    intrinsics: Float64[Tensor, "3 3"],
    cam_from_ego: Float64[Tensor, "4 4"],
    present: Boxes3D,
    pasted: Boxes3D,
    objects: Sequence[ObjectPicture | None],
) -> UInt8[Tensor, "3 H W"]:
    """A camera's changed picture with the pasted objects (boxes in ego, one ObjectPicture for each) in it.

    `intrinsics` are those of the recorded picture, before `change`. An object without a picture, one that the camera
    stands in, and a picture that cannot be decoded are left out.
    """
    boxes = Boxes3D.concatenated([present, pasted])
    corners = transform_points(cam_from_ego, boxes.corners().double().flatten(0, 1)).reshape(-1, 8, 3)
    changed_from_recorded = change.matrix()
    order = _farthest_first(
        transform_points(cam_from_ego, boxes.centers.double()).norm(dim=1),
        _may_be_seen(changed_from_recorded @ intrinsics, corners, change),
        len(present),
    )
    if not order:
        return picture
    original = np.asarray(cv2.merge(list(picture.numpy())), np.uint8)
    canvas = original.copy()
    for index in order:
        outline = outline_in_picture(intrinsics, corners[index])
        if outline is None:
            continue
        polygon = _through(changed_from_recorded, outline)
        window = _window(polygon, change)
        if window is None:
            continue
        left, top, right, bottom = window
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, (polygon.round() - torch.tensor([left, top])).int().numpy(), (1.0,))
        region = canvas[top:bottom, left:right]
        if index < len(present):
            cv2.copyTo(original[top:bottom, left:right], mask, region)
            continue
        recorded = objects[index - len(present)]
        if recorded is None or bool((corners[index, :, 2] <= _NEAR).any()):
            continue
        warped = _warped(recorded, outline, change, changed_from_recorded, window)
        if warped is not None:
            patch, known = warped
            cv2.copyTo(patch, mask & known, region)
    return torch.from_numpy(np.stack(cv2.split(canvas)))


def _farthest_first(distances: Float64[Tensor, "M"], seen: Bool[Tensor, "M"], present: int) -> list[int]:
    """Which boxes have to be drawn, and in which order: the first `present` of them only over a pasted one."""
    pasted = seen.clone()
    pasted[:present] = False
    if not bool(pasted.any()):
        return []
    drawn = seen & (pasted | (distances <= distances[pasted].max()))
    return [index for index in torch.argsort(distances, descending=True, stable=True).tolist() if drawn[index]]


def _may_be_seen(
    changed_from_cam: Float64[Tensor, "3 3"], corners_cam: Float64[Tensor, "M 8 3"], change: PictureChange
) -> Bool[Tensor, "M"]:
    """All boxes but those that lie behind the camera, and of those wholly in front of it but beside the result: most
    of a frame's, for which nothing more has to be worked out.
    """
    ahead = corners_cam[:, :, 2] >= _NEAR
    pixels, _ = project(changed_from_cam, corners_cam.flatten(0, 1))
    pixels = pixels.reshape(-1, 8, 2)
    beside = (pixels.amax(dim=1) < -1.0) | (pixels.amin(dim=1) > torch.tensor([change.width, change.height]) + 1.0)
    return ahead.any(dim=1) & ~(ahead.all(dim=1) & beside.any(dim=1))


def outline_in_picture(
    intrinsics: Float64[Tensor, "3 3"], corners_cam: Float64[Tensor, "8 3"]
) -> Float64[Tensor, "K 2"] | None:
    """The convex outline, in pixels, of the part of a box that lies in front of the camera; None where none does."""
    corners = corners_cam.numpy()
    ahead = corners[:, 2] >= _NEAR
    visible = corners[ahead]
    if not ahead.all():
        starts, ends = corners[_EDGES[:, 0]], corners[_EDGES[:, 1]]
        crossing = (starts[:, 2] - _NEAR) * (ends[:, 2] - _NEAR) < 0
        starts, ends = starts[crossing], ends[crossing]
        share = (_NEAR - starts[:, 2:]) / (ends[:, 2:] - starts[:, 2:])
        visible = np.concatenate([visible, starts + share * (ends - starts)])
    if len(visible) < 3:
        return None
    pixels = visible @ intrinsics.numpy().T
    hull = cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32))
    return torch.from_numpy(np.asarray(hull, np.float64).reshape(-1, 2))


def bounds(outline: Float64[Tensor, "K 2"]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an outline."""
    low, high = outline.amin(dim=0).tolist(), outline.amax(dim=0).tolist()
    return low[0], low[1], high[0], high[1]


def _through(matrix: Float64[Tensor, "3 3"], pixels: Float64[Tensor, "K 2"]) -> Float64[Tensor, "K 2"]:
    return pixels @ matrix[:2, :2].T + matrix[:2, 2]


def _window(polygon: Float64[Tensor, "K 2"], change: PictureChange) -> tuple[int, int, int, int] | None:
    """The part of the result that a polygon can touch: left, top, and behind the right and bottom; None outside."""
    left, top, right, bottom = bounds(polygon)
    # In floats first: a box beside the camera projects to millions of pixels.
    columns = (max(0, int(max(left, -1.0))), int(min(right + 2.0, change.width)))
    rows = (max(0, int(max(top, -1.0))), int(min(bottom + 2.0, change.height)))
    if columns[0] >= columns[1] or rows[0] >= rows[1]:
        return None
    return columns[0], rows[0], columns[1], rows[1]


def _warped(
    recorded: ObjectPicture,
    outline: Float64[Tensor, "K 2"],
    change: PictureChange,
    changed_from_recorded: Float64[Tensor, "3 3"],
    window: tuple[int, int, int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The object's picture as it falls into the window of the result, RGB, and where there is any of it (1)."""
    crop = decode_patch(recorded)
    if crop is None:
        return None
    # The recorded rectangle about the box goes onto the rectangle about the box where it is put.
    from_left, from_top, from_right, from_bottom = recorded.outline
    to_left, to_top, to_right, to_bottom = bounds(outline)
    u, v = (
        (to_right - to_left) / max(from_right - from_left, 1e-6),
        (to_bottom - to_top) / max(from_bottom - from_top, 1e-6),
    )
    there_from_crop = torch.tensor(
        [
            [u, 0.0, to_left + u * (recorded.left - from_left)],
            [0.0, v, to_top + v * (recorded.top - from_top)],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    changed_from_crop = changed_from_recorded @ there_from_crop
    # Shrunk by areas first: a warp looks at four pixels only.
    scale = min(1.0, float(torch.linalg.det(changed_from_crop[:2, :2]).abs().sqrt()))
    width, height = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
    crop_from_shrunk = resize_matrix(crop.shape[1] / width, crop.shape[0] / height)
    shrunk = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    if change.colour is not None:
        shrunk = cv2.transform(shrunk, change.colour.matrix().numpy())
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2], shift[1, 2] = -window[0], -window[1]
    matrix = (shift @ changed_from_crop @ crop_from_shrunk)[:2].numpy()
    size = (window[2] - window[0], window[3] - window[1])
    patch = cv2.warpAffine(shrunk, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    whole = np.ones(shrunk.shape[:2], np.uint8)
    known = cv2.warpAffine(whole, matrix, size, flags=cv2.INTER_NEAREST)
    return np.asarray(patch, np.uint8), np.asarray(known, np.uint8)


def decode_patch(recorded: ObjectPicture) -> NDArray[np.uint8] | None:
    """The object's picture, RGB; None where it cannot be decoded."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return np.asarray(
            cv2.cvtColor(cv2.imdecode(np.frombuffer(recorded.encoded, np.uint8), flags), cv2.COLOR_BGR2RGB)
        )
    except cv2.error:
        return None
