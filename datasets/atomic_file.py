"""Files that are complete or not there: written beside their target, flushed to the disk, renamed."""

import os
from pathlib import Path
from uuid import uuid4


def temporary_beside(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has. (Process ids do not serve: containers that share a disk each
    have a process 1.)
    """
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, rename it, and flush the folder, which has the name.

    Raises OSError where the file cannot be written; what stood at `path` before is then untouched.
    """
    temporary = temporary_beside(path)
    try:
        write_flushed(temporary, data)
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_flushed(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: without it a file may be renamed and still be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
