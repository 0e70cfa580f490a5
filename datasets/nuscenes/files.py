"""nuScenes' sensor files: LiDAR sweeps, radar sweeps, pictures. Read only after everything about them is checked.

A file that is absent or broken raises SensorFileError with a sentence that names it. A path that leads out of the
dataroot raises InputRefused: that is no broken file but a broken (or hostile) dataset.
"""

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from datasets.compiled import compiled
from datasets.faults import FaultReason, InputRefused, SensorFileError
from datasets.frames import LIDAR_FIELDS, RADAR_FIELDS
from datasets.sensors.images import picture_size

_LIDAR_BEAMS = 32
_LITTLE_ENDIAN_FLOAT = np.dtype("<f4")
_PAGE_BYTES = 4096
# No sensor file of nuScenes comes near this; a larger one is not what its name says.
_MAX_FILE_BYTES = 256 * 2**20
_MAX_PCD_HEADER_BYTES = 16_384
_PCD_TYPES = {
    (kind, size): np.dtype(f"<{letter}{size}")
    for kind, letter, sizes in (("F", "f", (2, 4, 8)), ("I", "i", (1, 2, 4, 8)), ("U", "u", (1, 2, 4, 8)))
    for size in sizes
}


class SweepFile(NamedTuple):
    """A sweep's points (P, C), all finite, and a sentence on those that were not; empty where there were none."""

    points: Float32[Tensor, "P C"]
    dropped: str


