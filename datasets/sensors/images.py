"""Encoded pictures: their size read from the header, and their pixels."""

import struct
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from datasets.faults import FaultReason, SensorFileError
from datasets.frames import CameraImage

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Start-of-frame markers hold the size; C4, C8 and CC in their midst are other things.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START_OF_SCAN = 0xDA
_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


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
    return torch.from_numpy(cv2.cvtColor(_decode(image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def decode_reduced(image: CameraImage, width: int, height: int, reduction: int) -> NDArray[np.uint8]:
    """The pixels (height / reduction, width / reduction, 3), **BGR**, of a picture of width x height.

    `reduction` is 1, 2, 4 or 8 and divides both, see `largest_reduction`: a JPEG is then decoded at that size, from
    fewer coefficients of its blocks. Otherwise as `decode_image`. Raises SensorFileError: SIZE_MISMATCH where the
    header says another size, and as `picture_size` does; nothing has been decoded then.
    """
    found = picture_size(image.encoded, image.source)
    if found != (width, height):
        detail = f"{image.source}: the picture has {found[0]} x {found[1]} pixels, its camera says {width} x {height}"
        raise SensorFileError(FaultReason.SIZE_MISMATCH, detail)
    pixels = _decode(image, _REDUCED_FLAGS[reduction])
    if pixels.shape[:2] != (height // reduction, width // reduction):
        detail = f"{image.source}: decoded to {pixels.shape[1]} x {pixels.shape[0]} pixels, not {width} x {height}"
        raise SensorFileError(FaultReason.SIZE_MISMATCH, detail)
    return pixels


def largest_reduction(image: CameraImage, width: int, height: int, scale: float) -> int:
    """By how much a picture can be reduced while it is decoded, and still has to shrink to reach `scale`.

    1 for what is no JPEG (nothing would be saved), and where the reduction would leave a part of a pixel.
    """
    if not image.encoded.startswith(_JPEG_START):
        return 1
    fitting = (r for r in (8, 4, 2) if r * scale <= 1.0 and width % r == 0 and height % r == 0)
    return next(fitting, 1)


def _decode(image: CameraImage, flags: int) -> NDArray[np.uint8]:
    """BGR pixels. Raises SensorFileError NOT_AN_IMAGE."""
    encoded = np.frombuffer(image.encoded, dtype=np.uint8)
    try:
        # cv2's stubs say that it returns an array always.
        pixels: Any = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SensorFileError(FaultReason.NOT_AN_IMAGE, f"{image.source}: the picture cannot be decoded")
    decoded: NDArray[np.uint8] = pixels
    return decoded


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
