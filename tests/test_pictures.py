"""Pictures and their calibration: pixels follow points through every change."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.cameras import PinholeCamera, project
from calibration.transforms import from_yaw
from datasets.augmentation.images import ImageAugmentation
from datasets.faults import FaultReason, SensorFileError
from datasets.frames import CameraImage
from datasets.nuscenes.reader import NuScenesReader
from datasets.sensors.images import decode_image, decode_reduced, largest_reduction
from datasets.sensors.picture_change import ColourChange, PictureChange

CAMERA = PinholeCamera(160, 96, torch.tensor([[120.0, 0, 79.5], [0, 120, 47.5], [0, 0, 1]], dtype=torch.float64))
FITTED = PictureChange.fit(CAMERA, 40, 80)
UNCHANGED = ImageAugmentation(
    scale_range=(1.0, 1.0),
    max_rotation=0.0,
    flip=False,
    max_brightness=0.0,
    contrast_range=(1.0, 1.0),
    saturation_range=(1.0, 1.0),
)


def image(pixels: np.ndarray, suffix: str = ".png") -> CameraImage:
    """RGB pixels, encoded."""
    encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    return CameraImage(0, from_yaw(0.0), bytes(encoded), f"a{suffix}")


def gradient() -> np.ndarray:
    """A picture that says where it is: red grows with u by 1.4 grey levels a pixel, green with v by 2.3."""
    u, v = np.meshgrid(np.arange(160), np.arange(96))
    return np.stack([20 + 1.4 * u, 20 + 2.3 * v, np.full_like(u, 100)], axis=2).round().astype(np.uint8)


changes = st.builds(
    PictureChange,
    recorded_width=st.just(160),
    recorded_height=st.just(96),
    resized_width=st.integers(60, 150),
    resized_height=st.integers(40, 90),
    left=st.integers(-10, 40),
    top=st.integers(-10, 30),
    width=st.just(80),
    height=st.just(40),
    mirrored=st.booleans(),
    rotation=st.one_of(st.just(0.0), st.floats(-0.2, 0.2)),
)


@settings(max_examples=80, deadline=None)
@given(change=changes, suffix=st.sampled_from([".png", ".jpg"]))
def test_pixels_show_what_the_matrix_says(change: PictureChange, suffix: str) -> None:
    picture = change.decoded(image(gradient(), suffix)).double()
    assert picture.shape == (3, 40, 80)
    v, u = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    recorded = pixels @ torch.linalg.inv(change.matrix()).T
    inside = (recorded[..., 0] > 4) & (recorded[..., 0] < 155) & (recorded[..., 1] > 4) & (recorded[..., 1] < 91)
    if inside.sum() < 200:
        return
    seen = torch.stack([(picture[0] - 20.0) / 1.4, (picture[1] - 20.0) / 2.3], dim=-1)
    off = (seen - recorded[..., :2])[inside]
    # Grey levels are whole numbers and a JPEG's a little off. On average that is next to nothing, but where every
    # second pixel is taken all are rounded the same way: by up to 0.36 of a pixel. Half a pixel would show.
    assert off.abs().max() < (1.2 if suffix == ".png" else 5.0)
    assert off.mean(dim=0).abs().max() < 0.4


@settings(max_examples=80, deadline=None)
@given(change=changes, seed=st.integers(0, 2**31))
def test_project_then_change_is_change_then_project(change: PictureChange, seed: int) -> None:
    points = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    points = points * torch.tensor([20.0, 10, 30]) + torch.tensor([-10.0, -5, 1])
    pixels, _ = project(CAMERA.intrinsics, points)
    changed, _ = project(change.intrinsics(CAMERA.intrinsics), points)
    matrix = change.matrix()
    torch.testing.assert_close(pixels @ matrix[:2, :2].T + matrix[:2, 2], changed, rtol=1e-9, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_drawn_lies_within_its_limits(seed: int) -> None:
    augmentation = ImageAugmentation()
    drawn = augmentation.draw(FITTED, torch.Generator().manual_seed(seed))
    assert drawn == augmentation.draw(FITTED, torch.Generator().manual_seed(seed))
    low, high = augmentation.scale_range
    assert low * FITTED.resized_width - 1 <= drawn.resized_width <= high * FITTED.resized_width + 1
    spare = drawn.resized_width - drawn.width
    assert min(spare, 0) <= drawn.left <= max(spare, 0)
    assert drawn.top + drawn.height == drawn.resized_height
    assert abs(drawn.rotation) <= augmentation.max_rotation
    assert (drawn.width, drawn.height) == (FITTED.width, FITTED.height)


def test_no_change_changes_no_bit() -> None:
    assert UNCHANGED.draw(FITTED, torch.Generator().manual_seed(3)) == FITTED
    # Of the fitted picture: what cv2 makes of it, and what PinholeCamera says of its calibration.
    resized = cv2.resize(gradient(), (80, 48), interpolation=cv2.INTER_LINEAR)[8:]
    assert torch.equal(FITTED.decoded(image(gradient())), torch.from_numpy(resized.transpose(2, 0, 1).copy()))
    assert torch.equal(FITTED.intrinsics(CAMERA.intrinsics), CAMERA.resized(0.5).cropped(0, 8, 80, 40).intrinsics)


def test_mirroring_twice_and_turning_back_is_nothing() -> None:
    mirrored = replace(FITTED, mirrored=True)
    assert torch.equal(mirrored.decoded(image(gradient())).flip(2), FITTED.decoded(image(gradient())))
    there, back = replace(FITTED, rotation=0.1), replace(FITTED, rotation=-0.1)
    of_result = torch.linalg.inv(FITTED.matrix())
    torch.testing.assert_close(there.matrix() @ of_result @ back.matrix() @ of_result, torch.eye(3).double())


def test_colours() -> None:
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:] = (200, 100, 50)

    def colour(change: ColourChange) -> list[int]:
        return [int(value) for value in replace(FITTED, colour=change).decoded(image(picture))[:, 20, 40]]

    assert colour(ColourChange()) == [200, 100, 50]
    assert colour(ColourChange(brightness=0.1)) == pytest.approx([225.5, 125.5, 75.5], abs=0.6)
    assert colour(ColourChange(brightness=1.0)) == [255, 255, 255]
    assert colour(ColourChange(contrast=0.5)) == pytest.approx([163.75, 113.75, 88.75], abs=0.6)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert colour(ColourChange(saturation=0.0)) == pytest.approx([grey] * 3, abs=0.6)


def test_decoding_small_is_as_good_as_decoding_all() -> None:
    """Peak signal to noise against the mean over the same areas, of a picture with detail at every scale."""
    rng = np.random.default_rng(0)
    noise = sum(
        cv2.resize(rng.normal(0, 12, (96 // s, 160 // s, 3)), (160, 96), interpolation=cv2.INTER_CUBIC)
        for s in (1, 2, 4, 8)
    )
    encoded = image(np.clip(128 + np.asarray(noise), 0, 255).astype(np.uint8), ".jpg")
    for reduction in (2, 4):
        small = decode_reduced(encoded, 160, 96, reduction)[:, :, ::-1].astype(np.float64)
        whole = decode_image(encoded).numpy().astype(np.float64)
        means = whole.reshape(96 // reduction, reduction, 160 // reduction, reduction, 3).mean(axis=(1, 3))
        assert 10 * math.log10(255**2 / np.mean((small - means) ** 2)) > 33


def test_real_pictures_decoded_small_are_as_good(real_data: Path) -> None:
    """Peak signal to noise against PIL's bicubic (what published pipelines do) and the mean over areas, both from all
    pixels. The same picture a pixel to the side has 28 to 31 dB.
    """
    reader = NuScenesReader(real_data / "nuscenes-keyframe")
    frame = reader.frame(reader.frame_tokens("all")[0])
    assert len(frame.images) == 6
    for channel, recorded in frame.images.items():
        change = PictureChange.fit(frame.rig.cameras[channel], 256, 704)
        assert largest_reduction(recorded, 1600, 900, change.scale) == 2
        ours = change.decoded(recorded).permute(1, 2, 0).numpy().astype(np.float64)
        whole, size = decode_image(recorded).numpy(), (change.resized_width, change.resized_height)
        bicubic = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BICUBIC))
        means = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
        for other, least in ((bicubic, 42.0), (means, 43.5)):
            assert 10 * math.log10(255**2 / np.mean((ours - other[change.top :]) ** 2)) > least


@settings(max_examples=60, deadline=None)
@given(height=st.sampled_from([30, 45, 48, 96]), resized=st.integers(4, 110), top=st.integers(-5, 100))
def test_rows_that_nobody_sees_are_not_missed(height: int, resized: int, top: int) -> None:
    """Resizing only what the window shows is resizing all and cutting it, but for how cv2 rounds its weights."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, 24, 3), dtype=np.uint8)
    change = PictureChange(24, height, 20, resized, 0, top, 20, 12)
    whole = cv2.resize(pixels, (20, resized), interpolation=cv2.INTER_LINEAR)
    expected = np.zeros((12, 20, 3), np.int64)
    window = whole[max(top, 0) : max(top + 12, 0)]
    expected[max(-top, 0) : max(-top, 0) + len(window)] = window
    off = np.abs(change.decoded(image(pixels)).permute(1, 2, 0).numpy() - expected)
    assert off.max() <= 1
    assert off.mean() < 0.05


