"""Where an index is kept, whether it is that of the tables, and who builds it.

Beside the tables, in `<root>/<version>/.bevel-index/`; where that folder may not be written, in the user's cache
(`$XDG_CACHE_HOME/bevel/`, otherwise `~/.cache/bevel/`). An index belongs to the tables' contents: it holds the SHA-256
of each. As long as a table's size and time of change are those that were noted, beside the index or in the cache, its
content is not read again. One process builds, under a lock; others wait for it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.index.file import IndexDamaged, IndexFile, write_index
from datasets.nuscenes.index.records import NuScenesIndex
from datasets.nuscenes.schema import TABLES

FOLDER = ".bevel-index"
# A table that changed so shortly before it was looked at may change once more within one tick of the file system's
# clock: its content is read again the next time.
_SETTLED_NS = 2_000_000_000
# Called with the bytes of the tables that were read so far, and those of all tables, while an index is built.
BuildProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Stamp:
    """A table's file: its size and time of change, when they were looked at, and the content they had then."""

    size: int
    changed_ns: int
    seen_ns: int
    digest: str | None = None


def open_index(root: Path, version: str, progress: BuildProgress | None = None) -> NuScenesIndex:
    """The index of the tables in `root/version`, built first where there is none, or none that fits.

    Raises InputRefused for tables that cannot be used, and where no index can be written.
    """
    return NuScenesIndex(_opened(root / version, progress, _homes(root / version)), partial(_mended, root / version))


def _mended(folder: Path, damaged: IndexFile) -> IndexFile:
    """A new index in place of a damaged one, or behind it in the cache where that one may not be removed.

    Raises InputRefused where there is no other place, and where the tables changed.
    """
    homes = _homes(folder)
    if not _removed(damaged):
        homes = tuple(home for home in homes if home != damaged.path.parent)
    file = _opened(folder, None, homes)
    if file.digests != damaged.digests:
        raise InputRefused(f"{folder}: the tables were changed while they were in use; start again.")
    return file


def _removed(damaged: IndexFile) -> bool:
    """Whether the damaged file is away, or another one is in its place by now."""
    if not _may_be_written(damaged.path.parent):
        return False
    try:
        if damaged.path.stat().st_ino == damaged.inode:  # otherwise another process was here first
            damaged.path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _opened(folder: Path, progress: BuildProgress | None, homes: tuple[Path, ...]) -> IndexFile:
    """The index in the first of `homes` that has it or can be written."""
    for home in homes:
        file = _fitting(home, folder)
        if file is not None:
            return file
    problem: OSError | None = None
    for home in filter(_may_be_written, homes):
        try:
            with _locked(home):
                file = _fitting(home, folder)  # while this one waited for the lock, another process may have built it
                return _built(home, folder, progress) if file is None else file
        except OSError as error:  # of the home: what is wrong with the tables is refused
            problem = error
    raise InputRefused(
        f"{folder}: the index of the tables can be written to none of {', '.join(map(str, homes))} ({problem}); "
        "set XDG_CACHE_HOME to a folder that can be written."
    )


def _homes(folder: Path) -> tuple[Path, ...]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bevel"
    place = folder.resolve()
    name = f"{place.parent.name}-{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"
    return folder / FOLDER, cache / name


def _may_be_written(home: Path) -> bool:
    """Whether nobody said otherwise: a folder without any right to write is not written to, not even by root."""
    if home.is_dir():
        return bool(home.stat().st_mode & 0o222)
    return home.name != FOLDER or bool(home.parent.stat().st_mode & 0o222)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Alone in the folder, which is made. Raises OSError where it cannot be written."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as lock:
        # Where a file system knows no locks two processes may do the same work; renaming keeps their files whole.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _built(home: Path, folder: Path, progress: BuildProgress | None) -> IndexFile:
    # Imported here: where an index is found, what reads JSON need not be loaded.
    from datasets.nuscenes.index.build import build

    stamps = {name: _stamp(folder, name) for name in TABLES}
    total = sum(stamp.size for stamp in stamps.values() if stamp)
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        if progress is not None:
            progress(done, total)

    content = build(folder, count)
    write_index(home / "columns", content)
    _note((home,), {name: replace(stamp, digest=content.digests[name]) for name, stamp in stamps.items() if stamp})
    return IndexFile(home / "columns")


def _fitting(home: Path, folder: Path) -> IndexFile | None:
    """The index in `home` if it is whole and that of the tables."""
    try:
        file = IndexFile(home / "columns")
    except (OSError, IndexDamaged):
        return None
    homes = _homes(folder)
    notes = list(map(_noted, homes))
    try:
        annotated = (folder / "sample_annotation.json").exists()
    except OSError:  # it cannot even be looked at: whoever builds will say so
        return None
    fresh: dict[str, _Stamp] = {}
    for name, digest in file.digests.items():
        stamp, known = _stamp(folder, name), [note[name] for note in notes if name in note]
        if digest is None:
            if stamp is not None and annotated:  # a table that was not read then would be now
                return None
            continue
        if stamp is None or any(note.digest == digest and note.size != stamp.size for note in known):
            return None
        true = [note for note in known if _still_true(note, stamp)]
        if not true:
            true = [replace(stamp, digest=_digest(folder / f"{name}.json"))]
            fresh[name] = true[0]
        if max(true, key=lambda note: note.seen_ns).digest != digest:
            return None
    if fresh:
        _note(homes, fresh)
    return file


def _still_true(noted: _Stamp, stamp: _Stamp) -> bool:
    """Whether a table is, by its size and time, still what was noted."""
    unchanged = (stamp.size, stamp.changed_ns) == (noted.size, noted.changed_ns)
    return unchanged and noted.seen_ns - noted.changed_ns > _SETTLED_NS


def _stamp(folder: Path, table: str) -> _Stamp | None:
    seen_ns = time.time_ns()
    try:
        status = (folder / f"{table}.json").stat()
    except OSError:
        return None
    return _Stamp(status.st_size, status.st_mtime_ns, seen_ns)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _note(homes: tuple[Path, ...], stamps: dict[str, _Stamp]) -> None:
    """Note what was seen of tables in the first home that can be written; where none can, they are read again."""
    for home in filter(_may_be_written, homes):
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            content = {name: asdict(stamp) for name, stamp in (_noted(home) | stamps).items()}
            write_atomically(home / "tables.json", json.dumps(content, indent=1).encode())
            return


def _noted(home: Path) -> dict[str, _Stamp]:
    """What was noted of the tables; nothing where the notes cannot be read, so that the contents are."""
    try:
        content = json.loads((home / "tables.json").read_bytes())
        return {name: _Stamp(**entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
