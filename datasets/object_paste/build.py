"""A database of objects cut out of recorded frames (GT-paste, `datasets.object_paste.paste`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from calibration.transforms import Transform, invert, transform_points
from datasets.boxes import Boxes3D
from datasets.faults import SensorFileError
from datasets.frames import LogFrame
from datasets.object_paste.database import ObjectPicture, RecordedObject, write_object_database
from datasets.object_paste.paste import points_in_box_frame, returns_in_box_frame
from datasets.object_paste.pictures import bounds, outline_in_picture
from datasets.reader import LogReader
from datasets.samples.make_sample import SampleConfig, lidar_points, radar_returns
from datasets.sensors.images import decode_image
from datasets.sensors.points_in_boxes import points_in_boxes
from datasets.sensors.sweeps import NO_RADAR_FILTER

_LEAST_VISIBLE = 0.5  # share of the projected box that must lie in the picture
_LEAST_PIXELS = 8  # on each side
_JPEG_QUALITY = 95


def build_object_database(
    reader: LogReader,
    tokens: Sequence[str],
    config: SampleConfig,
    folder: Path,
    *,
    version: str,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Cut every annotated object that a LiDAR point hit out of these frames; write them to `folder`, return how many.

    The sweeps and channels are those of `config`; radar returns of every state are kept. `version` is the dataset's;
    `progress` is called with 1 after each frame. Raises InputRefused where the folder exists. A sensor that is absent
    or broken gives nothing.
    """
    everything = replace(config, radar_filter=NO_RADAR_FILTER, pad_lidar_sweeps=False)

    def objects() -> Iterator[RecordedObject]:
        for token in tokens:
            yield from objects_of_frame(reader.frame(token), everything)
            if progress is not None:
                progress(1)

    return write_object_database(
        folder, objects(), version=version, lidar_sweeps=config.lidar_sweeps, radar_sweeps=config.radar_sweeps
    )


def objects_of_frame(frame: LogFrame, config: SampleConfig) -> list[RecordedObject]:
    """The annotated objects of a frame that at least one LiDAR point hit."""
    if frame.annotations is None:
        return []
    ego_from_global = invert(frame.global_from_ego)
    boxes = frame.annotations.boxes_global.transformed(ego_from_global).to(torch.float32)
    lidar, radar = lidar_points(frame, config), radar_returns(frame, config)
    lidar_inside, radar_inside = points_in_boxes(boxes, lidar), points_in_boxes(boxes, radar)
    cameras = _Cameras(frame, config, ego_from_global)
    objects = []
    for index in torch.nonzero(lidar_inside.counts)[:, 0].tolist():
        box = boxes[torch.tensor([index])]
        objects.append(
            RecordedObject(
                token=frame.annotations.tokens[index],
                scene=frame.scene_name,
                box=box,
                lidar_points=points_in_box_frame(box, lidar[lidar_inside.of(index)]),
                radar_returns=returns_in_box_frame(box, radar[radar_inside.of(index)]),
                picture=cameras.picture_of(box),
            )
        )
    return objects


class _Cameras:
    """The pictures of a frame, each decoded when the first object needs it."""

    def __init__(self, frame: LogFrame, config: SampleConfig, ego_from_global: Transform) -> None:
        self._frame = frame
        self._cam_from_ego = {
            channel: invert(
                ego_from_global @ frame.images[channel].global_from_ego @ frame.rig.ego_from_sensor[channel]
            )
            for channel in config.camera_channels
            if channel in frame.images
        }
        self._decoded: dict[str, NDArray[np.uint8] | None] = {}

    def picture_of(self, box: Boxes3D) -> ObjectPicture | None:
        """The region of the object's box in the picture that shows the most of it, if any shows enough."""
        best: tuple[int, str, tuple[int, int, int, int], tuple[float, float, float, float]] | None = None
        for channel, cam_from_ego in self._cam_from_ego.items():
            camera = self._frame.rig.cameras[channel]
            corners = transform_points(cam_from_ego, box.corners()[0].double())
            outline = outline_in_picture(camera.intrinsics, corners)
            if outline is None or bool((corners[:, 2] <= 0).any()):
                continue
            left, top, right, bottom = bounds(outline)
            window = (
                max(0, int(left)),
                max(0, int(top)),
                int(min(right + 2, camera.width)),
                int(min(bottom + 2, camera.height)),
            )
            width, height = window[2] - window[0], window[3] - window[1]
            shown = width * height / max((right - left) * (bottom - top), 1e-6)
            if min(width, height) < _LEAST_PIXELS or shown < _LEAST_VISIBLE:
                continue
            if best is None or width * height > best[0]:
                best = (width * height, channel, window, (left, top, right, bottom))
        if best is None:
            return None
        _, channel, (left_pixel, top_pixel, right_pixel, bottom_pixel), extent = best
        pixels = self._pixels(channel)
        if pixels is None:
            return None
        crop = np.ascontiguousarray(pixels[top_pixel:bottom_pixel, left_pixel:right_pixel, ::-1])
        encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        return ObjectPicture(bytes(encoded), left_pixel, top_pixel, extent)

    def _pixels(self, channel: str) -> NDArray[np.uint8] | None:
        if channel not in self._decoded:
            try:
                self._decoded[channel] = decode_image(self._frame.images[channel]).numpy()
            except SensorFileError:
                self._decoded[channel] = None
        return self._decoded[channel]
