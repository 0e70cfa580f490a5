"""The database of objects: what is written is read again, and nothing that is damaged."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.object_paste.database import ObjectDatabase, ObjectPicture, RecordedObject, write_object_database
from tests.random_batch import random_boxes


def random_object(seed: int) -> RecordedObject:
    generator = torch.Generator().manual_seed(seed)
    count, returns = (int(n) for n in torch.randint(0, 6, (2,), generator=generator))
    picture = None
    if seed % 2:
        encoded = bytes(cv2.imencode(".png", np.full((5, 7, 3), seed % 255, np.uint8))[1])
        picture = ObjectPicture(encoded, seed % 11, seed % 13, (1.5, -2.0, 9.25, 8.0))
    return RecordedObject(
        f"token{seed}",
        f"scene-{seed % 3}",
        random_boxes(1, generator),
        torch.randn(count, 5, generator=generator),
        torch.randn(returns, 19, generator=generator),
        picture,
    )


def same_box(a: Boxes3D, b: Boxes3D) -> bool:
    names = ("centers", "sizes_wlh", "yaws", "velocities", "labels", "scores", "attributes")
    # A velocity that is not known is not a number.
    return all(torch.equal(getattr(a, name).nan_to_num(1e9), getattr(b, name).nan_to_num(1e9)) for name in names)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_written_then_read_is_the_same(tmp_path: Path, count: int) -> None:
    objects = [random_object(seed) for seed in range(count)]
    assert (
        write_object_database(tmp_path / "db", iter(objects), version="v1.0-mini", lidar_sweeps=3, radar_sweeps=2)
        == count
    )
    database = ObjectDatabase(tmp_path / "db")
    assert (len(database), database.lidar_sweeps, database.radar_sweeps) == (count, 3, 2)
    assert (database.version, set(database.scenes)) == ("v1.0-mini", {recorded.scene for recorded in objects})
    assert sorted(path.name for path in (tmp_path / "db").iterdir()) == ["data.bin", "database.json", "objects.npy"]
    for row, expected in enumerate(objects):
        found = database[row]
        assert torch.equal(found.lidar_points, expected.lidar_points)
        assert torch.equal(found.radar_returns, expected.radar_returns)
        assert (found.token, found.scene, found.picture) == (expected.token, expected.scene, expected.picture)
        assert same_box(found.box, expected.box)
        assert database.lidar_counts[row] == len(expected.lidar_points)
        assert bool(database.pictured[row]) == (expected.picture is not None)
    with pytest.raises(InputRefused, match="exists"):
        write_object_database(tmp_path / "db", [], version="v1.0-mini", lidar_sweeps=3, radar_sweeps=2)


@pytest.mark.parametrize("token", ["a" * 64, "ä" * 32, "not a letter: \ud800", "", "zero \0 within"])
def test_a_token_is_kept_as_it_is(tmp_path: Path, token: str) -> None:
    write_object_database(
        tmp_path / "db", [replace(random_object(1), token=token)], version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1
    )
    assert ObjectDatabase(tmp_path / "db")[0].token == token


@pytest.mark.parametrize("token", ["a" * 65, "ä" * 33, "a zero \0"])
def test_a_token_that_would_be_cut_is_refused(tmp_path: Path, token: str) -> None:
    objects = [random_object(0), replace(random_object(1), token=token)]
    with pytest.raises(InputRefused, match="up to 64 bytes"):
        write_object_database(tmp_path / "db", objects, version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".db.unfinished-{os.getpid()}").mkdir()
    write_object_database(tmp_path / "db", [random_object(1)], version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1)
    assert len(ObjectDatabase(tmp_path / "db")) == 1
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "db").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_was_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def objects() -> object:
        yield random_object(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_object_database(tmp_path / "db", objects(), version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "records", "json", "format", "absent", "counts", "scenes", "names"])
def test_a_damaged_database_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "db"
    write_object_database(
        folder, [random_object(1), random_object(3)], version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1
    )
    described = json.loads((folder / "database.json").read_text())
    if damage == "cut":
        (folder / "data.bin").write_bytes((folder / "data.bin").read_bytes()[:-3])
    elif damage == "records":
        records = np.load(folder / "objects.npy")
        records["lidar_points"][0] += 1
        np.save(folder / "objects.npy", records)
    elif damage == "json":
        (folder / "database.json").write_text("[]")
    elif damage == "absent":
        (folder / "objects.npy").unlink()
    else:
        changes = {"format": 99, "lidar_sweeps": -1, "scenes": ["scene-1"], "version": 1}
        key = {"counts": "lidar_sweeps", "names": "version"}.get(damage, damage)
        (folder / "database.json").write_text(json.dumps(described | {key: changes[key]}))
    with pytest.raises(InputRefused, match="db"):
        ObjectDatabase(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("center", math.nan),
        ("size_wlh", math.inf),
        ("size_wlh", 0.0),
        ("size_wlh", -1.0),
        ("scene", -1),
        ("scene", 2),
        ("yaw", math.nan),
        ("velocity", math.inf),
        ("outline", math.nan),
        ("label", -1),
        ("attribute", 99),
        # 20 bytes of LiDAR more and as many of the picture less: the sum of the sizes stays what it was.
        ("picture_bytes", None),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(tmp_path: Path, field: str, value: float | None) -> None:
    folder = tmp_path / "db"
    write_object_database(
        folder, [random_object(1), random_object(3)], version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1
    )
    records = np.load(folder / "objects.npy")
    if value is None:
        more = int(records["picture_bytes"][1]) // 20 + 1
        records["picture_bytes"][1] -= 20 * more
        records["lidar_points"][1] += more
        assert records["picture_bytes"][1] < 0
    else:
        records[field][1] = value
    np.save(folder / "objects.npy", records)
    with pytest.raises(InputRefused, match="is damaged"):
        ObjectDatabase(folder)


def test_a_changed_byte_is_refused_when_its_object_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    objects = [random_object(seed) for seed in range(1, 6)]
    write_object_database(folder, objects, version="v1.0-mini", lidar_sweeps=1, radar_sweeps=1)
    starts = np.load(folder / "objects.npy")["start"].tolist()
    content = (folder / "data.bin").read_bytes()
    ends = [*starts[1:], len(content)]
    for place in range(0, len(content), 37):
        (folder / "data.bin").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        database = ObjectDatabase(folder)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if start <= place < end:
                with pytest.raises(InputRefused, match=f"the bytes of object {row} are not"):
                    database[row]
            else:
                assert torch.equal(database[row].lidar_points, objects[row].lidar_points)
