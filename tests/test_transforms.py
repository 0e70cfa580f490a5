import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion

from calibration.transforms import (
    from_quaternion,
    from_yaw,
    interpolate_poses,
    invert,
    rotate_vectors,
    to_quaternion,
    transform_points,
    yaw_of,
)

angles = st.floats(-3.1, 3.1)
lengths = st.floats(-2000.0, 2000.0)


@st.composite
def quaternions(draw: st.DrawFn) -> Quaternion:
    axis = draw(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.1, 1)))
    return Quaternion(axis=axis, angle=draw(angles))


@given(quaternions(), st.tuples(lengths, lengths, lengths))
def test_equals_the_devkits_transform_matrix(rotation: Quaternion, translation: tuple[float, float, float]) -> None:
    a_from_b = from_quaternion(list(rotation), translation)
    np.testing.assert_allclose(a_from_b, transform_matrix(np.array(translation), rotation), atol=1e-12)
    inverse = transform_matrix(np.array(translation), rotation, inverse=True)
    np.testing.assert_allclose(invert(a_from_b), inverse, atol=1e-9)
    w, x, y, z = to_quaternion(a_from_b)
    assert min((Quaternion(w, x, y, z) - rotation).norm, (Quaternion(w, x, y, z) + rotation).norm) < 1e-9


def test_neighbours_in_a_chain_cancel() -> None:
    global_from_ego, ego_from_cam = from_yaw(0.7, (100.0, 5.0, 0.0)), from_yaw(-1.1, (1.0, 0.0, 1.5))
    points_cam = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    points_global = transform_points(global_from_ego @ ego_from_cam, points_cam)
    back = transform_points(invert(ego_from_cam) @ invert(global_from_ego), points_global)
    torch.testing.assert_close(back, points_cam)
    assert transform_points(ego_from_cam, points_cam[:0]).shape == (0, 3)


def test_yaw_turns_from_x_towards_y() -> None:
    quarter = from_yaw(math.pi / 2)
    ahead = transform_points(quarter, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(ahead, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    assert float(yaw_of(quarter)) == pytest.approx(math.pi / 2)
    velocity = rotate_vectors(from_yaw(math.pi / 2, (9.0, 9.0, 9.0)), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(velocity, torch.tensor([[0.0, 2.0]]))


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 0.0)])
def test_a_quaternion_that_is_no_rotation_is_refused(quaternion: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="length 1"):
        from_quaternion(quaternion, (0.0, 0.0, 0.0))


def test_poses_are_interpolated_and_never_extrapolated() -> None:
    start = 1_532_402_927_000_000
    poses = torch.stack([from_yaw(0.0), from_yaw(0.2, (10.0, 0.0, 0.0)), from_yaw(0.2, (10.0, 4.0, 0.0))])
    times = [start, start + 100_000, start + 200_000]
    middle = interpolate_poses(times, poses, [start, start + 50_000, start + 150_000])
    torch.testing.assert_close(middle[0], poses[0])
    torch.testing.assert_close(middle[1], from_yaw(0.1, (5.0, 0.0, 0.0)))
    torch.testing.assert_close(middle[2], from_yaw(0.2, (10.0, 2.0, 0.0)))
    assert interpolate_poses(times, poses, []).shape == (0, 4, 4)
    for outside in (start - 1, start + 200_001):
        with pytest.raises(ValueError, match="outside"):
            interpolate_poses(times, poses, [outside])
    with pytest.raises(ValueError, match="rise strictly"):
        interpolate_poses([start, start, start + 1], poses, [start])
