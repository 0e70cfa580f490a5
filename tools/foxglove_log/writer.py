"""An MCAP file that is complete or not there, and the topics in it (named as foxglove/nuscenes2mcap names them)."""

from pathlib import Path
from types import TracebackType
from typing import Any

import foxglove
from foxglove.channels import (
    CameraCalibrationChannel,
    CompressedImageChannel,
    FrameTransformsChannel,
    LocationFixChannel,
    OdometryChannel,
    PointCloudChannel,
    PoseInFrameChannel,
    SceneUpdateChannel,
)
from foxglove.mcap import MCAPWriteOptions
from foxglove.messages import (
    CameraCalibration,
    CompressedImage,
    FrameTransforms,
    LocationFix,
    Odometry,
    PointCloud,
    PoseInFrame,
    SceneUpdate,
)

from datasets.atomic_file import temporary_beside
from tools.foxglove_log.messages import nanoseconds

Message = (
    CameraCalibration
    | CompressedImage
    | FrameTransforms
    | LocationFix
    | Odometry
    | PointCloud
    | PoseInFrame
    | SceneUpdate
)

_CHANNEL_OF_MESSAGE: dict[type, Any] = {
    CameraCalibration: CameraCalibrationChannel,
    CompressedImage: CompressedImageChannel,
    FrameTransforms: FrameTransformsChannel,
    LocationFix: LocationFixChannel,
    Odometry: OdometryChannel,
    PointCloud: PointCloudChannel,
    PoseInFrame: PoseInFrameChannel,
    SceneUpdate: SceneUpdateChannel,
}


class McapLog:
    """Writes an MCAP file under a temporary name; `keep` ends it and gives it its name, else nothing stays.

    Use it as a context manager. Messages must come in the order of their time: ValueError otherwise.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.count = 0
        self._temporary = temporary_beside(path)
        # A context of its own: two logs in one process must not write into each other.
        self._context = foxglove.Context()
        self._channels: dict[str, Any] = {}
        self._last_us = 0
        self._writer = foxglove.open_mcap(
            self._temporary,
            allow_overwrite=True,
            context=self._context,
            writer_options=MCAPWriteOptions(profile="", chunk_size=1 << 20),
        )

    def __enter__(self) -> "McapLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary.exists():
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, topic: str, timestamp_us: int, message: Message) -> None:
        """Log one message at this time."""
        if timestamp_us < self._last_us:
            raise ValueError(f"{topic}: a message at {timestamp_us} us after one at {self._last_us} us")
        self._last_us = timestamp_us
        channel = self._channels.get(topic)
        if channel is None:
            channel = _CHANNEL_OF_MESSAGE[type(message)](topic, context=self._context)
            self._channels[topic] = channel
        channel.log(message, log_time=nanoseconds(timestamp_us))
        self.count += 1

    def describe(self, name: str, facts: dict[str, str]) -> None:
        """Keep facts (the run, the scene) in the file's metadata."""
        self._writer.write_metadata(name, facts)

    def keep(self) -> Path:
        """End the file and give it its name."""
        self._writer.close()
        self._temporary.replace(self.path)
        return self.path