def test_the_reduction_leaves_enough_pixels_and_whole_ones() -> None:
    encoded = image(gradient(), ".jpg")
    assert [largest_reduction(encoded, 1600, 900, scale) for scale in (1.2, 0.55, 0.5, 0.44, 0.25, 0.01)] == [
        1, 1, 2, 2, 4, 4,
    ]  # fmt: skip
    assert largest_reduction(encoded, 1601, 900, 0.25) == 1
    assert largest_reduction(image(gradient()), 1600, 900, 0.25) == 1


def test_a_picture_of_another_size_or_a_cut_one_is_not_decoded() -> None:
    encoded = image(gradient(), ".jpg")
    with pytest.raises(SensorFileError, match="160 x 96 pixels, its camera says 320 x 192") as refused:
        decode_reduced(encoded, 320, 192, 2)
    assert refused.value.reason is FaultReason.SIZE_MISMATCH
    with pytest.raises(SensorFileError) as refused:
        decode_reduced(replace(encoded, encoded=encoded.encoded[:-200]), 160, 96, 2)
    assert refused.value.reason is FaultReason.TRUNCATED
    garbage = encoded.encoded[:200] + b"\xff\xd9"
    with pytest.raises(SensorFileError):
        decode_reduced(replace(encoded, encoded=garbage), 160, 96, 2)


def test_exif_orientation_is_ignored_at_every_size() -> None:
    plain = image(gradient(), ".jpg")
    directory = b"\x00\x01" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00" + b"\x00\x00\x00\x00"
    segment = b"Exif\0\0MM\0*\0\0\0\x08" + directory
    turned = plain.encoded[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + plain.encoded[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_REDUCED_COLOR_2).shape == (80, 48, 3)
    for reduction in (1, 2, 4, 8):
        upright = decode_reduced(replace(plain, encoded=turned), 160, 96, reduction)
        assert np.array_equal(upright, decode_reduced(plain, 160, 96, reduction))