class ReadBuffer:
    """Memory that one file after another is read into: the little that a sweep needs stays in the processor's cache.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def room(self, size: int) -> NDArray[np.uint8]:
        """So many bytes; what was read before is lost."""
        if size > len(self._memory):
            # Half a page behind a page's beginning, as far as can be from where a file's pages begin: AMD's Zen 3 takes
            # seven to ten times as long to copy them to a place less than 32 bytes behind it, twice up to 48.
            memory = np.empty(size + _PAGE_BYTES, np.uint8)
            start = (_PAGE_BYTES // 2 - int(memory.__array_interface__["data"][0])) % _PAGE_BYTES
            self._memory = memory[start : start + size]
        return self._memory[:size]


def read_lidar_sweep(root: Path, filename: str, buffer: ReadBuffer | None = None) -> SweepFile:
    """The points (P, 5: LIDAR_FIELDS) of a `.pcd.bin` file: float32 x 5, sensor frame. With a `buffer` they may lie in
    it, until the next file is read.

    A file that was cut between two points cannot be told from a whole one: nuScenes' own sweeps hold whole firings of
    32 beams, but a LiDAR that writes only the beams that came back does not.
    Raises SensorFileError (see `read_file`; TRUNCATED, IMPLAUSIBLE, NO_FINITE_POINTS).
    """
    content = _read_bytes(root, filename, buffer or ReadBuffer())
    point_bytes = 4 * len(LIDAR_FIELDS)
    if len(content) % point_bytes:
        detail = f"{filename}: {len(content)} bytes are no whole number of points of {point_bytes} bytes"
        raise SensorFileError(FaultReason.TRUNCATED, detail)
    # The file's own bytes, on machines that are little-endian as it is.
    records = content.view(_LITTLE_ENDIAN_FLOAT).reshape(-1, len(LIDAR_FIELDS)).astype(np.float32, copy=False)
    finite, rings = _look_over(records)
    points, dropped = torch.from_numpy(records), ""
    if not finite:
        points, dropped = _finite(points, LIDAR_FIELDS, filename)
        rings = _look_over(points.numpy())[1]
    if len(points) == 0:
        raise SensorFileError(FaultReason.NO_FINITE_POINTS, f"{filename}: not one point has only finite numbers")
    # Four columns, doubles or swapped bytes parse without an error: the beam numbers give them away.
    if not rings:
        detail = f"{filename}: the ring column is not the numbers 0 to {_LIDAR_BEAMS - 1}; are these float32 x 5?"
        raise SensorFileError(FaultReason.IMPLAUSIBLE, detail)
    return SweepFile(points, dropped)


def read_radar_sweep(root: Path, filename: str) -> SweepFile:
    """The points (P, 18: RADAR_FIELDS) of a binary PCD v0.7 file, sensor frame; all of them, no state is filtered.

    Columns are found by name. A sweep without points is valid; nuScenes also marks one by a first point of NaN.
    Raises SensorFileError (see `read_file`; BAD_HEADER,
    HEADER_MISMATCH, TRUNCATED).
    """
    content = read_file(root, filename)
    header = parse_pcd_header(content, filename)
    payload = len(content) - header.data_start
    if payload < header.points * header.point_type.itemsize:
        expected = f"{header.points} points of {header.point_type.itemsize} bytes"
        detail = f"{filename}: the header announces {expected}, but only {payload} bytes follow"
        # Half a file is a cut download; a count that is out of proportion is a lie of the header.
        cut = header.points * header.point_type.itemsize <= _MAX_FILE_BYTES
        raise SensorFileError(FaultReason.TRUNCATED if cut else FaultReason.HEADER_MISMATCH, detail)
    records = np.frombuffer(content, dtype=header.point_type, count=header.points, offset=header.data_start)
    columns = np.empty((header.points, len(RADAR_FIELDS)), np.float32)
    # A double too large for float32 becomes infinite here, and is dropped as such below.
    with np.errstate(over="ignore"):
        for column, name in enumerate(RADAR_FIELDS):
            columns[:, column] = records[name]
    points = torch.from_numpy(columns)
    if np.isfinite(columns).all():
        return SweepFile(points, "")
    if bool(points[0].isnan().any()):
        return SweepFile(points[:0], "")
    return _finite(points, RADAR_FIELDS, filename)


@compiled
def _look_over(points: NDArray[np.float32]) -> tuple[bool, bool]:
    """Whether all numbers are finite, and whether the ring of every point is the number of a beam."""
    # A float32 is not finite where all bits of its exponent are set: one more overflows into the bit above them, that
    # of the sign. Two numbers stand in one word.
    numbers = points.reshape(-1)
    pairs = numbers[: numbers.shape[0] // 2 * 2].view(np.uint64)
    exponents, ones = np.uint64(0x7F800000_7F800000), np.uint64(0x00800000_00800000)
    overflowing = np.uint64(0)
    for place in range(pairs.shape[0]):
        overflowing |= (pairs[place] & exponents) + ones
    finite = (overflowing & np.uint64(0x80000000_80000000)) == 0 and bool(np.isfinite(numbers[-1:]).all())
    without_ring = 0
    for row in range(points.shape[0]):
        ring = points[row, 4]
        without_ring += not ((ring >= 0) & (ring < _LIDAR_BEAMS) & (ring == np.floor(ring)))
    return finite, without_ring == 0


def _finite(points: Float32[Tensor, "N C"], fields: tuple[str, ...], filename: str) -> SweepFile:
    """Without the points that are not finite."""
    finite = points.isfinite()
    kept = finite.all(dim=1)
    dropped = len(kept) - int(kept.sum())
    if dropped == 0:
        return SweepFile(points, "")
    names = ", ".join(name for name, whole in zip(fields, finite.all(dim=0).tolist(), strict=True) if not whole)
    detail = f"{filename}: {dropped} of {len(kept)} points are not finite (field {names}) and were dropped"
    return SweepFile(points[kept], detail)


def read_image_bytes(root: Path, filename: str, width: int, height: int) -> bytes:
    """An encoded picture, JPEG or PNG, whose header says width x height pixels. Nothing is decoded.

    Raises SensorFileError (see `read_file`; NOT_AN_IMAGE, SIZE_MISMATCH, TRUNCATED).
    """
    content = read_file(root, filename)
    found = picture_size(content, filename)
    if found != (width, height):
        detail = f"{filename}: the picture has {found[0]} x {found[1]} pixels, sample_data.json says {width} x {height}"
        raise SensorFileError(FaultReason.SIZE_MISMATCH, detail)
    return content


def read_file(root: Path, filename: str) -> bytes:
    """A regular file under the root. Raises SensorFileError MISSING_FILE (also where the disk fails to read it),
    NOT_A_REGULAR_FILE, EMPTY_FILE, IMPLAUSIBLE (too large) or TRUNCATED (it shrinks while it is read), and InputRefused
    where the path leads out of the root.
    """
    return _read_bytes(root, filename, ReadBuffer()).tobytes()


def _read_bytes(root: Path, filename: str, buffer: ReadBuffer) -> NDArray[np.uint8]:
    """What `read_file` says, in memory that may be written to: points need no copy."""
    descriptor = _open(root, filename)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SensorFileError(FaultReason.NOT_A_REGULAR_FILE, f"{filename}: not a regular file")
        if status.st_size == 0:
            raise SensorFileError(FaultReason.EMPTY_FILE, f"{filename}: the file is empty")
        if status.st_size > _MAX_FILE_BYTES:
            raise SensorFileError(FaultReason.IMPLAUSIBLE, f"{filename}: {status.st_size} bytes are too many")
        content = buffer.room(status.st_size)
        # One read may give less than all, on a network's disk above all.
        done = 0
        while done < len(content):
            count = os.readv(descriptor, [content[done:].data])
            if count == 0:
                detail = f"{filename}: only {done} of {len(content)} bytes could be read"
                raise SensorFileError(FaultReason.TRUNCATED, detail)
            done += count
        return content
    except OSError as error:
        # A bad block, a server that has gone: what opens need not be readable.
        raise SensorFileError(FaultReason.MISSING_FILE, f"{filename}: not readable: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _open(root: Path, filename: str) -> int:
    """A descriptor for reading. Raises as `read_file` does."""
    # Without O_NONBLOCK, opening a named pipe waits for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK
    folder, _, name = filename.rpartition("/")
    if name != "..":
        try:
            # Forty files in a dozen folders make a sample: each folder is looked at once, and the file is no link.
            return os.open(f"{_folder(root, folder)}/{name}", flags | os.O_NOFOLLOW)
        except (InputRefused, SensorFileError, OSError, ValueError):
            pass  # a link within the dataset, or an error that is told in full
    path = path_under(root, filename)
    try:
        return os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        raise SensorFileError(FaultReason.MISSING_FILE, f"{filename}: there is no such file") from None
    except OSError as error:
        raise SensorFileError(FaultReason.MISSING_FILE, f"{filename:.200}: not readable: {error.strerror}") from None


def path_under(root: Path, filename: str) -> Path:
    """The path of a file of the dataset; neither `..` nor a symbolic link may lead out of the dataroot.

    The root itself and its first level (`samples`, `sweeps`) may be links to another disk: the user made those.
    Raises InputRefused where it leads out, SensorFileError MISSING_FILE where no system has such a path.
    """
    _resolved(root, filename)
    return root / filename


def _resolved(root: Path, filename: str) -> str:
    """Where a path of the dataset really is. Raises as `path_under` does."""
    parts = Path(filename).parts
    if not parts or Path(filename).is_absolute() or ".." in parts:
        raise InputRefused(f"{root}: the file name {filename!r:.200} leaves the dataroot.")
    path = root / filename
    try:
        # realpath resolves as Path.resolve does, in a fifth of the time.
        resolved = os.path.realpath(path)
        homes = _homes(root, parts[0] if len(parts) > 1 else "")
    except (OSError, RuntimeError, ValueError) as error:
        # Too many links, or letters that no file name has.
        shown = ascii(filename)[1:-1]
        raise SensorFileError(FaultReason.MISSING_FILE, f"{shown:.200}: not readable: {error}") from None
    if not any(resolved.startswith(home.rstrip(os.sep) + os.sep) for home in homes):
        raise InputRefused(f"{path}: a symbolic link leads out of the dataroot, to {resolved}; copy the file instead.")
    return resolved


@lru_cache(maxsize=256)
def _folder(root: Path, folder: str) -> str:
    """Where a folder of the dataset really is, remembered as `_homes` are. Raises as `path_under` does."""
    return _resolved(root, folder)


@lru_cache(maxsize=64)
def _homes(root: Path, first: str) -> tuple[str, str]:
    """Where the root and its folder `first` really are. Remembered: a data set does not move while it is read."""
    return os.path.realpath(root), os.path.realpath(root / first)


@dataclass(frozen=True)
class PcdHeader:
    """What a PCD file's header announces: so many points of this type, from byte `data_start` on."""

    point_type: np.dtype[np.void]
    points: int
    data_start: int


