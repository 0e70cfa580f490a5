"""Corruptions against what one can work out: optics, extinction, poses of a known drive; and against OpenCV."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from calibration.cameras import PinholeCamera
from calibration.rig import EgoState, SensorRig
from calibration.transforms import Transform, from_yaw, invert, rigid, yaw_of
from datasets.classes import LIDAR_CHANNEL
from datasets.corruptions.catalogue import Sensors, catalogue
from datasets.corruptions.corruption import Corruption
from datasets.corruptions.lens import Dirty, MotionBlurred, line_kernel
from datasets.corruptions.lidar_weather import LidarWeather, rain_extinction, snow_extinction
from datasets.corruptions.light import Brightened, Darkened, Noisy
from datasets.corruptions.picture_weather import PictureFog, PictureRain, PictureSnow
from datasets.corruptions.pictures import with_changed_pictures
from datasets.corruptions.pose import PoseDelay, PoseDrift, PoseJitter
from datasets.frames import CameraImage, LogFrame, PointSweep
from datasets.sensors.images import decode_image

NOW = 1_532_402_927_000_000
WIDTH, HEIGHT, FOCUS, MOUNTED = 320, 180, 250.0, 1.6
# A forward-looking camera: cam z is ego x, cam x is ego -y, cam y is ego -z.
EGO_FROM_CAM = rigid(
    torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64),
    torch.tensor([1.5, 0.0, MOUNTED], dtype=torch.float64),
)
EGO_FROM_LIDAR = from_yaw(-math.pi / 2, (1.0, 0.0, 1.8))
Pixels = np.ndarray


def png(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def frame(
    pixels: Pixels | None = None, points: torch.Tensor | None = None, drive: Callable[[float], Transform] | None = None
) -> LogFrame:
    """One camera, a LiDAR of three sweeps, past states; `drive`: global_from_ego at seconds after the frame."""
    pose = drive or (lambda seconds: from_yaw(0.3, (100.0, 50.0, 0.0)))
    sweep = torch.zeros(0, 5) if points is None else points
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8) if pixels is None else pixels
    intrinsics = [[FOCUS, 0, (WIDTH - 1) / 2], [0, FOCUS, (HEIGHT - 1) / 2], [0, 0, 1]]
    camera = PinholeCamera(WIDTH, HEIGHT, torch.tensor(intrinsics, dtype=torch.float64))
    zero = torch.zeros(3, dtype=torch.float64)
    return LogFrame(
        token="frame",
        scene_name="scene",
        timestamp_us=NOW,
        global_from_ego=pose(0.0),
        rig=SensorRig({"CAM_FRONT": EGO_FROM_CAM, LIDAR_CHANNEL: EGO_FROM_LIDAR}, {"CAM_FRONT": camera}),
        ego_states=tuple(
            EgoState(NOW + round(s * 1e6), pose(s), zero, zero, 0.0, None) for s in (-2.0, -1.5, -1.0, -0.5, 0.0)
        ),
        images={"CAM_FRONT": CameraImage(NOW - 40_000, pose(-0.04), png(picture), "front.png")},
        lidar_sweeps={
            LIDAR_CHANNEL: tuple(PointSweep(NOW + round(s * 1e6), pose(s), sweep) for s in (0.0, -0.2, -0.4))
        },
        radar_sweeps={},
        annotations=None,
        faults=(),
    )


def spoilt(before: LogFrame, corruption: Corruption, seed: int = 0) -> LogFrame:
    return corruption.corrupted(before, lambda keyframes: before, seed)


def picture(before: LogFrame, corruption: Corruption, seed: int = 0) -> Pixels:
    """The corrupted picture, RGB, 0..255."""
    return decode_image(spoilt(before, corruption, seed).images["CAM_FRONT"]).numpy().astype(np.float64)


def textured(seed: int = 0) -> Pixels:
    """A picture with something at every scale, darker at the bottom."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(0, 1, (9, 16, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    fade = np.linspace(1.0, 0.4, HEIGHT)[:, None, None]
    return np.clip(fade * (200 * coarse + rng.normal(0, 8, (HEIGHT, WIDTH, 3))), 0, 255).astype(np.uint8)


# Pictures


