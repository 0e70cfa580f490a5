"""Encoded pictures: their size read from the header, and their pixels."""

import struct

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from datasets.faults import FaultReason, SensorFileError
from datasets.frames import CameraImage

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Start-of-frame markers hold the size; C4, C8 and CC in their midst are other things.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START_OF_SCAN = 0xDA


def picture_size(encoded: bytes, source: str) -> tuple[int, int]:
    """Width and height in pixels as the header of a JPEG or PNG says; nothing is decoded, nothing is allocated.

    Raises SensorFileError, naming `source`: NOT_AN_IMAGE, or TRUNCATED where the end marker is missing (decoders
    return a full picture for a cut file without a word).
    """
    if encoded.startswith(_JPEG_START):
        size = _jpeg_size(encoded)
        # Some cameras pad the file behind the end marker.
        complete = encoded.rstrip(b"\0").endswith(_JPEG_END)
    elif encoded.startswith(_PNG_START):
        size = struct.unpack(">II", encoded[16:24]) if len(encoded) >= 24 and encoded[12:16] == b"IHDR" else None
        complete = encoded.rstrip(b"\0").endswith(_PNG_END)
    else:
        raise SensorFileError(FaultReason.NOT_AN_IMAGE, f"{source}: neither a JPEG nor a PNG")
    if not complete:
        raise SensorFileError(FaultReason.TRUNCATED, f"{source}: the end of the picture is missing")
    if size is None:
        raise SensorFileError(FaultReason.NOT_AN_IMAGE, f"{source}: the picture's header has no size")
    return size[0], size[1]


def decode_image(image: CameraImage) -> UInt8[Tensor, "H W 3"]:
    """The pixels, RGB, as recorded: an EXIF orientation is ignored, since the calibration knows nothing of it.

    Check the size first (`picture_size`): a small file can claim gigabytes. Raises SensorFileError NOT_AN_IMAGE.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(image.encoded, dtype=np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SensorFileError(FaultReason.NOT_AN_IMAGE, f"{image.source}: the picture cannot be decoded")
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height from the first start-of-frame segment, None where there is none before the pixels."""
    position = 2
    while position + 9 <= len(encoded):
        if encoded[position] != 0xFF:
            return None
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack(">HH", encoded[position + 5 : position + 9])
            return width, height
        if marker == _JPEG_START_OF_SCAN:
            return None
        position += 2 + struct.unpack(">H", encoded[position + 2 : position + 4])[0]
    return None
