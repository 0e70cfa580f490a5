"""A file is complete or as it was."""

import os
from pathlib import Path

import pytest

from datasets.atomic_file import temporary_beside, write_atomically


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for data in (b"first", b"", b"\x00second"):
        write_atomically(tmp_path / "a", data)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", data)]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"data")
    with pytest.raises(OSError, match="missing"):
        write_atomically(tmp_path / "missing" / "a", b"data")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "inside"]


def test_writers_with_one_process_id_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers over one disk, each of which has a process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    names = {temporary_beside(tmp_path / "a") for _ in range(100)}
    assert len(names) == 100
    assert {name.parent for name in names} == {tmp_path}
    flush = os.fsync
    interrupted: list[str] = []

    def write_another_meanwhile(descriptor: int) -> None:
        flush(descriptor)
        if not interrupted:
            interrupted.append("once")
            write_atomically(tmp_path / "a", b"second")

    monkeypatch.setattr(os, "fsync", write_another_meanwhile)
    write_atomically(tmp_path / "a", b"first")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]
