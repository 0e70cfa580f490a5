"""Frames out of shards, from a local folder or any file system that fsspec knows (s3://, gs://, http:// ...)."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

from datasets.faults import InputRefused
from datasets.frames import Annotations, LogFrame
from datasets.shards.frame_files import BadShard, annotations_of_files, frame_of_files, tells_annotations
from datasets.shards.manifest import MANIFEST, Manifest, PackedSample, Shard, read_manifest


class ShardReader:
    """The frames of a folder of shards, by token: a LogReader like that of the dataset that was packed.

    A frame is read by itself, as one range of bytes of its shard, so any order is as good as another; each is compared
    with its checksum. `url`: a folder's path, or a URL of fsspec.
    Raises InputRefused where there is no manifest or it is not as packed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        content = _read(f"{self.url}/{MANIFEST}", 0, None)
        self.manifest: Manifest = read_manifest(content, f"{self.url}/{MANIFEST}")
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self._places: dict[str, tuple[Shard, PackedSample]] = {
            sample.token: (shard, sample) for shard in self.manifest.shards for sample in shard.samples
        }

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The tokens of the split that was packed, of "all", or of scenes by name, in the order of packing.

        Raises InputRefused for anything else: shards hold what was packed, and know of no other split.
        """
        every = [sample for shard in self.manifest.shards for sample in shard.samples]
        if split in ("all", self.manifest.split):
            return tuple(sample.token for sample in every)
        names = [name.strip() for name in split.split(",")]
        present = list(dict.fromkeys(sample.scene for sample in every))
        unknown = [name for name in names if name not in present]
        if unknown:
            there = ", ".join(present[:10]) + (f" and {len(present) - 10} more" if len(present) > 10 else "")
            raise InputRefused(
                f"{self.url}: {unknown[0]!r} is neither the split that was packed ({self.manifest.split}), nor all, "
                f"nor a scene here; the scenes here are {there}."
            )
        return tuple(sample.token for name in names for sample in every if sample.scene == name)

    def frame(self, token: str) -> LogFrame:
        """The frame as it was packed, to the bit; sensors that were absent then are in its `faults`.

        Raises KeyError for a token that is not here, InputRefused where the shard is not as packed.
        """
        shard, sample = self._places[token]
        where = f"{self.url}/{shard.name}"
        content = _read(where, sample.offset, sample.size)
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
        shard, sample = self._places[token]
        where = f"{self.url}/{shard.name}"
        try:
            found, annotations = annotations_of_files(_files_of_annotations(where, sample))
        except (BadShard, tarfile.TarError) as error:
            raise InputRefused(f"{where}: sample {token}: {error}.") from None
        if found != token:
            raise InputRefused(f"{where}: expected sample {token}, found {found}.")
        return annotations


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


def _files_of_annotations(url: str, sample: PackedSample) -> dict[str, bytes]:
    """As `_files`, from the shard itself: only the heads of other files are read. Raises InputRefused as `_read`."""
    files: dict[str, bytes] = {}
    end = sample.offset + sample.size
    with _refusing_unreadable(url):
        filesystem, path = fsspec.core.url_to_fs(url)
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


def _read(url: str, offset: int, size: int | None) -> bytes:
    """A range of a file, or with None all that follows. Raises InputRefused where it cannot be read."""
    with _refusing_unreadable(url):
        filesystem, path = fsspec.core.url_to_fs(url)
        content: bytes = filesystem.cat_file(path, start=offset, end=None if size is None else offset + size)
    return content


@contextmanager
def _refusing_unreadable(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        hint = " Was the packing finished?" if url.endswith(MANIFEST) else ""
        raise InputRefused(f"{url}: there is no such file.{hint}") from None
    except (OSError, ValueError, ImportError) as error:
        raise InputRefused(f"{url}: not readable: {error}.") from None
