"""The index holds what the tables hold, is theirs and nobody else's, and survives whatever happens to its file."""

import json
import multiprocessing
import os
import pickle
import random
import shutil
import tempfile
from collections import defaultdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from datasets.faults import InputRefused
from datasets.nuscenes.index.file import IndexFile
from datasets.nuscenes.index.opening import FOLDER, open_index
from datasets.nuscenes.index.records import NuScenesIndex, SampleAnnotations, SampleData
from datasets.nuscenes.reader import NuScenesReader
from tests.nuscenes_fixture import read_table, write_table
from tests.odd_tables import Tables, odd_tables, write_odd_tables

VERSION = "v1.0-mini"
LAST = "scene-0103-sample-2"


@pytest.fixture
def root(nuscenes_root: Path, tmp_path: Path) -> Path:
    """The tables alone, without an index."""
    shutil.copytree(nuscenes_root / VERSION, tmp_path / "data" / VERSION, ignore=shutil.ignore_patterns(FOLDER))
    return tmp_path / "data"


def stored(root: Path) -> Path:
    return root / VERSION / FOLDER / "columns"


# What is in it ----------------------------------------------------------------------------------------------------


def assert_equals_tables(index: NuScenesIndex, tables: Tables) -> None:
    """Every record of every table, field by field, the plain way."""
    by_token = {name: {row["token"]: row for row in rows} for name, rows in tables.items()}
    assert index.scene_names == tuple(sorted(row["name"] for row in tables["scene"]))
    assert index.channels == tuple(sorted({row["channel"] for row in tables["sensor"]}))
    seen: defaultdict[str, list[str]] = defaultdict(list)
    for number, name in enumerate(index.scene_names):
        scene = index.scene(number)
        assert (scene.name, by_token["scene"][scene.token]["name"]) == (name, name)
        samples = list(scene.samples.token)
        expected = [row for row in tables["sample"] if row["scene_token"] == scene.token]
        assert samples == [row["token"] for row in sorted(expected, key=lambda row: (row["timestamp"], row["token"]))]
        assert samples == index.sample_tokens(number)
        assert scene.samples.timestamp.tolist() == [by_token["sample"][token]["timestamp"] for token in samples]
        assert [index.find(token) for token in samples] == [(number, row) for row in range(len(samples))]
        assert_keyframes(index, number, by_token)
        for row, token in enumerate(scene.sample_data.token):
            assert_sample_data(index, samples, scene.sample_data, row, by_token)
            seen["sample_data"].append(token)
        for row, token in enumerate(scene.annotations.token):
            assert_annotation(index, samples, scene.annotations, row, by_token)
            seen["sample_annotation"].append(token)
    for table, tokens in seen.items():
        assert sorted(tokens) == sorted(by_token[table])
    assert index.annotated == bool(tables["sample_annotation"])


def assert_keyframes(index: NuScenesIndex, number: int, by_token: dict[str, dict[str, Any]]) -> None:
    scene = index.scene(number)
    for sample, token in enumerate(scene.samples.token):
        found = {
            index.channels[channel]: scene.sample_data.token[row]
            for channel, row in enumerate(scene.samples.keyframes[sample].tolist())
            if row >= 0
        }
        rows = [row for row in by_token["sample_data"].values() if row["is_key_frame"] and row["sample_token"] == token]
        calibrations = {row["token"]: by_token["calibrated_sensor"][row["calibrated_sensor_token"]] for row in rows}
        assert found == {by_token["sensor"][c["sensor_token"]]["channel"]: t for t, c in calibrations.items()}
        time = by_token["sample"][token]["timestamp"]
        closest = min(rows, key=lambda row: (abs(row["timestamp"] - time), row["token"]))["token"]
        reference = scene.sample_data.token[int(scene.samples.reference[sample])]
        assert reference == found.get("LIDAR_TOP", closest)
        first, last = scene.samples.first_annotation[sample : sample + 2].tolist()
        expected = [row["token"] for row in by_token["sample_annotation"].values() if row["sample_token"] == token]
        assert [scene.annotations.token[row] for row in range(first, last)] == sorted(expected)


