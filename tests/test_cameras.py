import cv2
import numpy as np
import pytest
import torch
from nuscenes.utils.geometry_utils import view_points

from calibration.cameras import PinholeCamera, project

INTRINSICS = torch.tensor([[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def test_projection_equals_the_devkits_view_points() -> None:
    points = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20 - 10
    points[:, 2] = points[:, 2].abs() + 0.5
    pixels, depth = project(INTRINSICS, points)
    reference = view_points(points.numpy().T, INTRINSICS.numpy(), normalize=True)
    np.testing.assert_allclose(pixels.numpy().T, reference[:2], rtol=1e-12)
    torch.testing.assert_close(depth, points[:, 2])
    assert project(INTRINSICS, points[:0])[0].shape == (0, 2)


def test_the_camera_follows_a_resize_and_a_crop_of_real_pixels() -> None:
    # A white square on black: where its middle lands in the resized picture is what the intrinsics must say.
    picture = np.zeros((90, 160), dtype=np.float32)
    picture[40:50, 90:110] = 1.0
    camera = PinholeCamera(160, 90, torch.tensor([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]], dtype=torch.float64))
    ray = torch.linalg.solve(camera.intrinsics, torch.tensor([99.5, 44.5, 1.0], dtype=torch.float64))
    for scale in (0.5, 0.2, 2.0):
        resized = camera.resized(scale)
        shrunk = cv2.resize(picture, (resized.width, resized.height), interpolation=cv2.INTER_AREA)
        cropped = resized.cropped(10, 4, resized.width - 20, resized.height - 4)
        window = shrunk[4:, 10:-10]
        rows, columns = np.mgrid[: window.shape[0], : window.shape[1]]
        centroid = (float((window * columns).sum() / window.sum()), float((window * rows).sum() / window.sum()))
        pixels, _ = project(cropped.intrinsics, ray[None])
        assert tuple(pixels[0].tolist()) == pytest.approx(centroid, abs=1e-3)


def test_a_camera_without_a_size_or_a_focal_length_is_refused() -> None:
    with pytest.raises(ValueError, match="positive size"):
        PinholeCamera(0, 90, INTRINSICS)
    with pytest.raises(ValueError, match="focal lengths"):
        PinholeCamera(160, 90, torch.zeros(3, 3, dtype=torch.float64))
