"""CAN bus and GPS files of the synthetic world: read by the devkit, true to the drive, and like the real ones."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pymap3d
import pytest
import torch
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.nuscenes import NuScenes

from calibration.transforms import from_quaternion
from datasets.nuscenes.can_bus import read_gps, read_vehicle_motion
from datasets.synthetic.can_bus.ego_signals import GRAVITY, signals_of
from datasets.synthetic.can_bus.messages import can_bus_files
from datasets.synthetic.can_bus.positioning import gps_messages
from datasets.synthetic.can_bus.zoe import RPM_PER_SPEED, STEERING_RATIO, WHEELBASE
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import scene_start_us
from datasets.synthetic.world import World, build_world

pytestmark = pytest.mark.xdist_group("synthetic world")

_KINDS = ("ms_imu", "pose", "steeranglefeedback", "vehicle_monitor", "zoe_veh_info", "zoesensors")
_CONFIG = WorldConfig(scenes=5, keyframes=24, seed=4)
_Files = dict[str, Any]


@pytest.fixture(scope="module")
def drives() -> list[tuple[int, World, _Files]]:
    """Number, world and CAN bus of a scene for each manoeuvre."""
    worlds = [(index, build_world(_CONFIG, index)) for index in range(5)]
    return [(index, world, can_bus_files(_CONFIG, index, world)) for index, world in worlds]


def _column(messages: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([message[key] for message in messages], np.float64)


def _seconds(messages: list[dict[str, Any]], index: int) -> np.ndarray:
    return np.array([message["utime"] - scene_start_us(_CONFIG, index) for message in messages]) * 1e-6


def test_the_devkit_reads_and_shows_every_kind(synthetic_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    can = NuScenesCanBus(str(synthetic_root))
    names = [scene["name"] for scene in NuScenes("v1.0-mini", str(synthetic_root), verbose=False).scene]
    for name in names:
        for kind in can.all_messages:
            assert len(can.get_messages(name, kind)) > 2
        can.print_all_message_stats(name, print_full=True)
        for kind in _KINDS:
            can.print_message_stats(name, kind)
        for kind, key, dimension in (("steeranglefeedback", "value", 0), ("pose", "vel", -1), ("ms_imu", "q", 3)):
            can.plot_message_data(name, kind, key, dimension=dimension)
        can.plot_baseline_route(name)
        route, pose = can.get_pose_and_route(name)
        assert route.shape[1] == pose.shape[1] == 2
        plt.close("all")
    assert can.list_misaligned_routes() == []


def test_keys_types_and_rates_are_those_of_a_real_scene(
    real_data: Path, drives: list[tuple[int, World, _Files]]
) -> None:
    folder = real_data / "nuscenes-minival" / "can_bus"
    for kind in _KINDS:
        real = json.loads((folder / f"scene-0103_{kind}.json").read_text())
        for _, _, files in drives:
            made = files[kind]
            assert list(made[0]) == list(real[0]), kind
            for key, value in real[0].items():
                assert type(made[0][key]) is type(value), (kind, key)
                assert np.shape(made[0][key]) == np.shape(value), (kind, key)
            # Gaps in the real recording are what differs.
            gaps = [np.median(np.diff(_column(rows, "utime"))) for rows in (real, made)]
            assert gaps[1] / gaps[0] == pytest.approx(1.0, abs=0.1), kind
            assert (np.diff(_column(made, "utime")) > 0).all()
    meta = json.loads((folder / "scene-0103_meta.json").read_text())
    for name, statistics in meta.items():
        found = drives[0][2]["meta"][name]
        assert list(found) == list(statistics)
        assert {k: list(v) for k, v in found["var_stats"].items()} == {
            k: list(v) for k, v in statistics["var_stats"].items()
        }


def test_meta_counts_as_the_real_file_does(real_data: Path) -> None:
    from datasets.synthetic.can_bus.messages import meta_of

    folder = real_data / "nuscenes-minival" / "can_bus"
    messages = {kind: json.loads((folder / f"scene-0103_{kind}.json").read_text()) for kind in _KINDS}
    real, made = json.loads((folder / "scene-0103_meta.json").read_text()), meta_of(messages)
    for name, statistics in real.items():
        for key in ("message_count", "message_freq", "timespan"):
            assert made[name][key] == pytest.approx(statistics[key])
        for field, numbers in statistics["var_stats"].items():
            if field == "utime":
                continue
            for key, value in numbers.items():
                assert made[name]["var_stats"][field][key] == pytest.approx(value, rel=1e-6, abs=1e-9), (field, key)


def test_noise_and_grids_are_those_of_a_real_scene(real_data: Path, drives: list[tuple[int, World, _Files]]) -> None:
    folder = real_data / "nuscenes-minival" / "can_bus"
    real = {kind: json.loads((folder / f"scene-0103_{kind}.json").read_text()) for kind in _KINDS}

    def roughness(rows: list[dict[str, Any]], key: str) -> np.ndarray:
        """White noise: the spread of second differences, which slow motion hardly has."""
        values = _column(rows, key).reshape(len(rows), -1)
        return np.asarray(np.median(np.abs(np.diff(values, 2, axis=0)), axis=0) / 0.6745 / np.sqrt(6.0))

    for kind, key, factor in (
        ("ms_imu", "linear_accel", 2.0), ("ms_imu", "rotation_rate", 2.0), ("zoesensors", "throttle_sensor", 3.0),
    ):  # fmt: skip
        found = np.mean([roughness(files[kind], key) for _, _, files in drives], axis=0)
        ratio = found / roughness(real[kind], key)
        assert (ratio < factor).all(), (kind, key, ratio)
        assert (ratio > 1.0 / factor).all(), (kind, key, ratio)
    for kind, key, step in (
        ("zoe_veh_info", "FL_wheel_speed", 0.0417), ("zoe_veh_info", "meanEffTorque", 0.5),
        ("steeranglefeedback", "value", np.radians(0.1)), ("vehicle_monitor", "vehicle_speed", 0.01),
        ("zoe_veh_info", "longitudinal_accel", 0.05), ("zoe_veh_info", "odom", 4.0),
    ):  # fmt: skip
        for rows in (real[kind], drives[1][2][kind]):
            # The grid may start anywhere: the steering wheel's zero is calibrated.
            steps = (_column(rows, key) - rows[0][key]) / step
            assert np.abs(steps - np.round(steps)).max() < 0.02, (kind, key)


def test_the_gyroscope_integrates_to_the_pose(drives: list[tuple[int, World, _Files]]) -> None:
    turned = 0.0
    for index, world, files in drives:
        times, rate = _seconds(files["ms_imu"], index), _column(files["ms_imu"], "rotation_rate")[:, 2]
        integral = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(times))])
        yaw = world.drive.track.sampled(times)[:, 2]
        # Bias of at most 4 sigma, white noise that adds up as a random walk.
        allowed = 4 * (0.0002 * (times[-1] - times[0]) + 0.001 * 0.01 * np.sqrt(len(times))) + 0.004
        assert np.abs(integral - (yaw - yaw[0])).max() < allowed
        orientation = _column(files["pose"], "orientation")
        heading = np.unwrap(2 * np.arctan2(orientation[:, 3], orientation[:, 0]))
        assert (orientation[:, 1:3] == 0.0).all()
        at_pose = np.interp(_seconds(files["pose"], index), times, integral)
        assert np.abs((heading - heading[0]) - (at_pose - at_pose[0])).max() < allowed
        turned = max(turned, float(np.ptp(yaw)))
    assert turned > 1.0


def test_the_accelerometer_feels_gravity_braking_and_curves(drives: list[tuple[int, World, _Files]]) -> None:
    for index, world, files in drives:
        times, force = _seconds(files["ms_imu"], index), _column(files["ms_imu"], "linear_accel")
        poses = [world.drive.world_from_ego(float(t)) for t in times[::40]]
        # From the drive's places alone: second differences over 0.2 s, gravity added, in the vehicle's own axes.
        around = [world.drive.track.sampled(times[::40] + step)[:, :2] for step in (-0.1, 0.0, 0.1)]
        over_ground = (around[0] - 2 * around[1] + around[2]) / 0.01
        felt = np.column_stack([over_ground, np.full(len(poses), GRAVITY)])
        expected = np.array([pose[:3, :3].T @ f for pose, f in zip(poses, felt, strict=True)])
        # Means over the same 0.2 s.
        smooth = np.array([force[max(0, i - 10) : i + 11].mean(axis=0) for i in range(0, len(times), 40)])
        # Shocks from the road lift single means; where a curve begins, second differences see it late.
        assert np.quantile(np.abs(smooth - expected), 0.85) < 0.3
        assert np.abs((smooth - expected).mean(axis=0)).max() < 0.25


def test_body_rates_are_those_of_the_poses(drives: list[tuple[int, World, _Files]]) -> None:
    world = drives[2][1]
    times = np.linspace(0.0, _CONFIG.duration, 60)
    signals = signals_of(world.drive, times)
    for i, time in enumerate(times.tolist()):
        before, after = (world.drive.world_from_ego(time + step)[:3, :3] for step in (-0.02, 0.02))
        spin = before.T @ after
        rates = np.array([spin[2, 1] - spin[1, 2], spin[0, 2] - spin[2, 0], spin[1, 0] - spin[0, 1]]) / 2 / 0.04
        assert np.abs(signals.rotation_rate[i] - rates).max() < 0.02


def test_wheels_poses_and_places_agree_on_the_speed(drives: list[tuple[int, World, _Files]]) -> None:
    for index, _, files in drives:
        pose, wheels = files["pose"], files["zoe_veh_info"]
        times, places = _seconds(pose, index), _column(pose, "pos")
        speed = _column(pose, "vel")[:, 0]
        travelled = np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1).sum()
        assert travelled == pytest.approx(float(np.sum(0.5 * (speed[1:] + speed[:-1]) * np.diff(times))), rel=0.01)
        at_wheels = np.interp(_seconds(wheels, index), times, speed)
        rear = [_column(wheels, f"{w}_wheel_speed") / RPM_PER_SPEED[w] for w in ("RL", "RR")]
        assert np.abs(np.mean(rear, axis=0) - at_wheels).max() < 0.1
        # The outer wheel of a curve is the faster one.
        turning = np.interp(_seconds(wheels, index), times, _column(pose, "rotation_rate")[:, 2])
        if np.abs(turning).max() > 0.2:
            assert np.corrcoef(rear[1] - rear[0], turning)[0, 1] > 0.95
        monitor = files["vehicle_monitor"]
        shown = _column(monitor, "vehicle_speed") / 3.6
        assert np.abs(shown - np.interp(_seconds(monitor, index), times, speed)).max() < 0.05


def test_steering_follows_the_curve_and_pedals_the_speed(drives: list[tuple[int, World, _Files]]) -> None:
    for index, world, files in drives:
        times = _seconds(files["steeranglefeedback"], index)
        value = _column(files["steeranglefeedback"], "value")
        yaw_rate = np.array([world.drive.yaw_rate(float(t)) for t in times[::20]])
        speed = np.array([world.drive.speed(float(t)) for t in times[::20]])
        quick = speed > 2.0
        wanted = STEERING_RATIO * np.arctan(WHEELBASE * yaw_rate[quick] / speed[quick])
        assert np.median(np.abs(value[::20][quick] - wanted)) < 0.05
        info = files["zoe_veh_info"]
        ahead = np.array([world.drive.acceleration(float(t))[0] for t in _seconds(info, index)[::20]])
        pedal, regen = _column(info, "pedal_cc")[::20], _column(info, "regen")[::20]
        brake = np.interp(_seconds(info, index)[::20], _seconds(files["zoesensors"], index),
                          _column(files["zoesensors"], "brake_sensor"))  # fmt: skip
        assert (pedal[ahead > 0.3] > 100.0).all()
        assert (brake[ahead < -1.2] > 0.3).all()
        assert (pedal[ahead < -1.2] == 0.0).all()
        assert (regen[ahead < -0.6] > 30.0).all()


def test_the_imu_quaternion_is_a_quarter_turn_off(drives: list[tuple[int, World, _Files]]) -> None:
    index, world, files = drives[2]
    for message in files["ms_imu"][::200]:
        time = (message["utime"] - scene_start_us(_CONFIG, index)) * 1e-6
        found = from_quaternion(tuple(message["q"]), (0.0, 0.0, 0.0))[:3, :3].numpy()
        quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        off = found.T @ quarter @ world.drive.world_from_ego(time)[:3, :3]
        assert np.arccos(np.clip((np.trace(off) - 1) / 2, -1, 1)) < 0.06


def test_our_reader_and_the_tables_agree(synthetic_root: Path) -> None:
    devkit = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    for scene in devkit.scene:
        motion = read_vehicle_motion(synthetic_root, scene["name"])
        assert motion is not None
        assert read_gps(synthetic_root, scene["name"]) is not None
        pose = json.loads((synthetic_root / "can_bus" / f"{scene['name']}_pose.json").read_text())
        times = [m["utime"] for m in pose]
        samples = [s for s in devkit.sample if s["scene_token"] == scene["token"]]
        for sample in samples:
            row = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
            truth = devkit.get("ego_pose", row["ego_pose_token"])["translation"]
            assert times[0] <= row["timestamp"] <= times[-1]
            place = [np.interp(row["timestamp"], times, [m["pos"][axis] for m in pose]) for axis in (0, 1)]
            assert np.abs(np.subtract(place, truth[:2])).max() < 0.01
            state = motion.at(row["timestamp"])
            assert state is not None
            assert torch.isfinite(torch.tensor(state[0])).all()


def test_gps_errs_slowly_and_now_and_then_badly_or_not_at_all(drives: list[tuple[int, World, _Files]]) -> None:
    errors, gaps, steps = [], 0, []
    for index, world, _ in drives:
        for seed in range(6):
            messages = gps_messages(WorldConfig(scenes=5, keyframes=24, seed=seed), index, world)
            times = _seconds(messages, index)
            fixes = np.array([[m["latitude"], m["longitude"], m["altitude"]] for m in messages], np.float64)
            east, north, _ = pymap3d.geodetic2enu(*fixes.T, 42.336849169438615, -71.05785369873047, 0.0)
            truth = world.drive.track.sampled(times)[:, :2] + world.global_offset[:2]
            error = np.column_stack([east, north]) - truth
            errors.append(np.linalg.norm(error, axis=1))
            steps.append(np.linalg.norm(np.diff(error, axis=0), axis=1))
            gaps += int((np.diff(times) > 0.5).sum())
    error, step = np.concatenate(errors), np.concatenate(steps)
    assert 0.4 < np.median(error) < 1.2
    assert np.quantile(error, 0.9) < 4.0
    # From fix to fix little is new; the rest wanders.
    assert np.median(step) < 0.4 * np.median(error)
    assert 1 <= gaps <= 12