def linked(tokens: Any, row: int) -> str:
    return tokens[row] if row >= 0 else ""


def assert_sample_data(
    index: NuScenesIndex, samples: list[str], data: SampleData, row: int, by_token: dict[str, dict[str, Any]]
) -> None:
    record = by_token["sample_data"][data.token[row]]
    pose = by_token["ego_pose"][record["ego_pose_token"]]
    calibration = by_token["calibrated_sensor"][record["calibrated_sensor_token"]]
    number = int(data.calibration[row])
    assert samples[data.sample[row]] == record["sample_token"]
    assert index.channels[data.channel[row]] == by_token["sensor"][calibration["sensor_token"]]["channel"]
    assert index.calibrations.channel[number] == data.channel[row]
    assert index.calibrations.translation[number].tolist() == calibration["translation"]
    assert index.calibrations.rotation[number].tolist() == calibration["rotation"]
    no_camera = np.zeros((3, 3)).tolist()
    assert index.calibrations.camera_intrinsic[number].tolist() == (calibration["camera_intrinsic"] or no_camera)
    assert (data.timestamp[row], bool(data.is_key_frame[row])) == (record["timestamp"], record["is_key_frame"])
    assert (data.width[row], data.height[row]) == (record.get("width") or 0, record.get("height") or 0)
    assert index.filename(data, row) == record["filename"]
    assert linked(data.token, int(data.prev[row])) == record["prev"]
    assert linked(data.token, int(data.next[row])) == record["next"]
    assert data.pose_timestamp[row] == pose["timestamp"]
    assert data.pose_rotation[row].tolist() == pose["rotation"]
    assert data.pose_translation[row].tolist() == pose["translation"]


def assert_annotation(
    index: NuScenesIndex, samples: list[str], boxes: SampleAnnotations, row: int, by_token: dict[str, dict[str, Any]]
) -> None:
    record = by_token["sample_annotation"][boxes.token[row]]
    instance = by_token["instance"][record["instance_token"]]
    visibility = by_token["visibility"].get(record.get("visibility_token"))
    assert samples[boxes.sample[row]] == record["sample_token"]
    assert index.instance_tokens[int(boxes.instance[row])] == record["instance_token"]
    category = index.categories[index.category_of_instance[boxes.instance[row]]]
    assert category == by_token["category"][instance["category_token"]]["name"]
    attributes = [index.attributes[number] for number in boxes.attributes[row] if number >= 0]
    assert attributes == [by_token["attribute"][token]["name"] for token in record["attribute_tokens"]]
    level = int(boxes.visibility[row])
    assert (index.visibilities[level] if level >= 0 else None) == (visibility["level"] if visibility else None)
    assert boxes.translation[row].tolist() == record["translation"]
    assert boxes.size[row].tolist() == record["size"]
    assert boxes.rotation[row].tolist() == record["rotation"]
    counts = (record["num_lidar_pts"], record["num_radar_pts"])
    assert (boxes.num_lidar_pts[row], boxes.num_radar_pts[row]) == counts
    assert linked(boxes.token, int(boxes.prev[row])) == record["prev"]
    assert linked(boxes.token, int(boxes.next[row])) == record["next"]


def assert_velocities_are_the_devkits(index: NuScenesIndex, root: Path) -> int:
    from nuscenes import NuScenes

    devkit = NuScenes(VERSION, str(root), verbose=False)
    count = 0
    for scene in index.scenes():
        for row, token in enumerate(scene.annotations.token):
            expected = devkit.box_velocity(token)[:2]
            assert scene.annotations.velocity[row].tobytes() == expected.tobytes() or np.isnan(expected).all()
            assert np.array_equal(scene.annotations.velocity[row], expected, equal_nan=True)
            count += 1
    return count


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd_tables())
def test_the_index_equals_odd_tables(tables: Tables) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_odd_tables(Path(folder), tables)
        index = open_index(Path(folder), VERSION)
        assert_equals_tables(index, tables)
        assert_equals_tables(pickle.loads(pickle.dumps(index)), tables)
        assert_velocities_are_the_devkits(index, Path(folder))