def test_a_picture_that_cannot_be_decoded_stays_as_it_is() -> None:
    whole = frame(textured())
    image = whole.images["CAM_FRONT"]
    for broken in (image.encoded[:-40], b"", b"no picture", png(np.zeros((8, 8, 3), np.uint8))):
        before = replace(whole, images={"CAM_FRONT": replace(image, encoded=broken)})
        for corruption in (Noisy(0.2), PictureFog(0.03), Dirty(0.3)):
            assert spoilt(before, corruption).images["CAM_FRONT"].encoded == broken


def test_pictures_stay_in_the_format_that_they_came_in_and_jpegs_lose_little() -> None:
    pixels = textured()
    jpeg = bytes(cv2.imencode(".jpg", pixels)[1])
    before = frame()
    before = replace(before, images={"CAM_FRONT": replace(before.images["CAM_FRONT"], encoded=jpeg)})
    again = with_changed_pictures(before, lambda channel, pixels: pixels).images["CAM_FRONT"]
    assert again.encoded.startswith(b"\xff\xd8")
    decoded = [decode_image(image).double() for image in (before.images["CAM_FRONT"], again)]
    assert float((decoded[0] - decoded[1]).abs().mean()) < 1.5
    as_png = with_changed_pictures(frame(pixels), lambda channel, pixels: pixels).images["CAM_FRONT"]
    assert np.array_equal(decode_image(as_png).numpy()[..., ::-1], pixels)


def test_brightness_is_that_of_hue_saturation_value() -> None:
    pixels = textured()
    for shift in (0.1, 0.5, 0.7):
        hsv = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
        hsv[..., 2] = np.minimum(hsv[..., 2] + shift, 1.0)
        expected = cv2.cvtColor(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), cv2.COLOR_BGR2RGB) * 255
        assert np.abs(picture(frame(pixels), Brightened(shift)) - expected).max() <= 1.0


def test_darkness_follows_its_formula_and_its_noise_that_of_photons() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 204, np.uint8)
    dark = picture(frame(pixels), Darkened(0.6, 2.0, 250, 0.008))
    light = 0.6 * 0.8**2
    assert dark.mean() / 255 == pytest.approx(light, abs=0.002)
    assert dark.std() / 255 == pytest.approx(math.sqrt(light / 250 + 0.008**2), rel=0.03)
    assert np.array_equal(picture(frame(pixels), Darkened(0.5)), np.full((HEIGHT, WIDTH, 3), 102.0))


