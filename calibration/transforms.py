"""Rigid transforms between frames, as 4x4 float64 matrices called `a_from_b`."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

Transform = Float64[Tensor, "4 4"]


def rigid(rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"]) -> Transform:
    """`a_from_b` from the rotation (3, 3) and the origin of b in a (3), metres."""
    a_from_b = torch.eye(4, dtype=torch.float64)
    a_from_b[:3, :3] = rotation
    a_from_b[:3, 3] = translation
    return a_from_b


def from_quaternion(quaternion_wxyz: Sequence[float], translation: Sequence[float]) -> Transform:
    """`a_from_b` from nuScenes' pair of a quaternion (w, x, y, z) and a translation in metres.

    Raises ValueError where the quaternion's length is not 1 within 1e-3 (a zero quaternion is no rotation).
    """
    w, x, y, z = quaternion_wxyz
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not abs(norm - 1.0) <= 1e-3:
        raise ValueError(f"a rotation quaternion must have length 1, this one has {norm:.4g}")
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    east, north, up = translation
    # Written out: a frame has sixty poses, and any library's ways to a matrix take as long as reading a sweep. NumPy
    # takes sixteen numbers in a row in a third of the time that torch needs for four rows of four.
    rows = (
        *(w * w + x * x - y * y - z * z, 2.0 * (x * y - z * w), 2.0 * (x * z + y * w), east),
        *(2.0 * (x * y + z * w), w * w - x * x + y * y - z * z, 2.0 * (y * z - x * w), north),
        *(2.0 * (x * z - y * w), 2.0 * (y * z + x * w), w * w - x * x - y * y + z * z, up),
        *(0.0, 0.0, 0.0, 1.0),
    )
    return torch.from_numpy(np.array(rows, np.float64).reshape(4, 4))


def to_quaternion(a_from_b: Float[Tensor, "4 4"]) -> tuple[float, float, float, float]:
    """The rotation of `a_from_b` as a quaternion (w, x, y, z) with w >= 0."""
    x, y, z, w = Rotation.from_matrix(a_from_b[:3, :3].double().numpy()).as_quat(canonical=True)
    return float(w), float(x), float(y), float(z)


def from_yaw(yaw: float, translation: Sequence[float] = (0.0, 0.0, 0.0)) -> Transform:
    """`a_from_b` of a turn by `yaw` (radians, about z) and a translation (metres)."""
    cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return rigid(rotation, torch.tensor(list(translation), dtype=torch.float64))


def yaw_of(a_from_b: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch"]:
    """Heading of b's x axis in a's x-y plane, radians in (-pi, pi]."""
    return torch.atan2(a_from_b[..., 1, 0], a_from_b[..., 0, 0])


def invert(a_from_b: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """`b_from_a`, by the transpose of the rotation (exact for rigid transforms)."""
    b_from_a = torch.zeros_like(a_from_b)
    rotation = a_from_b[..., :3, :3].transpose(-1, -2)
    b_from_a[..., :3, :3] = rotation
    b_from_a[..., :3, 3] = -(rotation @ a_from_b[..., :3, 3:])[..., 0]
    b_from_a[..., 3, 3] = 1.0
    return b_from_a


def transform_points(
    a_from_b: Float[Tensor, "*batch 4 4"], points_b: Float[Tensor, "*batch P 3"]
) -> Float[Tensor, "*batch P 3"]:
    """Points (P, 3) in b to points in a. The result has the dtype of the points."""
    a_from_b = a_from_b.to(points_b.dtype)
    return points_b @ a_from_b[..., :3, :3].transpose(-1, -2) + a_from_b[..., None, :3, 3]


def rotate_vectors(a_from_b: Float[Tensor, "4 4"], vectors_b: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
    """Vectors (P, 2 or 3), velocities say, from b's axes to a's; the origin plays no part.

    Two-dimensional vectors are taken to lie in b's x-y plane and lose what the turn lifts out of a's.
    """
    dims = vectors_b.shape[-1]
    return vectors_b @ a_from_b[:dims, :dims].to(vectors_b.dtype).T


def interpolate_poses(
    timestamps_us: Sequence[int], poses: Float64[Tensor, "K 4 4"], query_us: Sequence[int]
) -> Float64[Tensor, "Q 4 4"]:
    """Poses at the queried times: translations linear, rotations along the shortest arc.

    `timestamps_us` (K >= 2) must rise strictly. Raises ValueError for a query outside them: nothing is extrapolated.
    """
    times, query = np.asarray(timestamps_us, dtype=np.int64), np.asarray(query_us, dtype=np.int64)
    if len(times) < 2 or np.any(np.diff(times) <= 0):
        raise ValueError("poses can be interpolated only between two or more timestamps that rise strictly")
    if query.size and (query.min() < times[0] or query.max() > times[-1]):
        raise ValueError(f"a pose was asked for outside the recorded time from {times[0]} to {times[-1]} us")
    # Seconds relative to the first pose: float64 epoch seconds would lose the microseconds.
    seconds, query_seconds = (times - times[0]) * 1e-6, (query - times[0]) * 1e-6
    result = torch.eye(4, dtype=torch.float64).repeat(len(query), 1, 1)
    if query.size == 0:
        return result
    matrices = poses.numpy()
    rotations = Slerp(seconds, Rotation.from_matrix(matrices[:, :3, :3]))(query_seconds)
    result[:, :3, :3] = torch.from_numpy(rotations.as_matrix())
    for axis in range(3):
        result[:, axis, 3] = torch.from_numpy(np.interp(query_seconds, seconds, matrices[:, axis, 3]))
    return result