# Annotations, and those whose velocity is known. The devkit's `box_velocity` is a difference between two keyframes: of
# the 4,514 annotations of mini_val it gives a number for 4,506 and NaN for the 8 whose object was seen in one keyframe
# only. The other folder has one keyframe, so that there is no velocity at all.
@pytest.mark.parametrize(
    ("folder", "annotations", "with_velocity"), [("nuscenes-minival", 4514, 4506), ("nuscenes-keyframe", 69, 0)]
)
def test_the_index_equals_real_tables(real_data: Path, folder: str, annotations: int, with_velocity: int) -> None:
    index = open_index(real_data / folder, VERSION)
    names = [path.stem for path in (real_data / folder / VERSION).glob("*.json") if path.stem.islower()]
    tables = {name: read_table(real_data / folder, name) for name in names}
    assert_equals_tables(index, tables)
    assert assert_velocities_are_the_devkits(index, real_data / folder) == annotations
    alone = {row["token"] for row in tables["sample_annotation"] if not row["prev"] and not row["next"]}
    unknown = {
        scene.annotations.token[row]
        for scene in index.scenes()
        for row in np.flatnonzero(np.isnan(scene.annotations.velocity).any(axis=1)).tolist()
    }
    assert unknown == alone
    assert annotations - len(unknown) == with_velocity


def test_a_token_of_no_sample(root: Path) -> None:
    index = open_index(root, VERSION)
    for token in ("", "scene-0061", "scene-0061-sample-3", "zzz", "scene-0061-LIDAR_TOP-0"):
        with pytest.raises(KeyError):
            index.find(token)


# Whose it is ------------------------------------------------------------------------------------------------------


def test_it_is_built_once_and_again_when_a_table_changes(root: Path) -> None:
    open_index(root, VERSION)
    built = stored(root).stat().st_ino
    open_index(root, VERSION)
    assert stored(root).stat().st_ino == built
    rows = read_table(root, "sample_annotation")
    rows[0]["num_lidar_pts"] = 6
    write_table(root, "sample_annotation", rows)
    index = open_index(root, VERSION)
    assert sorted(np.concatenate([index.scene(row).annotations.num_lidar_pts for row in range(2)]))[-2:] == [5, 6]


def test_a_table_that_was_only_touched_changes_nothing(root: Path) -> None:
    open_index(root, VERSION)
    built, notes = stored(root).stat().st_ino, stored(root).with_name("tables.json")
    for path in (root / VERSION).glob("*.json"):
        os.utime(path, ns=(10**18, 10**18))
    open_index(root, VERSION)
    assert stored(root).stat().st_ino == built
    noted = notes.read_bytes()
    assert json.loads(noted)["sample"]["changed_ns"] == 10**18
    # The times lie far behind: now they are believed, and nothing is read or written.
    open_index(root, VERSION)
    assert notes.read_bytes() == noted
    notes.write_text("{")
    open_index(root, VERSION)
    assert stored(root).stat().st_ino == built


