"""DGP's point clouds: `.npz` files of one table."""

import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from datasets.dgp.records import Datum
from datasets.faults import FaultReason, SensorFileError
from datasets.nuscenes.files import read_file
from datasets.sensors.npy_file import read_npy

_MAX_UNPACKED_BYTES = 256 * 2**20
_POINT_FIELDS = ("X", "Y", "Z", "INTENSITY")
_POINT_DTYPES = ("float16", "float32", "float64")
# What zipfile raises: bytes that no method unpacks, an encrypted file, a method that it does not know, and so on.
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(KeyError, ValueError, EOFError, OSError, MemoryError, RuntimeError),
)


def read_points(root: Path, reading: Datum) -> tuple[torch.Tensor, str]:
    """The points (P, 5: LIDAR_FIELDS) of a `.npz` file, and a sentence on those that were dropped; SensorFileError."""
    name = reading.filename
    missing = [field for field in _POINT_FIELDS if field not in reading.point_format]
    if missing:
        raise SensorFileError(FaultReason.BAD_HEADER, f"{name}: point_format has no {', '.join(missing)}")
    content = io.BytesIO(read_file(root, name))
    try:
        with zipfile.ZipFile(content) as archive:
            if archive.getinfo("data.npy").file_size > _MAX_UNPACKED_BYTES:
                raise SensorFileError(FaultReason.IMPLAUSIBLE, f"{name}: too many bytes when unpacked")
            table = read_npy(archive.read("data.npy"), _POINT_DTYPES)
    except _BAD_ARCHIVE as error:
        raise SensorFileError(FaultReason.TRUNCATED, f"{name}: not a whole .npz file with `data`: {error}") from None
    if table.ndim != 2 or table.shape[1] != len(reading.point_format):
        raise SensorFileError(FaultReason.BAD_HEADER, f"{name}: expected a table of {reading.point_format}")
    columns = [table[:, reading.point_format.index(field)] for field in _POINT_FIELDS]
    columns[3] = columns[3] * 255.0
    points = np.stack([*columns, np.full(len(table), -1.0)], axis=1).astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise SensorFileError(FaultReason.NO_FINITE_POINTS, f"{name}: not one point has only finite numbers")
    dropped = len(points) - int(finite.sum())
    sentence = f"{name}: {dropped} of {len(points)} points are not finite and were dropped" if dropped else ""
    return torch.from_numpy(points[finite]), sentence