def test_noise_has_its_deviation() -> None:
    noisy = picture(frame(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)), Noisy(0.12))
    assert noisy.std() / 255 == pytest.approx(0.12, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_a_point_is_blurred_to_a_line_of_the_length_asked_for() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[90, 160] = 255
    for length in (0.03, 0.05):
        blurred = picture(frame(pixels), MotionBlurred(length))[..., 0]
        rows, columns = np.nonzero(blurred)
        assert math.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(length * WIDTH, abs=2.5)
        assert np.ptp(columns) >= np.ptp(rows) - 1
    for length, angle in ((1.0, 0.3), (7.5, 1.2), (80.0, -0.7)):
        kernel = line_kernel(length, angle)
        v, u = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
        assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
        assert abs((u * kernel).sum()) + abs((v * kernel).sum()) < 1e-3
        assert math.sqrt(((u**2 + v**2) * kernel).sum()) == pytest.approx(length / math.sqrt(12), abs=0.5)
        off_the_line = np.abs(v * math.cos(angle) - u * math.sin(angle)) > 1.42
        assert kernel[off_the_line].sum() == 0


def test_dirt_covers_its_share_and_more_of_it_covers_the_same_places() -> None:
    white = frame(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    before: np.ndarray | None = None
    for share in (0.1, 0.2, 0.3):
        covered = picture(white, Dirty(share)).mean(axis=2) < 170
        assert covered.mean() == pytest.approx(share, abs=0.03)
        if before is not None:
            assert (before & ~covered).mean() < 0.002
        before = covered
    assert not np.array_equal(picture(white, Dirty(0.3)), picture(white, Dirty(0.3), seed=1))


# Weather in pictures


def ground_distance(row: int) -> float:
    """From the camera to where the middle of a row looks at flat ground."""
    down = (row - (HEIGHT - 1) / 2) / FOCUS
    return MOUNTED * math.hypot(1.0, down) / down


@pytest.mark.parametrize("extinction", [0.01, 0.03, 0.06])
def test_fog_over_flat_ground_is_koschmieders(extinction: float) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    # A little more than a fifth is bright, high in the sky, so that the air is.
    pixels[:40] = 200
    foggy = picture(frame(pixels), PictureFog(extinction))
    for row in (110, 130, 160, 178):
        expected = 200 * (1 - math.exp(-extinction * ground_distance(row)))
        assert foggy[row, 20:300].mean() == pytest.approx(expected, rel=0.15, abs=2.0)


def test_what_the_lidar_saw_standing_is_as_foggy_as_it_is_far() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:40] = 200
    # A wall 12 m ahead of the camera, 3 m high, in the left half; as dense as a LiDAR's beams.
    y, z = torch.meshgrid(torch.arange(0.2, 6.0, 0.08), torch.arange(0.5, 3.0, 0.25), indexing="ij")
    ego = torch.stack([torch.full_like(y, 13.5), y, z, torch.ones_like(y)], dim=-1).reshape(-1, 4).double()
    lidar = (ego @ invert(EGO_FROM_LIDAR).T)[:, :3].float()
    wall = frame(pixels, torch.cat([lidar, torch.full((len(lidar), 2), 20.0)], dim=1))
    row = round((HEIGHT - 1) / 2 - FOCUS * (2.0 - MOUNTED) / 12)
    foggy, without = (picture(before, PictureFog(0.03))[row] for before in (wall, frame(pixels)))
    expected = 200 * (1 - math.exp(-0.03 * 12.3))
    assert foggy[60:140].mean() == pytest.approx(expected, rel=0.15)
    # Without the LiDAR, above the horizon, it is the air; and to the right of the wall still.
    assert without[60:140].mean() > 180
    assert foggy[220:300].mean() > 150


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("picture_fog", lambda light: -light.std()),
        ("dark", lambda light: -light.mean()),
        ("bright", lambda light: light.mean()),
        ("picture_noise", lambda light: np.abs(np.diff(light, axis=1)).mean()),
        ("motion_blur", lambda light: -np.abs(np.diff(light, axis=1)).mean()),
        ("picture_rain", lambda light: np.abs(light - textured()[..., ::-1]).mean()),
        ("picture_snow", lambda light: np.abs(light - textured()[..., ::-1]).mean()),
        ("dirty_lens", lambda light: np.abs(light - textured()[..., ::-1]).mean()),
    ],
)
def test_pictures_get_worse_with_severity(name: str, measure: Callable[[Pixels], float]) -> None:
    series = {s.name: s for s in catalogue(Sensors(("CAM_FRONT",), LIDAR_CHANNEL, (), pose=False))}[name]
    before = frame(textured())
    values = [measure(textured()[..., ::-1].astype(np.float64))]
    values += [measure(picture(before, level.corruption)) for level in series.levels]
    assert all(weaker < stronger for weaker, stronger in pairwise(values)), values


