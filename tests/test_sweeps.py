"""Sweeps against the devkit, whose filters are passed to it and not left in its class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud

from calibration.transforms import from_yaw, invert, rotate_vectors
from datasets.classes import LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.frames import RADAR_FIELDS, LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.sensors.sweeps import (
    CRN_RADAR_FILTER,
    DEVKIT_RADAR_FILTER,
    NO_RADAR_FILTER,
    RADAR_RETURN_FIELDS,
    MovingSweep,
    RadarFilter,
    merge_lidar_sweeps,
    merge_radar_sweeps,
    moving_sweeps,
)

SWEEPS = 6
# What the devkit must be told for each of our filters.
DEVKIT_STATES = {
    "devkit": (DEVKIT_RADAR_FILTER, [0], list(range(7)), [3]),
    "crn": (CRN_RADAR_FILTER, [0, 4, 8, 9, 10, 11, 12, 15, 16, 17], list(range(18)), [3]),
    "none": (NO_RADAR_FILTER, list(range(18)), list(range(18)), list(range(18))),
}


def in_sensor_frame(frame: LogFrame, channel: str, sweeps: list[MovingSweep]) -> list[MovingSweep]:
    """Into the keyframe's own sensor frame, which is where the devkit puts them; poses may differ from the ego's."""
    newest = (frame.lidar_sweeps if channel == LIDAR_CHANNEL else frame.radar_sweeps)[channel][0]
    sensor_from_ego = invert(
        invert(frame.global_from_ego) @ newest.global_from_ego @ frame.rig.ego_from_sensor[channel]
    )
    return [MovingSweep(sweep.points, sensor_from_ego @ sweep.target_from_sensor, sweep.age) for sweep in sweeps]


def check_lidar(root: Path, version: str) -> None:
    devkit = NuScenes(version, str(root), verbose=False)
    reader = NuScenesReader(root, version, lidar_sweeps=SWEEPS)
    for token in reader.frame_tokens("all"):
        frame = reader.frame(token)
        moving = moving_sweeps(frame, LIDAR_CHANNEL, frame.lidar_sweeps[LIDAR_CHANNEL])
        points = merge_lidar_sweeps(
            in_sensor_frame(frame, LIDAR_CHANNEL, moving), close_radius=1.0, at_most=SWEEPS
        ).points.numpy()
        expected, ages = LidarPointCloud.from_file_multisweep(
            devkit, devkit.get("sample", token), LIDAR_CHANNEL, LIDAR_CHANNEL, nsweeps=SWEEPS, min_distance=1.0
        )
        # The same points in the same order, to the last digit of a float32.
        np.testing.assert_allclose(points[:, :3], expected.points[:3].T, rtol=3e-7, atol=1e-6)
        np.testing.assert_array_equal(points[:, 3], expected.points[3] / np.float32(255.0))
        np.testing.assert_allclose(points[:, 4], ages[0], atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_points_are_moved_to_the_bit_as_float64_says(size: int) -> None:
    """Each product and each sum rounded by itself, in the order that they are written in."""
    draw = np.random.default_rng(size)
    points = draw.normal(0.0, 3.0, (size, 5)).astype(np.float32)
    target_from_sensor = from_yaw(0.3, (1000.0 * np.pi, -7.0, 1.8)) @ invert(from_yaw(-1.9, (0.9, 0.0, 0.1)))
    target_from_sensor[:3, :3] += torch.from_numpy(draw.normal(0.0, 0.1, (3, 3)))  # no zeros
    sweep = MovingSweep(torch.from_numpy(points), target_from_sensor, 0.4)
    merged = merge_lidar_sweeps([sweep], close_radius=1.0, at_most=1)
    far = points[~((np.abs(points[:, 0]) < 1.0) & (np.abs(points[:, 1]) < 1.0))]
    x, y, z = far[:, :3].astype(np.float64).T
    rows = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in target_from_sensor.numpy()[:3])
    ages = np.full(len(far), 0.4)
    expected = np.stack([*rows, far[:, 3] / np.float32(255.0), ages], axis=1).astype(np.float32)
    np.testing.assert_array_equal(merged.points.numpy(), expected)
    assert merged.sizes == (len(far),)


def test_lidar_sweeps_equal_the_devkits(synthetic_root: Path) -> None:
    check_lidar(synthetic_root, "v1.0-mini")


def test_real_lidar_sweeps_equal_the_devkits(real_data: Path) -> None:
    check_lidar(real_data / "nuscenes-keyframe", "v1.0-mini")


@pytest.mark.parametrize("name", DEVKIT_STATES)
def test_radar_sweeps_equal_the_devkits(synthetic_root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, invalid, dynamic, ambiguous = DEVKIT_STATES[name]
    # The devkit keeps its filters in its class; whoever forgets them there changes everybody's.
    for attribute, states in (("invalid_states", invalid), ("dynprop_states", dynamic), ("ambig_states", ambiguous)):
        monkeypatch.setattr(RadarPointCloud, attribute, states)
    devkit = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    reader = NuScenesReader(synthetic_root, radar_sweeps=SWEEPS)
    token = reader.frame_tokens("all")[2]
    frame, found = reader.frame(token), 0
    for channel in RADAR_CHANNELS:
        moving = in_sensor_frame(frame, channel, moving_sweeps(frame, channel, frame.radar_sweeps[channel]))
        # The devkit counts the time from the radar's own keyframe, not the sample's.
        start = (frame.timestamp_us - frame.radar_sweeps[channel][0].timestamp_us) * 1e-6
        returns = merge_radar_sweeps(moving, kept=kept, move_by_velocity=False).numpy()
        expected, ages = RadarPointCloud.from_file_multisweep(
            devkit, devkit.get("sample", token), channel, channel, nsweeps=SWEEPS, min_distance=0.0
        )
        found += len(returns)
        np.testing.assert_allclose(returns[:, :3], expected.points[:3].T, rtol=3e-7, atol=1e-5)
        np.testing.assert_allclose(returns[:, -1], ages[0] + start, atol=1e-6)
        unturned = [i for i, field in enumerate(RADAR_FIELDS) if i > 2 and not field.startswith(("vx", "vy"))]
        np.testing.assert_array_equal(returns[:, unturned], expected.points[unturned].T.astype(np.float32))
        # The devkit moves points and leaves their velocities as they were; ours turn.
        sweep = np.repeat(np.arange(len(moving)), [int(kept.kept(s.points).sum()) for s in moving])
        for field in ("vx", "vx_comp"):
            columns = [RADAR_FIELDS.index(field), RADAR_FIELDS.index(field) + 1]
            raw = torch.from_numpy(expected.points[columns].T.copy())
            turned = [rotate_vectors(m.target_from_sensor, raw[sweep == i]) for i, m in enumerate(moving)]
            np.testing.assert_allclose(returns[:, columns], torch.cat(turned).numpy(), atol=1e-5)
    assert found > 0


def returns_with_states(invalid: int, dynamic: int, ambiguous: int) -> torch.Tensor:
    values = {"invalid_state": invalid, "dyn_prop": dynamic, "ambig_state": ambiguous}
    return torch.tensor([[float(values.get(name, 0)) for name in RADAR_FIELDS]])


def test_each_state_is_filtered_on_its_own() -> None:
    states = RadarFilter(invalid_states=(1,), dyn_props=(2,), ambig_states=(3,))
    cases = torch.cat([returns_with_states(*s) for s in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))])
    assert states.kept(cases).tolist() == [True, False, False, False]
    assert NO_RADAR_FILTER.kept(cases).all()


def test_a_return_is_moved_by_its_velocity_in_the_target() -> None:
    point = returns_with_states(0, 0, 3)
    point[0, :3] = torch.tensor([20.0, 1.0, 0.5])
    point[0, RADAR_FIELDS.index("vx_comp")] = 4.0
    sweeps = [MovingSweep(point, from_yaw(np.pi / 2, (0.5, 0.0, 0.0)), 0.5)]
    (moved,) = merge_radar_sweeps(sweeps, kept=NO_RADAR_FILTER, move_by_velocity=True)
    expected = dict(zip(RADAR_RETURN_FIELDS, moved.tolist(), strict=True))
    assert (expected["x"], expected["y"], expected["z"]) == pytest.approx((-0.5, 22.0, 0.5), abs=1e-5)
    assert (expected["vx_comp"], expected["vy_comp"], expected["age"]) == pytest.approx((0.0, 4.0, 0.5), abs=1e-6)


def test_no_sweep_and_an_empty_sweep_give_no_point() -> None:
    assert merge_lidar_sweeps([], close_radius=1.0, at_most=0).points.shape == (0, 5)
    assert merge_radar_sweeps([], kept=NO_RADAR_FILTER, move_by_velocity=True).shape == (0, 19)
    empty = MovingSweep(torch.zeros(0, 5), from_yaw(0.0), 0.0)
    merged = merge_lidar_sweeps([empty, empty], close_radius=1.0, at_most=2)
    assert (merged.points.shape, merged.sizes) == ((0, 5), (0, 0))


def test_missing_sweeps_are_told_and_padded_if_asked(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root, lidar_sweeps=4, radar_sweeps=3)
    first = reader.frame(reader.frame_tokens("all")[0])  # a scene's first: nothing came before
    config = SampleConfig(32, 64, lidar_sweeps=4, radar_sweeps=3)
    sample = make_sample(first, config)
    counts = dict(sample.sweep_counts)
    assert counts[LIDAR_CHANNEL] == len(first.lidar_sweeps[LIDAR_CHANNEL]) < 4
    assert set(counts) == {LIDAR_CHANNEL, *RADAR_CHANNELS}
    padded = make_sample(first, SampleConfig(32, 64, lidar_sweeps=4, radar_sweeps=3, pad_lidar_sweeps=True))
    newest = make_sample(first, SampleConfig(32, 64, lidar_sweeps=1, radar_sweeps=3)).lidar_points
    copies = 4 - counts[LIDAR_CHANNEL]
    assert torch.equal(padded.lidar_points, torch.cat([sample.lidar_points, *[newest] * copies]))
    assert padded.sweep_counts == sample.sweep_counts
