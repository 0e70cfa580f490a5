"""A scene as the vehicle recorded it: the messages of all sensors, keyframes and sweeps, in the order of their time."""

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from calibration.cameras import PinholeCamera
from calibration.rig import GpsFix
from calibration.transforms import Transform, from_quaternion
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import InputRefused
from datasets.nuscenes.can_bus import read_gps
from datasets.nuscenes.files import read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.nuscenes.reader import NuScenesReader, camera_of
from datasets.nuscenes.tables import Row, channel_of


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
    tables = reader.tables
    scene_token = next(token for token, row in tables["scene"].items() if row["name"] == scene_name)
    samples = {token for token, row in tables["sample"].items() if row["scene_token"] == scene_token}
    rows = [row for row in tables["sample_data"].values() if row["sample_token"] in samples]
    known = {*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS}
    by_time = sorted(rows, key=lambda row: (row["timestamp"], channel_of(tables, row), row["token"]))
    return tuple(_message(reader, row) for row in by_time if channel_of(tables, row) in known)


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


def _message(reader: NuScenesReader, row: Row) -> RecordedMessage:
    pose = reader.tables["ego_pose"][row["ego_pose_token"]]
    calibration = reader.tables["calibrated_sensor"][row["calibrated_sensor_token"]]
    return RecordedMessage(
        channel=channel_of(reader.tables, row),
        timestamp_us=row["timestamp"],
        keyframe_token=row["sample_token"] if row["is_key_frame"] else None,
        global_from_ego=from_quaternion(pose["rotation"], pose["translation"]),
        ego_from_sensor=from_quaternion(calibration["rotation"], calibration["translation"]),
        camera=camera_of(reader.tables, row),
        filename=row["filename"],
    )