def test_a_change_that_size_and_time_do_not_show_at_once_is_seen(root: Path) -> None:
    """Two writes within one tick of the clock: right after a change a time says nothing."""
    path = root / VERSION / "sample_annotation.json"
    os.utime(path)
    open_index(root, VERSION)
    before = path.stat()
    path.write_text(path.read_text().replace('"num_lidar_pts": 5', '"num_lidar_pts": 7'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert set(open_index(root, VERSION).scene(0).annotations.num_lidar_pts.tolist()) == {7}


def test_annotations_that_come_and_go(root: Path) -> None:
    kept = {name: read_table(root, name) for name in ("sample_annotation", "instance", "visibility")}
    assert open_index(root, VERSION).annotated
    for name in kept:
        (root / VERSION / f"{name}.json").unlink()
    assert not open_index(root, VERSION).annotated
    for name, rows in kept.items():
        write_table(root, name, rows)
    index = open_index(root, VERSION)
    assert index.annotated
    assert index.visibilities == ("v80-100",)
    (root / VERSION / "visibility.json").unlink()
    assert open_index(root, VERSION).visibilities == ()


def test_bad_tables_leave_no_index(root: Path) -> None:
    open_index(root, VERSION)
    rows = read_table(root, "sample")
    write_table(root, "sample", [rows[0] | {"timestamp": 5}, *rows[1:]])
    for _ in range(2):
        with pytest.raises(InputRefused, match="timestamp"):
            open_index(root, VERSION)
    shutil.rmtree(stored(root).parent)
    with pytest.raises(InputRefused, match="timestamp"):
        open_index(root, VERSION)
    assert sorted(path.name for path in stored(root).parent.iterdir()) == ["lock"]


@pytest.mark.parametrize("table", ["sample_annotation", "visibility"])
@pytest.mark.parametrize("built", [False, True])
def test_a_table_that_cannot_be_read_is_named(root: Path, table: str, *, built: bool) -> None:
    if built:
        open_index(root, VERSION)
    (root / VERSION / f"{table}.json").unlink()
    (root / VERSION / f"{table}.json").symlink_to("n" * 300)  # which no file system can follow
    with pytest.raises(InputRefused, match=rf"cannot be read: .*{table}\.json"):
        open_index(root, VERSION)


# Where it is ------------------------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_is_not(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / VERSION).chmod(0o555)
    try:
        index = open_index(root, VERSION)
        assert index.path.is_relative_to(tmp_path / "cache" / "bevel")
        (tmp_path / "link").symlink_to(root)
        assert open_index(tmp_path / "link", VERSION).path == index.path
        assert sorted(path.suffix for path in (root / VERSION).iterdir()) == [".json"] * 13
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / VERSION / "log.json"))
        with pytest.raises(InputRefused, match=r"can be written to none of .*\.bevel-index, .*XDG_CACHE_HOME"):
            open_index(root, VERSION)
    finally:
        (root / VERSION).chmod(0o755)


