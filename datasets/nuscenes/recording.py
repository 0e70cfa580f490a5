"""A scene as the vehicle recorded it: the messages of all sensors, keyframes and sweeps, in the order of their time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from calibration.cameras import PinholeCamera
from calibration.rig import GpsFix
from calibration.transforms import Transform
from datasets.classes import LIDAR_CHANNEL
from datasets.faults import InputRefused
from datasets.nuscenes.can_bus import read_gps
from datasets.nuscenes.files import read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.nuscenes.index.records import SceneRecords
from datasets.nuscenes.reader import CHANNELS, NuScenesReader, camera_of, ego_from_sensor_of, pose_of


@dataclass(frozen=True)
class RecordedMessage:
    """One reading of one sensor. `keyframe_token` is the sample it is the keyframe of, None for a sweep between.

    `camera` is None for other sensors; `filename` is relative to the dataroot.
    """

    channel: str
    timestamp_us: int
    keyframe_token: str | None
    global_from_ego: Transform
    ego_from_sensor: Transform
    camera: PinholeCamera | None
    filename: str


@dataclass(frozen=True)
class RecordedFix:
    """One reading of the GPS receiver."""

    timestamp_us: int
    fix: GpsFix


def messages_of_scene(reader: NuScenesReader, scene_name: str) -> tuple[RecordedMessage, ...]:
    """All messages of a scene, the oldest first. Raises InputRefused for a scene that the tables do not have."""
    if scene_name not in reader.scene_names:
        there = ", ".join(reader.scene_names[:10]) + (" ..." if len(reader.scene_names) > 10 else "")
        raise InputRefused(f"{reader.root / reader.version}: there is no scene {scene_name!r}; there are {there}.")
    scene = reader.index.scene(reader.scene_names.index(scene_name))
    records, channels = scene.sample_data, reader.index.channels
    # Stable, so that records of the same time stay in the order of their channels and tokens.
    by_time = np.argsort(records.timestamp, kind="stable").tolist()
    return tuple(_message(reader, scene, row) for row in by_time if channels[records.channel[row]] in CHANNELS)


def fixes_of_scene(reader: NuScenesReader, scene_name: str) -> tuple[RecordedFix, ...]:
    """The GPS fixes of a scene, the oldest first; none where no receiver was recorded."""
    track = read_gps(reader.root, scene_name)
    if track is None:
        return ()
    return tuple(RecordedFix(int(time), fix) for time, fix in zip(track.timestamps_us, track.fixes, strict=True))


def read_picture(reader: NuScenesReader, message: RecordedMessage) -> bytes:
    """The encoded picture of a camera's message. Raises SensorFileError where the file is absent or broken."""
    if message.camera is None:
        raise ValueError(f"{message.channel} is no camera")
    return read_image_bytes(reader.root, message.filename, message.camera.width, message.camera.height)


def read_points(reader: NuScenesReader, message: RecordedMessage) -> Float32[Tensor, "P C"]:
    """The points of a LiDAR's or a radar's message (LIDAR_FIELDS or RADAR_FIELDS). Raises SensorFileError."""
    read = read_lidar_sweep if message.channel == LIDAR_CHANNEL else read_radar_sweep
    return read(reader.root, message.filename).points


def _message(reader: NuScenesReader, scene: SceneRecords, row: int) -> RecordedMessage:
    records = scene.sample_data
    return RecordedMessage(
        channel=reader.index.channels[records.channel[row]],
        timestamp_us=int(records.timestamp[row]),
        keyframe_token=scene.samples.token[int(records.sample[row])] if records.is_key_frame[row] else None,
        global_from_ego=pose_of(scene, row),
        ego_from_sensor=ego_from_sensor_of(reader.index, scene, row),
        camera=camera_of(reader.index, scene, row),
        filename=reader.index.filename(records, row),
    )
