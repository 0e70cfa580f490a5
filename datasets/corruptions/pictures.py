"""Changing the pixels of recorded pictures: decoded, changed, encoded again as they came."""

from collections.abc import Callable, Collection
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from datasets.arrays import Array
from datasets.faults import SensorFileError
from datasets.frames import CameraImage, LogFrame
from datasets.sensors.images import decode_reduced

Picture = UInt8[Array, "H W 3"]

# High enough that encoding twice costs less than the weakest corruption: about 1 of 255 on average.
_JPEG_QUALITY = 95
_PNG_START = b"\x89PNG"
# Sizes in pixels are meant for pictures of this width (nuScenes'), and scale with a picture's own.
REFERENCE_WIDTH = 1600


def with_changed_pictures(
    frame: LogFrame, change: Callable[[str, Picture], Picture], channels: Collection[str] | None = None
) -> LogFrame:
    """The frame with `change(channel, pixels)` in place of each picture's pixels (**BGR**, as recorded).

    With `channels` only of those. A JPEG stays a JPEG (quality 95) and a PNG a PNG, so that it takes the same way into
    the network as before. A picture that cannot be decoded stays as it is: whoever decodes it tells the fault.
    """
    images = dict(frame.images)
    for channel, image in frame.images.items():
        if channels is not None and channel not in channels:
            continue
        camera = frame.rig.cameras[channel]
        try:
            pixels = decode_reduced(image, camera.width, camera.height, 1)
        except SensorFileError:
            continue
        images[channel] = replace(image, encoded=_encoded(change(channel, pixels), image))
    return replace(frame, images=images)


def _encoded(pixels: Picture, recorded: CameraImage) -> bytes:
    if recorded.encoded.startswith(_PNG_START):
        written, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not written:
        raise ValueError(f"{recorded.source}: the changed picture cannot be encoded")
    return bytes(data)


def as_bytes(pixels: Float32[Array, "H W 3"]) -> Picture:
    """Values 0..255, rounded and clipped."""
    # cv2 rounds and clips in one pass, several times as fast as NumPy.
    return np.asarray(cv2.addWeighted(pixels, 1.0, pixels, 0.0, 0.0, dtype=cv2.CV_8U), np.uint8)
