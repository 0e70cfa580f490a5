"""Broken tables are refused with a sentence that names table, token and field; harmless variation changes nothing."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.faults import InputRefused
from datasets.nuscenes.index.file import IndexFile
from datasets.nuscenes.index.opening import FOLDER, open_index
from datasets.nuscenes.index.records import SceneRecords
from datasets.nuscenes.tables import find_version
from tests.nuscenes_fixture import read_table, write_table

VERSION = "v1.0-mini"
Row = dict[str, Any]


@pytest.fixture
def root(nuscenes_root: Path, tmp_path: Path) -> Path:
    """A copy of the tables that a test may break."""
    shutil.copytree(nuscenes_root / VERSION, tmp_path / VERSION, ignore=shutil.ignore_patterns(FOLDER))
    return tmp_path


def scenes_of(root: Path) -> list[SceneRecords]:
    index = open_index(root, VERSION)
    return list(index.scenes())


def row_of(rows: list[Row], token: str) -> Row:
    return next(row for row in rows if row["token"] == token)


def test_a_valid_dataset_is_accepted(root: Path) -> None:
    scenes = scenes_of(root)
    assert sum(len(scene.samples.token) for scene in scenes) == 6
    assert sum(len(scene.sample_data.token) for scene in scenes) == 2 * (6 * 3 + 6 * 11)
    assert sum(len(scene.annotations.token) for scene in scenes) == 60


def test_real_tables_are_accepted(real_data: Path) -> None:
    for folder, count in (("nuscenes-minival", 4514), ("nuscenes-keyframe", 69)):
        assert sum(len(scene.annotations.token) for scene in scenes_of(real_data / folder)) == count


SAMPLE_1, SAMPLE_2 = "scene-0061-sample-1", "scene-0061-sample-2"
LIDAR_0, LIDAR_1, LIDAR_2 = "scene-0061-LIDAR_TOP-0", "scene-0061-LIDAR_TOP-1", "scene-0061-LIDAR_TOP-2"
CAMERA, CALIBRATION = "scene-0061-CAM_FRONT-1", "scene-0061-calibration-CAM_FRONT"
BOX_0, BOX_1 = "scene-0061-instance-0-0", "scene-0061-instance-0-1"

# Table, token, field, the bad value, words that the sentence must hold beside table, token and field.
BAD_VALUES: list[tuple[str, str, str, Any, str]] = [
    ("sensor", "sensor-CAM_FRONT", "channel", "", "not empty"),
    ("calibrated_sensor", CALIBRATION, "sensor_token", "nowhere", "sensor.json"),
    ("calibrated_sensor", CALIBRATION, "rotation", [0, 0, 0, 0], "length 1"),
    ("calibrated_sensor", CALIBRATION, "rotation", [1, 0, 0], "quaternion"),
    ("calibrated_sensor", CALIBRATION, "translation", [0, None, 0], "3 finite numbers"),
    ("calibrated_sensor", CALIBRATION, "translation", [0, 10**400, 0], "3 finite numbers"),
    ("calibrated_sensor", CALIBRATION, "camera_intrinsic", [], "3 x 3"),
    ("calibrated_sensor", CALIBRATION, "camera_intrinsic", [[1, 0, 0], [0, 1, 0]], "3 x 3"),
    ("calibrated_sensor", CALIBRATION, "camera_intrinsic", [[0, 0, 1], [0, 1, 1], [0, 0, 1]], "focal"),
    ("calibrated_sensor", CALIBRATION, "camera_intrinsic", [[1, 0, 1], [0, 1, 1], [0, 0, 0]], "[0, 0, 1]"),
    ("calibrated_sensor", CALIBRATION, "camera_intrinsic", [[1, 1, 1], [1, 1, 1], [0, 0, 1]], "[0, fy, cy]"),
    ("ego_pose", LIDAR_0, "translation", "here", "3 finite numbers"),
    ("ego_pose", LIDAR_0, "rotation", [2.0, 0, 0, 0], "length 1"),
    ("ego_pose", LIDAR_0, "timestamp", 1.5e9, "microseconds"),
    ("scene", "scene-0061-token", "first_sample_token", "nowhere", "sample.json"),
    ("scene", "scene-0061-token", "last_sample_token", "scene-0103-sample-2", "a sample of this scene"),
    ("scene", "scene-0103-token", "name", "scene-0061", "no other scene"),
    ("sample", SAMPLE_1, "scene_token", "nowhere", "scene.json"),
    ("sample", SAMPLE_1, "timestamp", "1533000000500000", "microseconds"),
    ("sample", SAMPLE_1, "timestamp", True, "microseconds"),
    ("sample", SAMPLE_1, "timestamp", -1, "2000 to 2100"),
    ("sample", SAMPLE_1, "next", "nowhere", "sample.json"),
    ("sample", SAMPLE_1, "next", "", "next leads back"),
    ("sample", SAMPLE_1, "prev", None, "text"),
    ("sample_data", LIDAR_1, "calibrated_sensor_token", "nowhere", "calibrated_sensor.json"),
    ("sample_data", LIDAR_1, "ego_pose_token", "nowhere", "ego_pose.json"),
    ("sample_data", LIDAR_1, "sample_token", "nowhere", "sample.json"),
    ("sample_data", LIDAR_1, "filename", None, "path"),
    ("sample_data", LIDAR_1, "filename", "/etc/passwd", "does not leave"),
    ("sample_data", LIDAR_1, "filename", "samples/../../x.jpg", "does not leave"),
    ("sample_data", LIDAR_1, "filename", "samples/a\0.jpg", "path"),
    ("sample_data", LIDAR_1, "is_key_frame", 1, "true or false"),
    ("sample_data", LIDAR_1, "is_key_frame", True, "one keyframe of LIDAR_TOP"),
    ("sample_data", CAMERA, "width", 0, "pixels"),
    ("sample_data", CAMERA, "height", None, "pixels"),
    ("instance", "scene-0061-instance-0", "category_token", "nowhere", "category.json"),
    ("sample_annotation", BOX_0, "instance_token", "nowhere", "instance.json"),
    ("sample_annotation", BOX_0, "sample_token", "nowhere", "sample.json"),
    ("sample_annotation", BOX_0, "attribute_tokens", ["nowhere"], "attribute.json"),
    ("sample_annotation", BOX_0, "size", [1.0, 0.0, 1.0], "positive"),
    ("sample_annotation", BOX_0, "size", [1.0, -2.0, 1.0], "positive"),
    ("sample_annotation", BOX_0, "num_lidar_pts", 0.5, "whole number"),
    ("sample_annotation", BOX_0, "next", "nowhere", "sample_annotation.json"),
]


@pytest.mark.parametrize(("table", "token", "field", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_refused(root: Path, table: str, token: str, field: str, value: Any, words: str) -> None:
    rows = read_table(root, table)
    row_of(rows, token)[field] = value
    write_table(root, table, rows)
    with pytest.raises(InputRefused) as refusal:
        open_index(root, VERSION)
    assert not (root / VERSION / FOLDER / "columns").exists()
    message = str(refusal.value)
    assert words in message
    assert f"{table}.json: record" in message
    assert "\n" not in message
    # A broken link is told at either of its ends.
    if "leads back" not in words and "one keyframe" not in words:
        assert token in message
        assert f"field {field}" in message


@pytest.mark.parametrize(
    ("table", "token", "field"),
    [
        ("sample_data", LIDAR_1, "calibrated_sensor_token"),
        ("sample", SAMPLE_1, "timestamp"),
        ("ego_pose", LIDAR_0, "rotation"),
    ],
)
def test_a_missing_field_is_refused(root: Path, table: str, token: str, field: str) -> None:
    rows = read_table(root, table)
    del row_of(rows, token)[field]
    write_table(root, table, rows)
    with pytest.raises(InputRefused, match=rf"{table}\.json: record '{token}', field {field}: .*no such field"):
        open_index(root, VERSION)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(root: Path, literal: str) -> None:
    path = root / VERSION / "ego_pose.json"
    rows = json.loads(path.read_text())
    rows[3]["translation"][1] = 123456.5
    path.write_text(json.dumps(rows).replace("123456.5", literal))
    with pytest.raises(InputRefused, match=rf"ego_pose\.json: record '{rows[3]['token']}', field translation"):
        open_index(root, VERSION)


def test_all_dangling_tokens_are_counted(root: Path) -> None:
    write_table(root, "ego_pose", [row for row in read_table(root, "ego_pose") if "LIDAR" not in row["token"]])
    with pytest.raises(InputRefused, match=r"field ego_pose_token: .*and 21 more such records"):
        open_index(root, VERSION)


def test_a_circle_of_samples_is_refused(root: Path) -> None:
    rows = read_table(root, "sample")
    row_of(rows, SAMPLE_2)["next"], row_of(rows, "scene-0061-sample-0")["prev"] = "scene-0061-sample-0", SAMPLE_2
    write_table(root, "sample", rows)
    with pytest.raises(InputRefused, match=rf"sample\.json: record '{SAMPLE_2}', field next: expected a later record"):
        open_index(root, VERSION)


def test_a_sweep_that_precedes_itself_is_refused(root: Path) -> None:
    rows = read_table(root, "sample_data")
    row_of(rows, LIDAR_0)["prev"] = LIDAR_0
    write_table(root, "sample_data", rows)
    with pytest.raises(InputRefused, match=rf"record '{LIDAR_0}', field prev"):
        open_index(root, VERSION)


def test_a_chain_into_another_scene_is_refused(root: Path) -> None:
    rows = read_table(root, "sample_data")
    last, first = row_of(rows, "scene-0061-LIDAR_TOP-10"), row_of(rows, "scene-0103-LIDAR_TOP-0")
    last["next"], first["prev"] = first["token"], last["token"]
    write_table(root, "sample_data", rows)
    with pytest.raises(InputRefused, match=r"record 'scene-0061-LIDAR_TOP-10', field next: .*same scene"):
        open_index(root, VERSION)


def test_a_chain_into_another_track_is_refused(root: Path) -> None:
    rows = read_table(root, "sample_annotation")
    for row in rows:
        if row["token"] == BOX_1:
            row["instance_token"] = "scene-0061-instance-1"
    write_table(root, "sample_annotation", rows)
    with pytest.raises(InputRefused, match=rf"record '{BOX_0}', field next: .*same sensor or track"):
        open_index(root, VERSION)


@pytest.mark.parametrize(
    ("table", "first", "second"), [("sample", SAMPLE_1, SAMPLE_2), ("sample_data", LIDAR_1, LIDAR_2)]
)
@pytest.mark.parametrize("equal", [True, False])
def test_time_must_rise(root: Path, table: str, first: str, second: str, equal: bool) -> None:
    rows = read_table(root, table)
    a, b = row_of(rows, first), row_of(rows, second)
    a["timestamp"], b["timestamp"] = b["timestamp"], b["timestamp"] if equal else a["timestamp"]
    write_table(root, table, rows)
    with pytest.raises(InputRefused, match=rf"{table}\.json: .*field next: expected a later record"):
        open_index(root, VERSION)


def test_a_duplicate_token_is_refused_only_where_it_contradicts(root: Path) -> None:
    rows = read_table(root, "ego_pose")
    write_table(root, "ego_pose", rows + rows[:5])
    open_index(root, VERSION)
    write_table(root, "ego_pose", [*rows, rows[0] | {"translation": [1.0, 2.0, 3.0]}])
    with pytest.raises(InputRefused, match=rf"ego_pose\.json: record '{rows[0]['token']}'.*twice"):
        open_index(root, VERSION)


def test_a_sample_without_any_sensor_is_refused(root: Path) -> None:
    rows = [
        row | {"is_key_frame": row["is_key_frame"] and row["sample_token"] != SAMPLE_1}
        for row in read_table(root, "sample_data")
    ]
    write_table(root, "sample_data", rows)
    with pytest.raises(InputRefused, match=rf"sample\.json: record '{SAMPLE_1}'"):
        open_index(root, VERSION)


BROKEN_FILES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda content: content[: len(content) // 2], r"line \d+, column \d+"),
    (lambda content: b"", r"line 1, column 1"),
    (lambda content: b"{}", "expected a list of records, found dict"),
    (lambda content: b"[]", "at least one record"),
    (lambda content: b"[7]", "record number 1 has no field token"),
    (lambda content: b'[{"token": ""}]', "record number 1 has no field token"),
    (lambda content: b"[" * 100_000, "nested too deeply"),
    (lambda content: b'[{"token": "a", "timestamp": ' + b"9" * 5000 + b"}]", "not readable as JSON"),
    (lambda content: b"\xff\xfe" + content, "not readable as JSON"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN_FILES)
def test_a_broken_table_file_is_refused(root: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = root / VERSION / "sample.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputRefused, match=rf"sample\.json: .*{words}"):
        open_index(root, VERSION)


@pytest.mark.parametrize("table", ["calibrated_sensor", "scene", "category"])
def test_a_missing_table_is_refused(root: Path, table: str) -> None:
    (root / VERSION / f"{table}.json").unlink()
    with pytest.raises(InputRefused, match=rf"{table}\.json: the file is missing"):
        open_index(root, VERSION)


@pytest.mark.parametrize("absent", [True, False])
def test_annotations_may_be_absent_or_empty(root: Path, absent: bool) -> None:
    for table in ("sample_annotation", "instance"):
        if absent:
            (root / VERSION / f"{table}.json").unlink()
        else:
            write_table(root, table, [])
    assert not open_index(root, VERSION).annotated


def test_harmless_variation_changes_nothing(root: Path) -> None:
    clean = IndexFile(open_index(root, VERSION).path)
    generator = random.Random(0)
    for path in (root / VERSION).glob("*.json"):
        rows = json.loads(path.read_text())
        rows += rows[:2]
        generator.shuffle(rows)
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps([row | {"colour": {"deep": [None]}} for row in rows]).encode())
    changed = IndexFile(open_index(root, VERSION).path)
    assert changed.digests != clean.digests
    assert changed.names == clean.names
    assert changed.columns.keys() == clean.columns.keys()
    for name, column in clean.columns.items():
        assert column.dtype == changed.columns[name].dtype
        if name == "annotation.table_row":  # the one column that is about this order
            continue
        assert column.tobytes() == changed.columns[name].tobytes(), name


def test_the_version_is_found(root: Path) -> None:
    assert find_version(root, None) == VERSION
    assert find_version(root, VERSION) == VERSION
    with pytest.raises(InputRefused, match=r"no version 'v1\.0-trainval'; choose one of v1\.0-mini"):
        find_version(root, "v1.0-trainval")
    (root / "v1.0-test").mkdir()
    with pytest.raises(InputRefused, match=r"several versions; choose one of v1\.0-mini, v1\.0-test"):
        find_version(root, None)


def test_a_wrong_root_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="there is no such folder"):
        find_version(tmp_path / "nowhere", None)
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "nuscenes").symlink_to(root)
    with pytest.raises(InputRefused, match=r"no nuScenes tables here.*did you mean .*/around/nuscenes\."):
        find_version(tmp_path / "around", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="no nuScenes tables here"):
        find_version(tmp_path / "empty", "v1.0-mini")