def parse_pcd_header(content: bytes, filename: str) -> PcdHeader:
    """The header of a binary PCD file that has all RADAR_FIELDS, from the file's first 16 KiB at least.

    Raises SensorFileError BAD_HEADER or HEADER_MISMATCH.
    """
    data = content.find(b"\nDATA ", 0, _MAX_PCD_HEADER_BYTES)
    end = content.find(b"\n", data + 1, _MAX_PCD_HEADER_BYTES) + 1 if data >= 0 else 0
    try:
        # Radars write the same few headers again and again: what is understood of one is remembered.
        return _parsed(content[:end]) if end else _parsed.__wrapped__(content[:_MAX_PCD_HEADER_BYTES])
    except SensorFileError as error:
        raise SensorFileError(error.reason, f"{filename}: {error.detail}") from None


@lru_cache(maxsize=1024)
def _parsed(content: bytes) -> PcdHeader:
    """What `parse_pcd_header` says; the errors do not name the file."""

    def bad(problem: str) -> SensorFileError:
        return SensorFileError(FaultReason.BAD_HEADER, problem)

    entries: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in entries:
        end = content.find(b"\n", start, _MAX_PCD_HEADER_BYTES)
        if end < 0:
            raise bad("the PCD header has no DATA line")
        try:
            words = content[start:end].decode("ascii").split()
        except UnicodeDecodeError:
            raise bad("the PCD header is not text") from None
        if words and not words[0].startswith("#"):
            entries[words[0]] = words[1:]
        start = end + 1
    if entries["DATA"] != ["binary"]:
        raise bad(f"DATA is {' '.join(entries['DATA'])!r:.40}, only binary is supported")
    names = entries.get("FIELDS", [])
    missing = [name for name in RADAR_FIELDS if name not in names]
    if missing or len(set(names)) != len(names):
        raise bad(f"FIELDS must name each radar field once, missing: {', '.join(missing) or 'none'}")
    if any(count != "1" for count in entries.get("COUNT", [])):
        raise bad("a COUNT other than 1 is not supported")
    sizes, kinds = entries.get("SIZE", []), entries.get("TYPE", [])
    if not len(names) == len(sizes) == len(kinds):
        raise bad("FIELDS, SIZE and TYPE must have the same number of entries")
    try:
        columns = [_PCD_TYPES[kind, int(size)] for kind, size in zip(kinds, sizes, strict=True)]
        width, height = (int(entries[name][0]) for name in ("WIDTH", "HEIGHT"))
        points = int(entries["POINTS"][0]) if "POINTS" in entries else width * height
    except (KeyError, ValueError, IndexError):
        raise bad("SIZE, TYPE, WIDTH, HEIGHT or POINTS is missing or not understood") from None
    if width < 0 or height < 0 or points != width * height:
        detail = f"WIDTH {width} x HEIGHT {height} do not make POINTS {points}"
        raise SensorFileError(FaultReason.HEADER_MISMATCH, detail)
    return PcdHeader(np.dtype(list(zip(names, columns, strict=True))), points, start)
