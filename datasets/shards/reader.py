"""Frames out of shards, from a local folder or any file system that fsspec knows (s3://, gs://, http:// ...)."""

import hashlib
import io
import tarfile
import time
from collections.abc import Callable
from typing import TypeVar

import fsspec

from datasets.faults import InputRefused
from datasets.frames import Annotations, LogFrame
from datasets.nuscenes.splits import scenes_of_split
from datasets.shards.frame_files import BadShard, annotations_of_files, frame_of_files, tells_annotations
from datasets.shards.manifest import MANIFEST, Contents, Manifest, PackedSample, Shard, read_manifest

_ATTEMPTS = 4
# Waiting for what is not there, or may not be seen, changes nothing.
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError)

Value = TypeVar("Value")


class ShardReader:
    """The frames of a folder of shards, by token: a LogReader like that of the dataset that was packed.

    A frame is read by itself, as one range of bytes of its shard, so any order is as good as another; each is compared
    with its checksum. `url`: a folder's path, or a URL of fsspec. A read that fails is tried again, four times in all;
    `wait` is called with the seconds (1, 2, 4) in between.
    Raises InputRefused where there is no manifest or it is not as packed.
    """

    def __init__(self, url: str, *, wait: Callable[[float], None] = time.sleep) -> None:
        self.url = url.rstrip("/")
        self._wait = wait
        where = f"{self.url}/{MANIFEST}"
        self.manifest: Manifest = read_manifest(self._read(where, 0, None), where)
        self._places: dict[str, tuple[int, PackedSample]] = {
            sample.token: (number, sample)
            for number, shard in enumerate(self.manifest.shards)
            for sample in shard.samples
        }
        # By scene its tokens, in the order of packing: that of the recording.
        self._tokens_of_scene: dict[str, list[str]] = {}
        for token, (_, sample) in self._places.items():
            self._tokens_of_scene.setdefault(sample.scene, []).append(token)

    @property
    def contents(self) -> Contents:
        """What was packed."""
        return self.manifest.contents

    @property
    def version(self) -> str:
        """The version of the dataset that was packed."""
        return self.contents.version

    @property
    def scene_names(self) -> tuple[str, ...]:
        """The names of the scenes here, in the order of packing."""
        return tuple(self._tokens_of_scene)

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The tokens of the split that was packed; of another official split, "all" or scenes by name what is here.

        Raises InputRefused for an unknown name, and where nothing of the split is here.
        """
        if split == self.contents.split:
            return tuple(self._places)
        scenes = scenes_of_split(split, self.scene_names, self.version, where=self.url)
        return tuple(token for scene in scenes for token in self._tokens_of_scene[scene])

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        """The frames right before one in its scene, newest first; they may lie in other shards.

        Raises KeyError for a token that is not here.
        """
        tokens = self._tokens_of_scene[self._places[token][1].scene]
        place = tokens.index(token)
        return tuple(reversed(tokens[max(place - count, 0) : place]))

    def shard_of(self, token: str) -> int:
        """The number of the shard that holds a frame. Raises KeyError for a token that is not here."""
        return self._places[token][0]

    def frame(self, token: str) -> LogFrame:
        """The frame as it was packed, to the bit; sensors that were absent then are in its `faults`.

        Raises KeyError for a token that is not here, InputRefused where the shard is not as packed.
        """
        shard, sample = self._place(token)
        where = f"{self.url}/{shard.name}"
        content = self._read(where, sample.offset, sample.size)
        if len(content) < sample.size:
            raise InputRefused(f"{where}: sample {token}: the shard ends before it does; fetch the shard again.")
        if hashlib.sha256(content).hexdigest() != sample.sha256:
            raise InputRefused(f"{where}: sample {token}: the bytes have changed since packing; fetch the shard again.")
        try:
            frame = frame_of_files(_files(content))
        except (BadShard, tarfile.TarError) as error:
            raise InputRefused(f"{where}: sample {token}: {error}.") from None
        if frame.token != token:
            raise InputRefused(f"{where}: expected sample {token}, found {frame.token}.")
        return frame

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a frame as they were packed; None where it had none at all.

        Pictures and points are skipped, and so there is nothing to compare with the frame's checksum: `frame` does
        that. Raises as `frame` does.
        """
        shard, sample = self._place(token)
        where = f"{self.url}/{shard.name}"
        try:
            files = self._patiently(where, lambda filesystem, path: _files_of_annotations(filesystem, path, sample))
            found, annotations = annotations_of_files(files)
        except (BadShard, tarfile.TarError) as error:
            raise InputRefused(f"{where}: sample {token}: {error}.") from None
        if found != token:
            raise InputRefused(f"{where}: expected sample {token}, found {found}.")
        return annotations

    def _place(self, token: str) -> tuple[Shard, PackedSample]:
        number, sample = self._places[token]
        return self.manifest.shards[number], sample

    def _read(self, url: str, offset: int, size: int | None) -> bytes:
        """A range of a file, or with None all that follows. Raises InputRefused where it cannot be read."""
        end = None if size is None else offset + size
        return self._patiently(url, lambda filesystem, path: bytes(filesystem.cat_file(path, start=offset, end=end)))

    def _patiently(self, url: str, read: Callable[[fsspec.AbstractFileSystem, str], Value]) -> Value:
        """What `read` gives. Raises InputRefused where the file cannot be read, also not when it is tried again."""
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (OSError, ValueError, ImportError) as error:
            raise InputRefused(f"{url}: not readable: {error}.") from None
        for attempt in range(_ATTEMPTS):
            try:
                return read(filesystem, path)
            except (BadShard, tarfile.TarError):
                raise
            except FileNotFoundError:
                hint = " Was the packing finished?" if url.endswith(MANIFEST) else ""
                raise InputRefused(f"{url}: there is no such file.{hint}") from None
            except _LASTING as error:
                raise InputRefused(f"{url}: not readable: {error}.") from None
            except Exception as error:  # each file system has exceptions of its own for a network that fails
                cause = f"{type(error).__name__}: {error}"
            if attempt + 1 < _ATTEMPTS:
                self._wait(2.0**attempt)
        raise InputRefused(f"{url}: not readable, tried {_ATTEMPTS} times, last: {cause:.300}.")


def _files(content: bytes) -> dict[str, bytes]:
    """The files of one sample by their names behind the first dot. Plain tar: nothing here unpacks a compressed one."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for entry in archive:
            data = archive.extractfile(entry) if entry.isreg() else None
            if data is None:
                raise BadShard(f"{entry.name!r:.100} is no file")
            files[entry.name.partition(".")[2]] = data.read()
    return files


def _files_of_annotations(filesystem: fsspec.AbstractFileSystem, path: str, sample: PackedSample) -> dict[str, bytes]:
    """As `_files`, from the shard itself: only the heads of other files are read."""
    files: dict[str, bytes] = {}
    end = sample.offset + sample.size
    with filesystem.open(path, "rb") as shard:
        shard.seek(sample.offset)
        with tarfile.open(fileobj=shard, mode="r:") as archive:
            for entry in archive:
                if entry.offset >= end:
                    break
                if entry.offset_data + entry.size > end:
                    raise BadShard(f"{entry.name!r:.100} goes on behind the sample")
                file = entry.name.partition(".")[2]
                data = archive.extractfile(entry) if entry.isreg() and tells_annotations(file) else None
                if data is not None:
                    files[file] = data.read()
    return files
