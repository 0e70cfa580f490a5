"""Shards on a file system that fails: tried again, with growing waits, and then one sentence with shard and cause."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.shards.manifest import Contents
from datasets.shards.pack import pack
from datasets.shards.reader import ShardReader

CONTENTS = Contents(
    dataset="nuScenes", version="v1.0-mini", split="all", lidar_sweeps=1, radar_sweeps=1, ego_states=1
)  # fmt: skip
URL = "failing://bucket/shards"


class ConnectionLost(Exception):
    """As aiohttp and botocore have them: no OSError."""


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A bucket in memory; the next reads fail with these exceptions."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}  # not that of other buckets in memory
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[list[Exception]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("failing://")))

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        self._fail()
        return bytes(super().cat_file(path, start, end, **more))

    def open(self, path: str, mode: str = "rb", *arguments: Any, **more: Any) -> Any:
        if mode == "rb":
            self._fail()
        return super().open(path, mode, *arguments, **more)


@pytest.fixture(scope="module")
def packed(nuscenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    reader = NuScenesReader(nuscenes_root, lidar_sweeps=1, radar_sweeps=1, history=0.0)
    frames = [dataclasses.replace(reader.frame(token), images={}) for token in reader.frame_tokens("all")[:2]]
    folder = tmp_path_factory.mktemp("packed") / "shards"
    pack(frames, folder, CONTENTS)
    return folder


@pytest.fixture
def waits(packed: Path) -> Iterator[list[float]]:
    """The waits of a reader, in seconds, which do not take any time; the shards are in the failing bucket."""
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    fsspec.filesystem("failing").put(str(packed), "/bucket/shards", recursive=True)
    yield []
    FailingFileSystem.failures.clear()
    FailingFileSystem.store.clear()
    FailingFileSystem.pseudo_dirs[:] = [""]


def test_a_read_that_fails_is_tried_again(packed: Path, waits: list[float]) -> None:
    FailingFileSystem.failures += [ConnectionLost("reset by peer"), TimeoutError()]
    reader = ShardReader(URL, wait=waits.append)
    assert waits == [1.0, 2.0]
    local = ShardReader(str(packed))
    for token in reader.frame_tokens("all"):
        FailingFileSystem.failures += [OSError("reset"), OSError("reset"), ConnectionLost("reset")]
        waits.clear()
        assert reader.frame(token).timestamp_us == local.frame(token).timestamp_us
        assert waits == [1.0, 2.0, 4.0]
        FailingFileSystem.failures.append(ConnectionLost("reset"))
        found, expected = reader.annotations(token), local.annotations(token)
        assert found is not None
        assert expected is not None
        assert found.tokens == expected.tokens


def test_a_read_that_keeps_failing_is_one_sentence(waits: list[float]) -> None:
    reader = ShardReader(URL, wait=waits.append)
    token = reader.frame_tokens("all")[0]
    for read in (reader.frame, reader.annotations):
        waits.clear()
        FailingFileSystem.failures[:] = [ConnectionLost("gone")] * 4
        with pytest.raises(InputRefused, match=r"shard-000000\.tar: not readable, tried 4 times.*ConnectionLost: gone"):
            read(token)
        assert waits == [1.0, 2.0, 4.0]
        assert not FailingFileSystem.failures


@pytest.mark.parametrize("lasting", [PermissionError("no"), FileNotFoundError("no")])
def test_what_waiting_cannot_mend_is_refused_at_once(lasting: Exception, waits: list[float]) -> None:
    reader = ShardReader(URL, wait=waits.append)
    FailingFileSystem.failures.append(lasting)
    with pytest.raises(InputRefused, match=r"shard-000000\.tar"):
        reader.frame(reader.frame_tokens("all")[0])
    assert waits == []


def test_a_shard_that_is_cut_off_is_refused(packed: Path, waits: list[float]) -> None:
    reader = ShardReader(URL, wait=waits.append)
    token = reader.frame_tokens("all")[1]
    whole = (packed / "shard-000000.tar").read_bytes()
    offset = reader.manifest.shards[0].samples[1].offset
    bucket = fsspec.filesystem("failing")
    for content, reason in (
        (whole[: offset + 2000], "the shard ends before it does"),
        (whole[:offset], "the shard ends before it does"),
        (whole[:offset] + b"\0" + whole[offset + 1 :], "the bytes have changed"),
    ):
        bucket.pipe_file("/bucket/shards/shard-000000.tar", content)
        with pytest.raises(InputRefused, match=rf"shard-000000\.tar: sample {token}: {reason}"):
            reader.frame(token)
    assert waits == []
