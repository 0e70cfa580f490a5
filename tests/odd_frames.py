"""Frames with every oddity that a recording may have, drawn by hypothesis."""

import math

import cv2
import numpy as np
import torch
from hypothesis import strategies as st

from calibration.cameras import PinholeCamera
from calibration.rig import EgoState, GpsFix, SensorRig
from calibration.transforms import Transform, from_quaternion, from_yaw, rigid
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, SensorFault
from datasets.frames import LIDAR_FIELDS, RADAR_FIELDS, Annotations, CameraImage, LogFrame, PointSweep
from tests.random_batch import random_boxes

WIDTH, HEIGHT = 64, 36
NOW_US = 1_533_000_000_000_000
_TEXT = st.text(max_size=6)


@st.composite
def odd_frames(draw: st.DrawFn, *, token: str = "frame") -> LogFrame:
    """One frame. Each channel may be absent, broken or recorded, a recorded one may have empty sweeps; annotations and
    the past may be absent, velocities unknown, poses tilted and kilometres from the origin.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    here = random_pose(rng, draw(st.sampled_from([0.0, 10.0, 5e3])))
    recorded = {c: draw(st.integers(0, 4)) for c in (*CAMERA_CHANNELS[:3], LIDAR_CHANNEL, *RADAR_CHANNELS[:3])}
    faults = [
        SensorFault(channel, draw(st.sampled_from(FaultReason)), draw(_TEXT))
        for channel, sweeps in recorded.items()
        if sweeps == 0
    ]
    mounts, cameras = {}, {}
    for number, channel in enumerate(recorded):
        mount = from_yaw(float(rng.uniform(-3, 3)), rng.uniform(-1, 2, 3).tolist())
        if channel in CAMERA_CHANNELS:
            mount = mount @ rigid(_AXES_OF_CAMERA, torch.zeros(3, dtype=torch.float64))
            intrinsics = [[50.0 + number, 0, 31.5], [0, 51.0, rng.uniform(10, 25)], [0, 0, 1]]
            cameras[channel] = PinholeCamera(WIDTH, HEIGHT, torch.tensor(intrinsics, dtype=torch.float64))
        mounts[channel] = mount

    def sweeps(channel: str, columns: int) -> tuple[PointSweep, ...]:
        return tuple(
            PointSweep(
                NOW_US - 50_000 * age - int(rng.integers(0, 9_000)),
                _near(here, rng),
                _points(rng, draw(st.sampled_from([0, 1, 7, 40])), columns),
            )
            for age in range(recorded[channel])
        )

    past = range(draw(st.integers(0, 3)))[::-1]
    return LogFrame(
        token=token,
        scene_name=draw(_TEXT),
        timestamp_us=NOW_US,
        global_from_ego=here,
        rig=SensorRig(mounts, cameras),
        ego_states=tuple(_state(rng, here, age, gps=draw(st.booleans())) for age in past),
        images={
            channel: CameraImage(NOW_US - 30_000, _near(here, rng), _picture(rng, draw), f"samples/ü {channel}.x")
            for channel in CAMERA_CHANNELS
            if recorded.get(channel, 0) > 0
        },
        lidar_sweeps={LIDAR_CHANNEL: sweeps(LIDAR_CHANNEL, len(LIDAR_FIELDS))} if recorded[LIDAR_CHANNEL] else {},
        radar_sweeps={c: sweeps(c, len(RADAR_FIELDS)) for c in RADAR_CHANNELS if recorded.get(c, 0) > 0},
        annotations=_annotations(rng, here, draw(st.sampled_from([None, 0, 1, 6]))),
        faults=tuple(faults),
        impairments=(SensorFault(LIDAR_CHANNEL, FaultReason.NONFINITE_POINTS, draw(_TEXT)),) * draw(st.integers(0, 2)),
    )


_AXES_OF_CAMERA = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64)  # z looks ahead, y down


def random_pose(rng: np.random.Generator, reach: float) -> Transform:
    """A pose within `reach` metres, tilted by up to a degree or two."""
    half = rng.uniform(-math.pi, math.pi) / 2
    quaternion = np.array([math.cos(half), *rng.uniform(-0.01, 0.01, 2), math.sin(half)])
    quaternion /= np.linalg.norm(quaternion)
    return from_quaternion(quaternion.tolist(), (*rng.uniform(-reach, reach, 2).tolist(), 0.5))


def _near(here: Transform, rng: np.random.Generator) -> Transform:
    return here @ from_yaw(float(rng.uniform(-0.02, 0.02)), (*rng.uniform(-2, 0.5, 2).tolist(), 0.0))


def _points(rng: np.random.Generator, count: int, columns: int) -> torch.Tensor:
    points = rng.uniform(-1, 1, (count, columns)) * 30
    if columns == len(RADAR_FIELDS):
        for state, value in (("invalid_state", 0), ("dyn_prop", 1), ("ambig_state", 3)):
            points[:, RADAR_FIELDS.index(state)] = value
    else:
        points[:, 3:] = rng.integers(0, [256, 32], (count, 2))
    return torch.from_numpy(points.astype(np.float32))


def _picture(rng: np.random.Generator, draw: st.DrawFn) -> bytes:
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return bytes(cv2.imencode(draw(st.sampled_from([".jpg", ".png"])), pixels)[1])


def _state(rng: np.random.Generator, here: Transform, age: int, *, gps: bool) -> EgoState:
    past = here @ from_yaw(float(rng.uniform(-0.2, 0.2)), (-3.0 * age, float(rng.uniform(-1, 1)), 0.0))
    vectors = [torch.from_numpy(rng.uniform(-9, 9, 3)) for _ in range(2)]
    fix = GpsFix(*rng.uniform(-80, 80, 3).tolist()) if gps else None
    return EgoState(NOW_US - 500_000 * age, past if age else here, *vectors, float(rng.uniform(-1, 1)), fix)


def _annotations(rng: np.random.Generator, here: Transform, count: int | None) -> Annotations | None:
    if count is None:
        return None
    boxes = random_boxes(count, torch.Generator().manual_seed(int(rng.integers(2**31)))).to(torch.float64)
    boxes = boxes.transformed(here)
    boxes.velocities[::3] = math.nan
    names = [tuple(f"{kind}-{number}" for number in range(count)) for kind in ("annotation", "ü")]
    counts = [torch.from_numpy(rng.integers(0, 9, count)) for _ in range(2)]
    return Annotations(boxes, *names, *counts)
