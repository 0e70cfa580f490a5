"""nuScenes' map masks: grey PNGs of up to 1.2 billion pixels, read row by row into one bit for each pixel.

A picture library holds such a picture whole, a byte or three for each pixel, and cv2 refuses the largest one.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.compiled import compiled
from datasets.faults import InputRefused
from datasets.samples.map_raster import MapMask

RESOLUTION = 0.1  # metres for each pixel, of all of nuScenes' masks
_START = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY = (8, 0, 0, 0, 0)  # bit depth, colour type, compression, filter method, not interlaced
_MOST_PIXELS = 8 * 10**9  # a gigabyte of bits
_STEP = 1 << 20


def decode_mask(encoded: bytes, source: str) -> MapMask:
    """The mask; set where a pixel is not black. Raises InputRefused, naming `source`, for what is no such PNG."""
    if encoded[:8] != _START or encoded[12:16] != b"IHDR" or len(encoded) < 33:
        raise InputRefused(f"{source}: a map mask is a PNG; this is none.")
    width, height, *kind = struct.unpack(">IIBBBBB", encoded[16:29])
    if tuple(kind) != _EIGHT_BIT_GREY or not 0 < width * height <= _MOST_PIXELS:
        raise InputRefused(
            f"{source}: a map mask is a grey PNG with 8 bits for each pixel, not interlaced; this one says "
            f"{width} x {height} pixels, depth {kind[0]}, colour type {kind[1]}, interlace {kind[4]}."
        )
    bits = np.empty((height, (width + 7) // 8), np.uint8)
    above, done, left = np.zeros(width, np.uint8), 0, np.empty(0, np.uint8)
    try:
        for inflated in _inflated(encoded):
            left = np.concatenate([left, np.frombuffer(inflated, np.uint8)])
            rows = min(len(left) // (width + 1), height - done)
            lines = left[: rows * (width + 1)].reshape(rows, width + 1)
            if (lines[:, 0] > 4).any():
                raise ValueError("a row has an unknown filter")
            pixels = _unfiltered(lines, above)
            bits[done : done + rows] = np.packbits(pixels != 0, axis=1)
            above = pixels[-1] if rows else above
            left, done = left[rows * (width + 1) :], done + rows
    except (ValueError, zlib.error, struct.error) as error:
        raise InputRefused(f"{source}: the PNG is damaged ({error}); download the maps again.") from error
    if done < height:
        raise InputRefused(f"{source}: the PNG ends after {done} of {height} rows; download the maps again.")
    return MapMask(torch.from_numpy(bits), width, RESOLUTION)


def _inflated(encoded: bytes) -> Iterator[bytes]:
    """The rows' bytes, a filter's number before each row, in pieces of a bounded size."""
    inflate, at = zlib.decompressobj(), 8
    while at + 12 <= len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, at)
        data = encoded[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            if zlib.crc32(kind + data) != struct.unpack_from(">I", encoded, at + 8 + length)[0]:
                raise ValueError("a checksum is wrong")
            while data:
                yield inflate.decompress(data, _STEP)
                data = inflate.unconsumed_tail
        at += length + 12
    # What zlib still holds back, piece by piece too: a few bytes may stand for gigabytes.
    while piece := inflate.decompress(b"", _STEP):
        yield piece


@compiled
def _unfiltered(lines: NDArray[np.uint8], above: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels of rows (V, 1 + W) that begin with their filter (PNG, section 9), under the row `above` (W)."""
    rows, width = lines.shape[0], lines.shape[1] - 1
    pixels = np.empty((rows, width), np.uint8)
    zero = np.int64(0)
    for row in range(rows):
        kind = lines[row, 0]
        for column in range(width):
            left = np.int64(pixels[row, column - 1]) if column > 0 else zero
            over = np.int64(pixels[row - 1, column]) if row > 0 else np.int64(above[column])
            value = np.int64(lines[row, column + 1])
            if kind == 1:
                value += left
            elif kind == 2:
                value += over
            elif kind == 3:
                value += (left + over) // 2
            elif kind == 4:
                corner = zero
                if column > 0:
                    corner = np.int64(pixels[row - 1, column - 1]) if row > 0 else np.int64(above[column - 1])
                to_left, to_over = abs(over - corner), abs(left - corner)
                to_corner = abs(left + over - 2 * corner)
                if to_left <= to_over and to_left <= to_corner:
                    value += left
                elif to_over <= to_corner:
                    value += over
                else:
                    value += corner
            pixels[row, column] = value & 255
    return pixels
