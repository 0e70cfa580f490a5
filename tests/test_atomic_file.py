"""A file is complete or as it was."""

from pathlib import Path

import pytest

from datasets.atomic_file import write_atomically


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
