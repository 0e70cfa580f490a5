"""Writing tables of any length: each scene's rows go to files of their own, which are joined at the end."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from datasets.synthetic.writing.tables import Row


def write_scene_rows(folder: Path, tables: dict[str, list[Row]]) -> None:
    """Write the rows that one scene adds to each table, as a file for each table in the new folder `folder`."""
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f"{name}.rows").write_text(_rows_text(rows), encoding="utf-8")


def join_table(target: Path, name: str, scenes: Iterable[Path], partial: Path) -> None:
    """Write the JSON file of a table: the rows of all scenes in their order, without ever holding more than a piece.

    `scenes` are folders of `write_scene_rows`; `partial` is the folder in which the file grows.
    """
    temporary = partial / f"{os.getpid()}-{name}"
    with temporary.open("wb") as file:
        before = b"[\n"
        for scene in scenes:
            rows = scene / f"{name}.rows"
            if rows.stat().st_size == 0:
                continue
            file.write(before)
            with rows.open("rb") as piece:
                shutil.copyfileobj(piece, file)
            before = b",\n"
        file.write(b"[]" if before == b"[\n" else b"\n]")
    temporary.replace(target)


def _rows_text(rows: list[Row]) -> str:
    """The rows as nuScenes' JSON files have them, without the brackets around all of them."""
    return json.dumps(rows, indent=0)[2:-2] if rows else ""