def test_rain_and_snow_are_as_dense_in_pictures_of_any_size() -> None:
    def covered(width: int, corruption: Corruption) -> float:
        small = frame()
        pixels = np.full((width * 9 // 16, width, 3), 60, np.uint8)
        # A bright part gives the air its light; it is not looked at.
        pixels[: len(pixels) // 3] = 255
        camera = PinholeCamera(width, len(pixels), small.rig.cameras["CAM_FRONT"].resized(width / WIDTH).intrinsics)
        images = {"CAM_FRONT": replace(small.images["CAM_FRONT"], encoded=png(pixels))}
        sized = replace(small, rig=SensorRig(small.rig.ego_from_sensor, {"CAM_FRONT": camera}), images=images)
        return float(picture(sized, corruption)[len(pixels) * 2 // 3 :].mean())

    for corruption in (PictureRain(0.15, 0.2), PictureSnow(0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.9)):
        assert covered(400, corruption) == pytest.approx(covered(800, corruption), rel=0.08)


# Weather in the LiDAR


def cloud(count: int, distance: float, intensity: float) -> torch.Tensor:
    """Points all around at one distance."""
    angles = torch.linspace(0, 2 * math.pi, count + 1)[:-1]
    flat = torch.stack([distance * angles.cos(), distance * angles.sin(), torch.full_like(angles, -0.5)], dim=1)
    return torch.cat([flat, torch.full((count, 1), intensity), (torch.arange(count) % 32)[:, None].float()], dim=1)


@pytest.mark.parametrize(("kind", "amount"), [("fog", 0.03), ("rain", 7.29), ("snow", 3.0)])
def test_in_bad_air_points_fade_vanish_or_lie_nearer_on_their_beam(kind: str, amount: float) -> None:
    points = cloud(40_000, 50.0, 40.0)
    extinction = {"fog": amount, "rain": rain_extinction(amount), "snow": snow_extinction(amount)}[kind]
    weather = LidarWeather(kind, LIDAR_CHANNEL, amount)  # type: ignore[arg-type]
    after = spoilt(frame(points=points), weather).lidar_sweeps[LIDAR_CHANNEL][0].points
    distances = after[:, :3].norm(dim=1)
    solid = distances > 50.0 - 1e-3
    # What is still there has faded by the way there and back.
    left = 40.0 * math.exp(-2 * extinction * 50.0)
    assert after[solid, 3].unique().tolist() == [round(left)]
    # What is nearer is still on one of the beams.
    assert float(distances.max()) < 50.1
    elevations = after[:, 2] / distances
    assert float((elevations - elevations[0]).abs().max()) < 1e-5
    # The law of the synthetic world: a beam answers with 1 - exp(-3600 intensity / distance^2).
    squared = 50.0**2 + 0.25
    chance = -math.expm1(-3600 * left / squared) / -math.expm1(-3600 * 40.0 / squared)
    assert int(solid.sum()) / len(points) <= chance + 0.01
    assert int(solid.sum()) / len(points) >= chance - float((~solid).sum()) / len(points) - 0.01


@pytest.mark.parametrize("name", ["lidar_fog", "lidar_rain", "lidar_snow"])
def test_the_lidar_sees_less_with_severity(name: str) -> None:
    series = {s.name: s for s in catalogue(Sensors((), LIDAR_CHANNEL, (), pose=False))}[name]
    before = frame(points=torch.cat([cloud(5_000, r, 12.0) for r in (5.0, 15.0, 30.0, 60.0, 90.0)]))
    seen = []
    for level in series.levels:
        points = spoilt(before, level.corruption).lidar_sweeps[LIDAR_CHANNEL][0].points
        distances = points[:, :3].norm(dim=1)[:, None]
        at_their_place = (distances - torch.tensor([5.0, 15.0, 30.0, 60.0, 90.0])).abs().min(dim=1).values < 0.05
        seen.append(float(points[at_their_place, 3].sum()))
    assert all(stronger < weaker for weaker, stronger in pairwise(seen)), seen


def test_extinctions_are_the_published_ones() -> None:
    # ITU-R P.1814: 1.076 R^0.67 dB/km of rain; dry snow of 1 mm/h takes 5.5 dB/km. 1 dB/km is 0.23 /km.
    assert rain_extinction(1.0) * 1000 == pytest.approx(1.076 * 0.230259, rel=1e-5)
    assert rain_extinction(25.0) * 1000 == pytest.approx(2.14, abs=0.01)
    assert snow_extinction(1.0) * 1000 == pytest.approx(5.5257 * 0.230259, rel=1e-4)


# Poses


def circle(seconds: float) -> Transform:
    """10 m/s on a circle of 50 m."""
    yaw = 0.2 * seconds
    return from_yaw(yaw, (50 * math.sin(yaw), 50 * (1 - math.cos(yaw)), 0.0))


def braking(seconds: float) -> Transform:
    """Straight on; 10 m/s at the frame and 3 m/s^2 less in each second."""
    return from_yaw(0.0, (10 * seconds - 1.5 * seconds**2, 0.0, 0.0))


def readings(of: LogFrame) -> list[tuple[float, Transform]]:
    """Seconds before the frame, and ego_from_ego_then as it is told, of everything but the frame."""
    ego_from_global = invert(of.global_from_ego)
    moments = [*of.images.values(), *of.lidar_sweeps[LIDAR_CHANNEL], *of.ego_states]
    return [((m.timestamp_us - of.timestamp_us) * 1e-6, ego_from_global @ m.global_from_ego) for m in moments]


def test_what_is_read_at_the_frames_instant_does_not_move_however_wrong_the_pose_is() -> None:
    before = frame(drive=circle)
    for corruption in (PoseJitter(0.5, 0.1), PoseDrift(2.0, 0.1), PoseDelay(0.3)):
        after = spoilt(before, corruption)
        assert torch.equal(after.global_from_ego, before.global_from_ego)
        for seconds, told in readings(after):
            if seconds == 0:
                assert torch.allclose(told, torch.eye(4, dtype=torch.float64), atol=1e-9)
            else:
                truth = invert(before.global_from_ego) @ circle(seconds)
                if not isinstance(corruption, PoseDelay):
                    assert not torch.allclose(told, truth, atol=1e-3)


def test_jitter_has_its_deviation_and_one_instant_one_pose() -> None:
    errors, turns = [], []
    before = frame(drive=circle)
    for seed in range(70):
        after = spoilt(before, PoseJitter(0.1, 0.01), seed)
        told = {round(seconds, 3): pose for seconds, pose in readings(after)}
        for seconds in (-0.04, -0.2):
            error = invert(invert(circle(0.0)) @ circle(seconds)) @ told[seconds]
            errors.append(error[:2, 3])
            turns.append(float(yaw_of(error)))
    # The error of the reading's pose and that of the frame's pose, of which the latter also turns what lies between.
    assert float(torch.stack(errors).std()) == pytest.approx(0.1 * math.sqrt(2), rel=0.2)
    assert float(np.std(turns)) == pytest.approx(0.01 * math.sqrt(2), rel=0.2)
    sweep = before.lidar_sweeps[LIDAR_CHANNEL][1]
    image = replace(before.images["CAM_FRONT"], timestamp_us=sweep.timestamp_us, global_from_ego=sweep.global_from_ego)
    after = spoilt(replace(before, images={"CAM_FRONT": image}), PoseJitter(0.1, 0.01))
    told_sweep = after.lidar_sweeps[LIDAR_CHANNEL][1].global_from_ego
    assert torch.equal(after.images["CAM_FRONT"].global_from_ego, told_sweep)
    assert not torch.allclose(told_sweep, sweep.global_from_ego, atol=1e-3)


def test_drift_grows_with_time_in_one_direction() -> None:
    after = spoilt(frame(drive=braking), PoseDrift(0.5, 0.02))
    shifts = []
    for seconds, told in readings(after):
        if seconds:
            error = invert(invert(braking(0.0)) @ braking(seconds)) @ told
            assert float(error[:3, 3].norm()) == pytest.approx(0.5 * abs(seconds), abs=1e-9)
            assert abs(float(yaw_of(error))) == pytest.approx(0.02 * abs(seconds), abs=1e-9)
            shifts.append(error[:3, 3] / seconds)
    assert float(torch.stack(shifts).std(dim=0).max()) < 1e-9


def test_a_late_pose_matters_only_where_the_motion_changes() -> None:
    before = frame(drive=circle)
    for (seconds, told), (_, truth) in zip(readings(spoilt(before, PoseDelay(0.5))), readings(before), strict=True):
        # Not those that would lie before the oldest pose. Poses half a second apart are chords of the circle.
        if seconds >= -1.5:
            assert torch.allclose(told, truth, atol=0.07)
    before = frame(drive=braking)
    for seconds, told in readings(spoilt(before, PoseDelay(0.5))):
        if seconds in (-0.5, -1.0, -1.5):
            assert float(told[0, 3]) == pytest.approx(
                float(braking(seconds - 0.5)[0, 3] - braking(-0.5)[0, 3]), abs=1e-6
            )
    # Before the oldest pose it stood: the first two states are told to be at one place.
    told_states = spoilt(before, PoseDelay(0.5)).ego_states
    assert torch.allclose(told_states[0].global_from_ego, told_states[1].global_from_ego, atol=1e-9)
