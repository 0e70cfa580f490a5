"""A dataset that is being written: the hidden folder in which it grows, and from which an interrupted run goes on.

    .NAME.unfinished/
        state.json   settings and program that write it: others must not go on with it
        dataset/     what will be renamed to NAME when it is complete
        units/       the truth of recorded keyframes; a unit's file is written last, so it says that the unit is done
        rows/        table rows of finished scenes, a folder for each, renamed into place in one step
        partial/     files that are being written; whatever a killed process left here is thrown away

Everything that counts appears by a rename, so a process may be killed at any moment.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from datasets.version import bevel_version

_STATE, _DISCARDED = "state.json", "discarded"


@dataclass(frozen=True)
class Unfinished:
    """The folders of an unfinished dataset."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """The dataset's root as long as it grows."""
        return self.folder / "dataset"

    @property
    def partial(self) -> Path:
        """For files and folders that are being written."""
        return self.folder / "partial"

    @property
    def _parts(self) -> tuple[Path, ...]:
        # What says that something is done goes first: it must never outlive what it speaks of.
        return self.folder / "rows", self.folder / "units", self.partial, self.dataset, self.folder / _STATE

    def unit(self, scene: int, first: int) -> Path:
        """The truth of the unit that begins with keyframe `first` of a scene."""
        return self.folder / "units" / f"{scene:04d}-{first:05d}.json"

    def rows(self, scene: int) -> Path:
        """The folder with the table rows of a finished scene."""
        return self.folder / "rows" / f"{scene:04d}"

    def write(self, path: Path, data: bytes) -> None:
        """Write a file in this folder: it is complete or not there."""
        temporary = self.partial / str(os.getpid())
        temporary.write_bytes(data)
        temporary.replace(path)

    def discard(self) -> None:
        """Throw everything away, in an order in which nothing incomplete ever looks complete."""
        discarded = self.folder / _DISCARDED
        discarded.mkdir(exist_ok=True)
        for part in self._parts:
            if part.exists():
                part.rename(discarded / part.name)
        shutil.rmtree(discarded)


def unfinished_folder(root: Path) -> Path:
    """Where the dataset `root` grows."""
    return root.parent / f".{root.name}.unfinished"


def can_go_on(root: Path, config: WorldConfig) -> bool:
    """Whether nothing unfinished is there, or the same program with the same settings began it."""
    state = unfinished_folder(root.absolute()) / _STATE
    return not state.exists() or state.read_text(encoding="utf-8") == _state_of(config)


@contextmanager
def unfinished_dataset(root: Path, config: WorldConfig, *, restart: bool) -> Iterator[Unfinished]:
    """The unfinished dataset of `root`, new or as an earlier run left it; no other process may work on it meanwhile.

    Raises InputRefused where another process does, where the folder cannot be made, and where other settings or
    another program began it, unless `restart` says to throw that away.
    """
    folder = unfinished_folder(root)
    lock = _lock(folder, root)
    try:
        unfinished = Unfinished(folder)
        _take_over(unfinished, root, config, restart)
        yield unfinished
    finally:
        os.close(lock)


def _lock(folder: Path, root: Path) -> int:
    """A lock on the folder itself: it ends with the process, however that ends."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise InputRefused(f"{root.parent} cannot be written ({error.strerror}): name another folder.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise InputRefused(f"{root} is being written by another process: wait for it, or stop it.") from error
        except FileNotFoundError:
            pass
        os.close(lock)  # it was renamed or removed by the process that had it: look again


def _take_over(unfinished: Unfinished, root: Path, config: WorldConfig, restart: bool) -> None:
    folder, state = unfinished.folder, unfinished.folder / _STATE
    shutil.rmtree(folder / _DISCARDED, ignore_errors=True)
    for unwritten in folder.glob(f".{_STATE}.*.tmp"):
        unwritten.unlink()
    if not state.exists() and any(folder.iterdir()):
        raise InputRefused(f"{folder} is in the way and not an unfinished dataset of Bevel's: move it.")
    if state.exists():
        found = state.read_text(encoding="utf-8")
        if not restart and found != _state_of(config):
            raise InputRefused(
                f"{folder} holds an unfinished dataset of {_difference(found, _state_of(config))}: give the settings "
                "it was begun with to go on, or --restart to throw it away."
            )
        if restart or not unfinished.dataset.is_dir():
            unfinished.discard()
    if not state.exists():
        write_atomically(state, _state_of(config).encode())
    shutil.rmtree(unfinished.partial, ignore_errors=True)
    for path in (unfinished.dataset, unfinished.partial, folder / "units", folder / "rows"):
        path.mkdir(exist_ok=True)


def remove_remains(root: Path) -> None:
    """Remove the folder beside a finished dataset, where the process that finished it was killed before it could."""
    folder = unfinished_folder(root)
    if (folder / _STATE).exists() and not (folder / "dataset").exists():
        shutil.rmtree(folder, ignore_errors=True)


def _state_of(config: WorldConfig) -> str:
    return json.dumps({"bevel": bevel_version(), "program": _program(), **asdict(config)}, indent=2) + "\n"


@lru_cache(maxsize=1)
def _program() -> str:
    """A digest of the simulator's source: another one would write other bytes."""
    digest = sha256()
    for path in program_sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def program_sources() -> list[Path]:
    """All files of the simulator."""
    return sorted(Path(__file__).parents[1].rglob("*.py"))


def _difference(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found), json.loads(wanted)
        names = [name for name in new if old.get(name) != new[name]]
    except (ValueError, AttributeError):
        return "another program"
    if {"bevel", "program"} & set(names):
        return f"another version of Bevel ({old.get('bevel')}, or of its source)"
    return "other settings (" + ", ".join(f"{name} {old[name]}" for name in names) + ")"