def test_an_index_that_may_not_be_written_is_read_once_where_the_tables_have_other_times(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a copy to a read-only disk. That the contents are not read again shows where one is exchanged for
    another of the same size and time, which nothing but reading could tell.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_index(root, VERSION)
    beside = (stored(root).parent / "tables.json").read_bytes()
    table = root / VERSION / "sample_annotation.json"
    for path in (root / VERSION).glob("*.json"):
        os.utime(path, ns=(10**18, 10**18))
    stored(root).parent.chmod(0o555)
    try:
        assert open_index(root, VERSION).path == stored(root)
        assert (stored(root).parent / "tables.json").read_bytes() == beside
        (noted,) = (tmp_path / "cache").rglob("*.json")
        assert json.loads(noted.read_bytes())["sample"]["changed_ns"] == 10**18
        assert [path.name for path in noted.parent.iterdir()] == ["tables.json"]
        table.write_text(table.read_text().replace('"num_lidar_pts": 5', '"num_lidar_pts": 7'))
        os.utime(table, ns=(10**18, 10**18))
        assert set(open_index(root, VERSION).scene(0).annotations.num_lidar_pts.tolist()) == {5}
        os.utime(table, ns=(10**18 + 1, 10**18 + 1))
        assert set(open_index(root, VERSION).scene(0).annotations.num_lidar_pts.tolist()) == {7}
    finally:
        stored(root).parent.chmod(0o755)


def test_a_linked_root_has_the_same_index(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    open_index(tmp_path / "link", VERSION)
    built = stored(root).stat().st_ino
    assert open_index(root, VERSION).path.stat().st_ino == built


# Several at once --------------------------------------------------------------------------------------------------


def open_together(root: Path, barrier: Barrier, results: Any) -> None:
    built = []
    barrier.wait()
    index = open_index(root, VERSION, lambda done, total: built.append(done / total))
    results.put((len(built) > 0, [name for row in range(2) for name in index.sample_tokens(row)]))


def test_of_several_processes_one_builds_and_all_get_it(root: Path) -> None:
    tokens = sorted(row["token"] for row in read_table(root, "sample"))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=open_together, args=(root, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(built for built, _ in found) == [False, False, False, True]
    assert all(sorted(seen) == tokens for _, seen in found)


def test_what_is_sent_to_another_process_is_small(root: Path) -> None:
    reader = NuScenesReader(root)
    reader.annotations(LAST)
    sent = pickle.dumps(reader)
    assert len(sent) < 4_000
    assert pickle.loads(sent).annotations(LAST).tokens == reader.annotations(LAST).tokens
    write_table(root, "sample_annotation", [])
    NuScenesReader(root)
    with pytest.raises(InputRefused, match="the tables were changed"):
        pickle.loads(sent)
    # The one that is open goes on with what it has mapped.
    assert reader.annotations("scene-0061-sample-0") is not None


# Damage -----------------------------------------------------------------------------------------------------------


def everything(index: NuScenesIndex) -> list[Any]:
    return [index.scene_names, index.channels, *map(rows_of, index.scenes())]


def rows_of(scene: Any) -> list[Any]:
    data, boxes = scene.sample_data, scene.annotations
    return [list(data.token), data.timestamp.tolist(), data.pose_translation.tolist(), list(boxes.token),
            boxes.translation.tolist(), boxes.num_lidar_pts.tolist(), scene.samples.keyframes.tolist()]  # fmt: skip


def test_a_damaged_file_is_never_used(root: Path) -> None:
    clean = everything(open_index(root, VERSION))
    whole = stored(root).read_bytes()
    generator = random.Random(0)
    columns = [column.tobytes() for column in IndexFile(stored(root)).columns.values()]
    chosen = generator.sample([column for column in columns if len(column) > 100], 8)
    places = [0, 8, 12, 20, 25, *(whole.index(column) + generator.randrange(len(column)) for column in chosen)]
    changes = [whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :] for place in places]
    changes += [whole[:-1], whole[: len(whole) // 2], whole[:20], b"", whole + b"\0"]
    for changed in changes:
        stored(root).write_bytes(changed)
        assert everything(open_index(root, VERSION)) == clean
        assert stored(root).read_bytes() == whole


def test_damage_that_comes_while_it_is_open_is_mended(root: Path) -> None:
    clean = open_index(root, VERSION)
    expected = everything(clean)
    index = open_index(root, VERSION)
    column = IndexFile(stored(root)).columns["sample_data.timestamp"]
    whole = stored(root).read_bytes()
    place = whole.index(column.tobytes())
    with stored(root).open("r+b") as file:
        file.seek(place + column.nbytes - 8)
        file.write(b"\xff")
    index.scene(0)
    assert stored(root).read_bytes() != whole
    assert rows_of(index.scene(1)) == expected[3]
    assert stored(root).read_bytes() == whole


def test_damage_in_an_index_that_may_not_be_written_is_mended_in_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = everything(open_index(root, VERSION))
    column = IndexFile(stored(root)).columns["sample_data.timestamp"]
    whole = stored(root).read_bytes()
    place = whole.index(column.tobytes()) + column.nbytes - 8
    damaged = whole[:place] + b"\xff" + whole[place + 1 :]
    stored(root).write_bytes(damaged)
    stored(root).parent.chmod(0o555)
    try:
        for _ in range(2):  # built, then found
            index = open_index(root, VERSION)
            assert everything(index) == expected
            assert index.path.is_relative_to(tmp_path / "cache")
            assert stored(root).read_bytes() == damaged
            built = index.path.stat().st_ino
        assert open_index(root, VERSION).path == stored(root)
        assert index.path.stat().st_ino == built
    finally:
        stored(root).parent.chmod(0o755)
