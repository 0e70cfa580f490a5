"""Writing shards. Each is one tar file, complete or not there; the manifest comes last.

The layout is WebDataset's (github.com/webdataset/webdataset): the files of one sample stand next to each other and
have one name up to the first dot. Any reader of such shards, or `tar`, can open them. The same frames give the same
bytes.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.frames import LogFrame
from datasets.shards.frame_files import files_of_frame
from datasets.shards.manifest import MANIFEST, Contents, Manifest, PackedSample, Shard


def pack(frames: Iterable[LogFrame], folder: Path, contents: Contents, *, samples_per_shard: int = 32) -> Manifest:
    """Write the frames, in their order, as shards of `samples_per_shard` into a folder that is new or empty.

    `contents` says in the manifest what they are frames of. Raises InputRefused for a folder that is in use and where
    there are no frames.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, not {samples_per_shard}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRefused(f"{folder}: is there already, and not empty; name a new folder for the shards.")
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(frames)
    shards: list[Shard] = []
    while part := list(islice(remaining, samples_per_shard)):
        shards.append(_write_shard(folder, f"shard-{len(shards):06d}.tar", part, len(shards) * samples_per_shard))
    if not shards:
        raise InputRefused(f"{folder}: there are no frames to pack.")
    manifest = Manifest(format=2, contents=contents, shards=shards)
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def _write_shard(folder: Path, name: str, frames: list[LogFrame], first: int) -> Shard:
    samples: list[PackedSample] = []
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, frame in enumerate(frames, start=first):
            offset = content.tell()
            for file, data in files_of_frame(frame).items():
                entry = tarfile.TarInfo(f"{number:08d}.{file}")  # time, owner and rights are always the same
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            written = content.getbuffer()[offset : content.tell()]
            samples.append(
                PackedSample(
                    token=frame.token,
                    scene=frame.scene_name,
                    offset=offset,
                    size=len(written),
                    sha256=hashlib.sha256(written).hexdigest(),
                )
            )
            written.release()
    shard = content.getvalue()
    write_atomically(folder / name, shard)
    return Shard(name=name, size=len(shard), sha256=hashlib.sha256(shard).hexdigest(), samples=samples)
