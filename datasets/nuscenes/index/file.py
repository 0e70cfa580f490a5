"""An index on disk: one file, a JSON header and behind it the columns as they lie in memory.

What is promised: no value of a damaged file is ever used. The header and the size are checked when the file is
opened, the columns of the small tables too; those of the big tables, which lie in the order of the scenes, when a
scene is first asked for. A file is written beside its place and renamed: no other process sees it half-written.
"""

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.atomic_file import temporary_beside
from datasets.faults import InputRefused

Columns = dict[str, NDArray[Any]]
# Raise it with every change of what the columns are or mean: indices of another format are built anew.
FORMAT = 2
# These tables' columns are checked scene by scene: `scene.first_<table>` says which rows are a scene's.
SCENE_TABLES = ("sample_data", "annotation")
_MAGIC = b"BEVELIDX"
# The magic, the format, the header's length and its CRC-32.
_PREFIX = struct.Struct("<8sIQI")
_ALIGNMENT = 64


@dataclass(frozen=True)
class IndexContent:
    """What goes into an index. `digests`: table -> SHA-256 of its file, None for a table that is not there.

    `names`: what rows of the small tables are called. `columns`: `table.column` -> (rows, ...).
    """

    digests: dict[str, str | None]
    names: dict[str, list[str]]
    columns: Columns


class IndexDamaged(Exception):
    """The file is not an index that was written here, or not what was written."""


class IndexFile:
    """The columns of an index, read only, in memory that all processes share.

    `digests`: table -> SHA-256 of the JSON file that was read, None for one that was not there. `names`, `columns`:
    see IndexContent. Raises FileNotFoundError, and IndexDamaged for what cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.inode = os.fstat(file.fileno()).st_ino
            size = os.fstat(file.fileno()).st_size
            if size < _PREFIX.size:
                raise IndexDamaged(f"{path}: too short")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _header(path, memory)
        if header["size"] != size:
            raise IndexDamaged(f"{path}: {size} bytes instead of {header['size']}")
        self.digests: dict[str, str | None] = header["digests"]
        self.names: dict[str, list[str]] = header["names"]
        self.columns: Columns = {name: _column(memory, *place) for name, place in header["columns"].items()}
        if _small_checksum(self.columns) != header["checksum"]:
            raise IndexDamaged(f"{path}: a column of a small table is not what was written")

    def check_scene(self, scene: int) -> None:
        """Raises IndexDamaged where the rows of a scene in the big tables are not what was written."""
        if _scene_checksum(self.columns, scene) != int(self.columns["scene.checksum"][scene]):
            raise IndexDamaged(f"{self.path}: the rows of {self.names['scenes'][scene]} are not what was written")


def reopen(path: Path, digests: dict[str, str | None]) -> IndexFile:
    """An index that another process has opened. Raises InputRefused where it is another one by now."""
    try:
        file = IndexFile(path)
    except (FileNotFoundError, IndexDamaged) as error:
        raise InputRefused(f"{path}: the index went away while it was in use ({error}); start again.") from None
    if file.digests != digests:
        raise InputRefused(f"{path}: the tables were changed while they were in use; start again.")
    return file


def write_index(path: Path, content: IndexContent) -> None:
    """Write an index under a temporary name and rename it. What a power cut leaves of it will be found damaged."""
    columns = dict(content.columns)
    checksums = [_scene_checksum(columns, scene) for scene in range(len(content.names["scenes"]))]
    columns["scene.checksum"] = np.array(checksums, dtype=np.uint32)
    places: dict[str, tuple[str, tuple[int, ...], int]] = {}
    # Offsets are needed in the header, whose length they change: they count from its end.
    end = 0
    for name, column in columns.items():
        places[name] = (column.dtype.str, column.shape, end)
        end += -(-column.nbytes // _ALIGNMENT) * _ALIGNMENT
    header: dict[str, Any] = {
        "digests": content.digests,
        "names": content.names,
        "columns": places,
        "bytes": end,
        "checksum": _small_checksum(columns),
    }
    encoded = json.dumps(header).encode()
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(_PREFIX.pack(_MAGIC, FORMAT, len(encoded), zlib.crc32(encoded)) + encoded)
            file.write(bytes(_columns_start(len(encoded)) - file.tell()))
            for column in columns.values():
                file.write(np.ascontiguousarray(column).data)
                file.write(bytes(-column.nbytes % _ALIGNMENT))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _column(memory: mmap.mmap, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.frombuffer(memory, dtype, count=math.prod(shape), offset=offset).reshape(shape)


def _columns_start(header_length: int) -> int:
    return -(-(_PREFIX.size + header_length) // _ALIGNMENT) * _ALIGNMENT


def _header(path: Path, memory: mmap.mmap) -> dict[str, Any]:
    """The header, with offsets from the beginning of the file and `size`, the file's."""
    magic, written_format, length, checksum = _PREFIX.unpack_from(memory)
    if magic != _MAGIC or written_format != FORMAT:
        raise IndexDamaged(f"{path}: not an index of format {FORMAT}")
    encoded = memory[_PREFIX.size : _PREFIX.size + length]
    if len(encoded) != length or zlib.crc32(encoded) != checksum:
        raise IndexDamaged(f"{path}: the header is not what was written")
    header: dict[str, Any] = json.loads(encoded)
    start = _columns_start(length)
    header["size"] = start + header["bytes"]
    header["columns"] = {
        name: (np.dtype(dtype), tuple(shape), start + offset)
        for name, (dtype, shape, offset) in header["columns"].items()
    }
    return header


def _small_checksum(columns: Mapping[str, NDArray[Any]]) -> int:
    small = [column for name, column in columns.items() if name.partition(".")[0] not in SCENE_TABLES]
    return _checksum(small)


def _scene_checksum(columns: Mapping[str, NDArray[Any]], scene: int) -> int:
    rows = {}
    for table in SCENE_TABLES:
        start, stop = columns[f"scene.first_{table}"][scene : scene + 2]
        rows[table] = slice(int(start), int(stop))
    tables = ((name.partition(".")[0], column) for name, column in columns.items())
    return _checksum([column[rows[table]] for table, column in tables if table in rows])


def _checksum(columns: list[NDArray[Any]]) -> int:
    checksum = 0
    for column in columns:
        if column.size:  # an empty array has no bytes to show
            checksum = zlib.crc32(np.ascontiguousarray(column).data.cast("B"), checksum)
    return checksum
