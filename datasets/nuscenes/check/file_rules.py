"""The sensor files that the tables promise: are they there, inside the dataroot, whole, and what they should be?

The verdict is the loader's own (datasets.nuscenes.files). Only whether a file needs to be read for it is decided
here: most are accepted for their size, and for their first and last bytes, which takes a thousandth of the time.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.faults import FaultReason, InputRefused, SensorFileError
from datasets.frames import LIDAR_FIELDS, CameraImage
from datasets.nuscenes.check.findings import Problem, shown
from datasets.nuscenes.files import parse_pcd_header, path_under, read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.sensors.images import decode_image, picture_size

_HEAD, _TAIL = 16_384, 64
_LIDAR_POINT_BYTES = 4 * len(LIDAR_FIELDS)
# No LiDAR sweep of nuScenes is larger than this; one that is gets read, and judged by the loader.
_USUAL_BYTES = 16 * 2**20


@dataclass(frozen=True)
class SensorFile:
    """One file to look at: of which row of sample_data.json, what it should be, and whether to read all of it."""

    row: int
    filename: str
    modality: str
    width: int
    height: int
    whole: bool


@dataclass(frozen=True)
class FileFinding:
    """What is wrong with the file of a row."""

    row: int
    problem: Problem
    detail: str


def check_files(root: Path, files: Sequence[SensorFile]) -> list[FileFinding]:
    """What is wrong with each of the files. Put files of one folder next to each other: folders are looked at once."""
    folders = _Folders(root)
    return [finding for file in files for finding in _check_file(root, file, folders)]


class _Folders:
    """What is known of the folders of a dataroot, so that each is asked once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inside: dict[str, str] = {}
        self._names: dict[Path, dict[str, str]] = {}

    def refusal(self, filename: str) -> str:
        """Why a file must not be opened; empty where it may be. Raises SensorFileError for a name no system takes."""
        folder = filename.rpartition("/")[0]
        if folder not in self._inside:
            self._inside[folder] = self._refused(f"{folder}/_" if folder else "_")
        # Where the folder is inside, only a file that is a link can lead out.
        if not self._inside[folder] and _is_link(f"{self._root}/{filename}"):
            return self._refused(filename)
        return self._inside[folder]

    def _refused(self, filename: str) -> str:
        try:
            path_under(self._root, filename)
        except InputRefused as refusal:
            return str(refusal)
        return ""

    def spelled_otherwise(self, filename: str) -> str:
        """The file that is meant where only the case of letters differs; empty where there is none."""
        here, found = self._root, []
        for part in Path(filename).parts:
            names = self._names_in(here)
            exact, name = names.get(part, ""), names.get(part.casefold(), "")
            if not (exact or name):
                return ""
            found.append(exact or name)
            here = here / found[-1]
        return "/".join(found)

    def _names_in(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = sorted(path.name for path in folder.iterdir())
                self._names[folder] = {name.casefold(): name for name in names} | {name: name for name in names}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _check_file(root: Path, file: SensorFile, folders: _Folders) -> Iterator[FileFinding]:
    try:
        refusal = folders.refusal(file.filename)
        if refusal:
            yield FileFinding(file.row, Problem.LEAVES_ROOT, refusal)
            return
        if file.whole or not _looks_whole(f"{root}/{file.filename}", file):
            dropped = _read(root, file)
            if dropped:
                yield FileFinding(file.row, Problem.NONFINITE_POINTS, dropped)
    except InputRefused as refused:
        yield FileFinding(file.row, Problem.LEAVES_ROOT, str(refused))
    except SensorFileError as error:
        yield FileFinding(file.row, *_told(root, file.filename, error, folders))


def _looks_whole(path: str, file: SensorFile) -> bool:
    """Whether size, head and tail are those of a good file; False only means that it has to be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode) or not 0 < size <= _USUAL_BYTES:
            return False
        if file.modality == "lidar":
            return size % _LIDAR_POINT_BYTES == 0
        head = os.pread(descriptor, _HEAD, 0)
        if file.modality == "radar":
            header = parse_pcd_header(head, file.filename)
            return header.data_start + header.points * header.point_type.itemsize <= size
        tail = os.pread(descriptor, _TAIL, max(size - _TAIL, _HEAD)) if size > _HEAD else b""
        return file.modality == "camera" and picture_size(head + tail, file.filename) == (file.width, file.height)
    except (OSError, SensorFileError):
        return False
    finally:
        os.close(descriptor)


def _read(root: Path, file: SensorFile) -> str:
    """Read the file as the loader does; a sentence on points that are not finite. Raises SensorFileError."""
    if file.modality == "camera":
        encoded = read_image_bytes(root, file.filename, file.width, file.height)
        if file.whole:
            decode_image(CameraImage(0, torch.eye(4, dtype=torch.float64), encoded, file.filename))
        return ""
    if file.modality == "lidar":
        return read_lidar_sweep(root, file.filename).dropped
    if file.modality == "radar":
        return read_radar_sweep(root, file.filename).dropped
    if not (root / file.filename).exists():
        raise SensorFileError(FaultReason.MISSING_FILE, f"{file.filename}: there is no such file")
    return ""


def _told(root: Path, filename: str, error: SensorFileError, folders: _Folders) -> tuple[Problem, str]:
    if error.reason is not FaultReason.MISSING_FILE:
        return Problem[error.reason.name], error.detail
    try:
        there = (root / filename).lstat() is not None
    except PermissionError:
        there = True
    except (OSError, ValueError):
        there = False
    if there:
        return Problem.UNREADABLE_FILE, error.detail
    meant = folders.spelled_otherwise(filename)
    return Problem.MISSING_FILE, error.detail + (f"; but there is {shown(meant)}: mind the case" if meant else "")
