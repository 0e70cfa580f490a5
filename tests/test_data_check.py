"""`bevel data check`: each corruption is found and called by its name, many at once too, and clean data is clean."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.faults import InputRefused
from datasets.nuscenes.check.check import CheckResult, check_dataset
from datasets.nuscenes.check.findings import Finding, Problem, Severity
from datasets.nuscenes.check.inventory import what_works
from tests.nuscenes_fixture import read_table, write_dataset, write_radar, write_table
from tools.__main__ import main
from tools.data_check import CheckArguments, check
from tools.exit_codes import CommandFailed, ExitCode

VERSION = "v1.0-mini"
SCENE, OTHER = "scene-0061", "scene-0103"
LIDAR, CAMERA, RADAR = f"{SCENE}-LIDAR_TOP-", f"{SCENE}-CAM_FRONT-", f"{SCENE}-RADAR_FRONT-"
SAMPLE, BOX = f"{SCENE}-sample-", f"{SCENE}-instance-0-"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def small_root(nuscenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with four of its channels; what is broken here is found there."""
    root = tmp_path_factory.mktemp("small") / "data"
    shutil.copytree(nuscenes_root / VERSION, root / VERSION)
    kept = ("LIDAR_TOP", "CAM_FRONT", "CAM_BACK", "RADAR_FRONT")
    rows = [row for row in read_table(root, "sample_data") if row["filename"].split("/")[1] in kept]
    write_table(root, "sample_data", rows)
    poses = {row["ego_pose_token"] for row in rows}
    write_table(root, "ego_pose", [row for row in read_table(root, "ego_pose") if row["token"] in poses])
    for row in rows:
        (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
        os.link(nuscenes_root / row["filename"], root / row["filename"])
    return root


@pytest.fixture
def root(small_root: Path, tmp_path: Path) -> Path:
    """A dataset that a test may break: the tables are copies, the sensor files links (`replace` them)."""
    for folder in ("samples", "sweeps"):
        shutil.copytree(small_root / folder, tmp_path / "data" / folder, copy_function=os.link)
    shutil.copytree(small_root / VERSION, tmp_path / "data" / VERSION)
    return tmp_path / "data"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def found(result: CheckResult, problem: Problem) -> list[Finding]:
    return [finding for finding in result.findings.kept if finding.problem is problem]


def setting(table: str, token: str, /, **fields: Any) -> Change:
    """Change fields of one record; a field set to `...` is removed."""

    def change(root: Path) -> None:
        rows = read_table(root, table)
        row = next(row for row in rows if row["token"] == token)
        row |= fields
        for name in [name for name, value in fields.items() if value is ...]:
            del row[name]
        write_table(root, table, rows)

    return change


def adding(table: str, token: str, /, **fields: Any) -> Change:
    """Add a changed copy of a record."""

    def change(root: Path) -> None:
        rows = read_table(root, table)
        write_table(root, table, [*rows, next(row for row in rows if row["token"] == token) | fields])

    return change


def removing(table: str, token: str) -> Change:
    def change(root: Path) -> None:
        write_table(root, table, [row for row in read_table(root, table) if row["token"] != token])

    return change


def text_of(table: str, edit: Callable[[str], str]) -> Change:
    def change(root: Path) -> None:
        path = root / VERSION / f"{table}.json"
        path.write_text(edit(path.read_text()))

    return change


def file_of(root: Path, token: str) -> Path:
    return root / next(row["filename"] for row in read_table(root, "sample_data") if row["token"] == token)


def content_of(token: str, edit: Callable[[bytes], bytes]) -> Change:
    def change(root: Path) -> None:
        path = file_of(root, token)
        replace(path, edit(path.read_bytes()))

    return change


def points_of(token: str, edit: Callable[[Any], None]) -> Change:
    def change(root: Path) -> None:
        points = np.fromfile(file_of(root, token), dtype="<f4").reshape(-1, 5)
        edit(points)
        replace(file_of(root, token), points.tobytes())

    return change


def instead_of(token: str, place: Callable[[Path], None]) -> Change:
    """Put something else where a sensor file is."""

    def change(root: Path) -> None:
        path = file_of(root, token)
        path.unlink()
        place(path)

    return change


def _outside(path: Path) -> None:
    target = path.parents[3] / "outside.bin"
    target.write_bytes(b"\0" * 20)
    path.symlink_to(target)


def _swap_cameras(root: Path) -> None:
    rows = read_table(root, "sample_data")
    pair = [row for row in rows if row["token"] in (f"{CAMERA}1", f"{SCENE}-CAM_BACK-1")]
    pair[0]["filename"], pair[1]["filename"] = pair[1]["filename"], pair[0]["filename"]
    write_table(root, "sample_data", rows)


def _run_into_the_next_scene(root: Path) -> None:
    setting("sample_data", f"{LIDAR}10", next=f"{OTHER}-LIDAR_TOP-0")(root)
    setting("sample_data", f"{OTHER}-LIDAR_TOP-0", prev=f"{LIDAR}10")(root)


def _close_the_circle(root: Path) -> None:
    setting("sample", f"{SAMPLE}2", next=f"{SAMPLE}0")(root)
    setting("sample", f"{SAMPLE}0", prev=f"{SAMPLE}2")(root)


def _swap_times(root: Path) -> None:
    rows = {row["token"]: row for row in read_table(root, "sample")}
    earlier, later = rows[f"{SAMPLE}1"], rows[f"{SAMPLE}2"]
    earlier["timestamp"], later["timestamp"] = later["timestamp"], earlier["timestamp"]
    write_table(root, "sample", list(rows.values()))


def _nan(points: Any) -> None:
    points[0, 1] = np.nan


def _ring(points: Any) -> None:
    points[:, 4] = 0.5


def _lower_case(path: Path) -> None:
    path.with_name(path.name.lower()).write_bytes(b"")


def _radar_header(old: bytes, new: bytes) -> Change:
    return content_of(f"{RADAR}0", lambda content: content.replace(old, new, 1))


_SAMPLE_DATA = f"{VERSION}/sample_data.json"
# What is broken, how it is called, the token that is named, and the field.
CATALOGUE: dict[str, tuple[Change, Problem, str, str]] = {
    "table missing": (
        lambda root: (root / VERSION / "calibrated_sensor.json").unlink(), Problem.MISSING_TABLE, "", ""),
    "table cut": (text_of("sample_data", lambda text: text[: len(text) * 6 // 10]), Problem.NOT_JSON, "", ""),
    "table an object": (text_of("sample", lambda text: "{}"), Problem.NOT_JSON, "", ""),
    "table nested": (text_of("scene", lambda text: "[" * 100_000), Problem.NOT_JSON, "", ""),
    "number of 5000 digits": (
        text_of("sample", lambda text: text.replace('"timestamp": 1', '"timestamp": ' + "1" * 5000, 1)),
        Problem.NOT_JSON, "", ""),
    "table not text": (
        lambda root: (root / VERSION / "sample.json").write_bytes(b'[{"token": "\xff"}]') and None,
        Problem.NOT_JSON, "", ""),
    "table empty": (text_of("sample", lambda text: "[]"), Problem.NO_RECORDS, "", ""),
    "record without token": (setting("sensor", "sensor-CAM_FRONT", token=...), Problem.NO_TOKEN, "", "token"),
    "record a number": (text_of("attribute", lambda text: "[7, " + text.lstrip()[1:]), Problem.NO_TOKEN, "", "token"),
    "field missing": (
        setting("sample_data", f"{LIDAR}1", calibrated_sensor_token=...),
        Problem.MISSING_FIELD, f"{LIDAR}1", "calibrated_sensor_token"),
    "field null": (setting("sample_data", f"{LIDAR}1", filename=None), Problem.BAD_VALUE, f"{LIDAR}1", "filename"),
    "NaN in a calibration": (
        setting("calibrated_sensor", f"{SCENE}-calibration-LIDAR_TOP", translation=[0.0, float("nan"), 0.0]),
        Problem.NOT_FINITE, f"{SCENE}-calibration-LIDAR_TOP", "translation"),
    "overflow in a pose": (
        setting("ego_pose", f"{LIDAR}1", translation=[0.0, 1e999, 0.0]),
        Problem.NOT_FINITE, f"{LIDAR}1", "translation"),
    "NaN box": (
        setting("sample_annotation", f"{BOX}0", translation=[float("nan")] * 3),
        Problem.NOT_FINITE, f"{BOX}0", "translation"),
    "no rotation": (
        setting("calibrated_sensor", f"{SCENE}-calibration-CAM_FRONT", rotation=[0, 0, 0, 0]),
        Problem.BAD_ROTATION, f"{SCENE}-calibration-CAM_FRONT", "rotation"),
    "rotation twice as long": (
        setting("ego_pose", f"{LIDAR}1", rotation=[2.0, 0, 0, 0]), Problem.BAD_ROTATION, f"{LIDAR}1", "rotation"),
    "box without size": (
        setting("sample_annotation", f"{BOX}0", size=[1.0, 0.0, 1.0]), Problem.BAD_SIZE, f"{BOX}0", "size"),
    "box with a negative size": (
        setting("sample_annotation", f"{BOX}0", size=[1.0, -1.0, 1.0]), Problem.BAD_SIZE, f"{BOX}0", "size"),
    "camera without matrix": (
        setting("calibrated_sensor", f"{SCENE}-calibration-CAM_BACK", camera_intrinsic=[]),
        Problem.BAD_INTRINSIC, f"{SCENE}-calibration-CAM_BACK", "camera_intrinsic"),
    "singular camera": (
        setting(
            "calibrated_sensor", f"{SCENE}-calibration-CAM_BACK", camera_intrinsic=[[0, 0, 1], [0, 1, 1], [0, 0, 1]]),
        Problem.BAD_INTRINSIC, f"{SCENE}-calibration-CAM_BACK", "camera_intrinsic"),
    "picture without size": (setting("sample_data", f"{CAMERA}1", width=0), Problem.BAD_VALUE, f"{CAMERA}1", "width"),
    "time in seconds": (
        setting("sample", f"{SAMPLE}1", timestamp=1.533e9), Problem.BAD_TIME, f"{SAMPLE}1", "timestamp"),
    "time as text": (
        setting("sample_data", f"{LIDAR}1", timestamp="1533000000"), Problem.BAD_TIME, f"{LIDAR}1", "timestamp"),
    "time absurd": (setting("sample", f"{SAMPLE}1", timestamp=2**63), Problem.BAD_TIME, f"{SAMPLE}1", "timestamp"),
    "time swapped": (_swap_times, Problem.TIME_BACKWARDS, f"{SAMPLE}1", "next"),
    "time twice": (
        lambda root: setting("sample", f"{SAMPLE}1", timestamp=1_533_000_000_000_000)(root),
        Problem.TIME_BACKWARDS, f"{SAMPLE}0", "next"),
    "same token, other contents": (
        adding("ego_pose", f"{LIDAR}1", timestamp=1_533_000_000_000_000),
        Problem.CONFLICTING_TOKEN, f"{LIDAR}1", "token"),
    "same token, same contents": (adding("ego_pose", f"{LIDAR}1"), Problem.REPEATED_RECORD, f"{LIDAR}1", "token"),
    "dangling calibration": (
        setting("sample_data", f"{LIDAR}1", calibrated_sensor_token="nowhere"),
        Problem.DANGLING_TOKEN, f"{LIDAR}1", "calibrated_sensor_token"),
    "dangling pose": (removing("ego_pose", f"{LIDAR}1"), Problem.DANGLING_TOKEN, f"{LIDAR}1", "ego_pose_token"),
    "dangling instance": (
        removing("instance", f"{SCENE}-instance-0"), Problem.DANGLING_TOKEN, f"{BOX}0", "instance_token"),
    "dangling attribute": (
        setting("sample_annotation", f"{BOX}0", attribute_tokens=["nowhere"]),
        Problem.DANGLING_TOKEN, f"{BOX}0", "attribute_tokens"),
    "dangling next": (setting("sample", f"{SAMPLE}1", next="nowhere"), Problem.DANGLING_TOKEN, f"{SAMPLE}1", "next"),
    "link one way": (setting("sample", f"{SAMPLE}1", prev=""), Problem.BROKEN_CHAIN, f"{SAMPLE}0", "next"),
    "track link one way": (
        setting("sample_annotation", f"{BOX}1", next=""), Problem.BROKEN_CHAIN, f"{BOX}2", "prev"),
    "circle of samples": (_close_the_circle, Problem.CHAIN_CYCLE, f"{SAMPLE}2", "next"),
    "sweep before itself": (
        setting("sample_data", f"{LIDAR}3", prev=f"{LIDAR}3"), Problem.CHAIN_CYCLE, f"{LIDAR}3", "prev"),
    "chain into the next scene": (_run_into_the_next_scene, Problem.MIXED_CHAIN, f"{LIDAR}10", "next"),
    "chain into another sensor": (
        setting("sample_data", f"{LIDAR}3", calibrated_sensor_token=f"{SCENE}-calibration-RADAR_FRONT"),
        Problem.MIXED_CHAIN, f"{LIDAR}3", "next"),
    "scene ends elsewhere": (
        setting("scene", f"{SCENE}-token", last_sample_token=f"{OTHER}-sample-2"),
        Problem.WRONG_SCENE, f"{SCENE}-token", "last_sample_token"),
    "scene ends too early": (
        setting("scene", f"{SCENE}-token", last_sample_token=f"{SAMPLE}1"),
        Problem.CHAIN_IN_PIECES, f"{SCENE}-token", "last_sample_token"),
    "scene counts wrongly": (
        setting("scene", f"{SCENE}-token", nbr_samples=4), Problem.WRONG_COUNT, f"{SCENE}-token", "nbr_samples"),
    "scene name twice": (
        setting("scene", f"{OTHER}-token", name=SCENE), Problem.DUPLICATE_SCENE, f"{OTHER}-token", "name"),
    "channel twice": (
        setting("sensor", "sensor-CAM_BACK", channel="CAM_FRONT"),
        Problem.DUPLICATE_CHANNEL, "sensor-CAM_BACK", "channel"),
    "keyframe twice": (
        setting("sample_data", f"{LIDAR}4", is_key_frame=True),
        Problem.DUPLICATE_KEYFRAME, f"{LIDAR}5", "is_key_frame"),
    "sample without keyframe": (
        adding("sample", f"{SAMPLE}2", token="alone", prev="", next=""), Problem.NO_KEYFRAME, "alone", "token"),
    "cameras swapped": (_swap_cameras, Problem.WRONG_FOLDER, f"{CAMERA}1", "filename"),
    "path upwards": (
        setting("sample_data", f"{CAMERA}1", filename="samples/../../outside.jpg"),
        Problem.LEAVES_ROOT, f"{CAMERA}1", "filename"),
    "path absolute": (
        setting("sample_data", f"{LIDAR}1", filename="/dev/zero"), Problem.LEAVES_ROOT, f"{LIDAR}1", "filename"),
    "path with NUL": (
        setting("sample_data", f"{LIDAR}1", filename="sweeps/a\0b"), Problem.BAD_VALUE, f"{LIDAR}1", "filename"),
    "path too long": (
        setting("sample_data", f"{LIDAR}1", filename="sweeps/" + "x" * 5000),
        Problem.MISSING_FILE, f"{LIDAR}1", "filename"),
    "link out of the root": (instead_of(f"{LIDAR}1", _outside), Problem.LEAVES_ROOT, f"{LIDAR}1", "filename"),
    "link to itself": (
        instead_of(f"{LIDAR}1", lambda path: path.symlink_to(path)), Problem.UNREADABLE_FILE, f"{LIDAR}1", "filename"),
    "file missing": (instead_of(f"{CAMERA}1", lambda path: None), Problem.MISSING_FILE, f"{CAMERA}1", "filename"),
    "file in lower case": (instead_of(f"{CAMERA}1", _lower_case), Problem.MISSING_FILE, f"{CAMERA}1", "filename"),
    "a folder": (instead_of(f"{CAMERA}1", Path.mkdir), Problem.NOT_A_REGULAR_FILE, f"{CAMERA}1", "filename"),
    "a pipe": (instead_of(f"{LIDAR}5", os.mkfifo), Problem.NOT_A_REGULAR_FILE, f"{LIDAR}5", "filename"),
    "file empty": (content_of(f"{LIDAR}1", lambda content: b""), Problem.EMPTY_FILE, f"{LIDAR}1", "filename"),
    "picture cut": (
        content_of(f"{CAMERA}1", lambda content: content[: len(content) * 55 // 100]),
        Problem.TRUNCATED, f"{CAMERA}1", "filename"),
    "picture a web page": (
        content_of(f"{CAMERA}1", lambda content: b"<html>404</html>"), Problem.NOT_AN_IMAGE, f"{CAMERA}1", "filename"),
    "picture claims gigabytes": (
        content_of(f"{CAMERA}1", lambda content: content.replace(b"\x00\x5a\x00\xa0", b"\x75\x30\x75\x30", 1)),
        Problem.SIZE_MISMATCH, f"{CAMERA}1", "filename"),
    "LiDAR cut": (content_of(f"{LIDAR}1", lambda content: content[:-7]), Problem.TRUNCATED, f"{LIDAR}1", "filename"),
    "LiDAR cut at a number": (
        content_of(f"{LIDAR}1", lambda content: content[:-8]), Problem.TRUNCATED, f"{LIDAR}1", "filename"),
    "LiDAR with NaN": (points_of(f"{LIDAR}0", _nan), Problem.NONFINITE_POINTS, f"{LIDAR}0", "filename"),
    "LiDAR of NaN": (
        points_of(f"{LIDAR}0", lambda points: points.fill(np.nan)),
        Problem.NO_FINITE_POINTS, f"{LIDAR}0", "filename"),
    "LiDAR of another layout": (points_of(f"{LIDAR}0", _ring), Problem.IMPLAUSIBLE, f"{LIDAR}0", "filename"),
    "radar without a field": (_radar_header(b" vx_comp ", b" vx_camp "), Problem.BAD_HEADER, f"{RADAR}0", "filename"),
    "radar without DATA": (_radar_header(b"DATA binary\n", b""), Problem.BAD_HEADER, f"{RADAR}0", "filename"),
    "radar claims too much": (
        instead_of(
            f"{RADAR}0",
            lambda path: write_radar(path, np.zeros((3, 18)), {"WIDTH": "9" * 12, "POINTS": "9" * 12}),
        ),
        Problem.HEADER_MISMATCH, f"{RADAR}0", "filename"),
    "radar cut": (
        content_of(f"{RADAR}0", lambda content: content[:-60]), Problem.TRUNCATED, f"{RADAR}0", "filename"),
    "radar late": (
        setting("sample_data", f"{RADAR}0", timestamp=1_532_999_999_507_000),
        Problem.LATE_SENSOR, f"{RADAR}0", "timestamp"),
    "one file of two records": (
        setting("sample_data", f"{CAMERA}1", filename=f"samples/CAM_FRONT/{SCENE}__CAM_FRONT__1532999999965000.jpg"),
        Problem.SHARED_FILE, f"{CAMERA}1", "filename"),
    "pose jumps": (
        setting("ego_pose", f"{LIDAR}3", translation=[1600.0, 1600.0, 0.0]),
        Problem.POSE_JUMP, f"{LIDAR}3", "ego_pose_token"),
    "recording stopped": (
        setting("sample", f"{SAMPLE}2", timestamp=1_533_000_030_000_000), Problem.TIME_GAP, f"{SAMPLE}1", "next"),
    "box of ten kilometres": (
        setting("sample_annotation", f"{BOX}0", size=[1e4, 1e4, 1e4]), Problem.HUGE_BOX, f"{BOX}0", "size"),
    "unknown category": (
        setting("category", "category-vehicle.car", name="alien.ufo"),
        Problem.UNKNOWN_CATEGORY, "category-vehicle.car", "name"),
    "no maps table": (
        lambda root: (root / VERSION / "map.json").unlink(), Problem.OPTIONAL_TABLE, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_single_corruption_is_found_and_called_by_its_name(name: str, root: Path) -> None:
    corrupt, problem, token, field = CATALOGUE[name]
    corrupt(root)
    result = check_dataset(root, VERSION)
    findings = found(result, problem)
    assert (token, field) in [(finding.token, finding.field) for finding in findings], result.findings.counts
    # What sensor files lack is no fault of the tables, and what is only odd refuses nothing.
    worst = max((p.severity for p in result.findings.counts), key=list(Severity)[::-1].index)
    assert worst is problem.severity or problem is Problem.LATE_SENSOR


def test_everything_is_found_in_one_pass(root: Path) -> None:
    """One of each kind that does not hide another: all at once, each found as if it were alone."""
    together = (
        "field missing", "NaN in a calibration", "no rotation", "box with a negative size", "dangling instance",
        "time in seconds", "same token, other contents", "track link one way", "sweep before itself",
        "scene name twice", "cameras swapped", "link out of the root", "a pipe", "radar without a field",
        "picture cut", "LiDAR of another layout", "no maps table", "sample without keyframe",
    )  # fmt: skip
    for name in together:
        CATALOGUE[name][0](root)
    result = check_dataset(root, VERSION)
    for name in together:
        _, problem, token, field = CATALOGUE[name]
        assert (token, field) in [(f.token, f.field) for f in found(result, problem)], name
    assert {f.problem for f in result.findings.kept} == set(result.findings.counts)


def test_clean_data_has_no_finding(nuscenes_root: Path, synthetic_root: Path) -> None:
    for root, deep in ((nuscenes_root, True), (synthetic_root, True), (nuscenes_root, False)):
        result = check_dataset(root, None, deep=deep)
        assert result.findings.counts == {}
        assert all(channel.keyframes.whole and channel.sweeps.whole for channel in result.inventory.channels)
        assert result.files_read == (result.files if deep else 18)
        assert [split.name for split in result.inventory.splits] == ["all", "mini_train", "mini_val"]


def test_several_processes_find_the_same(root: Path) -> None:
    for name in ("file missing", "LiDAR cut", "radar cut", "a pipe"):
        CATALOGUE[name][0](root)
    alone, together = check_dataset(root, VERSION), check_dataset(root, VERSION, jobs=2, files_at_once=20)
    assert alone.findings.kept == together.findings.kept
    assert len(alone.findings.kept) == 4


def test_real_data_has_no_false_finding(real_data: Path) -> None:
    keyframe = check_dataset(real_data / "nuscenes-keyframe", None, deep=True)
    assert keyframe.findings.counts == {}
    half = check_dataset(real_data / "nuscenes-minival", None, deep=True)
    assert half.findings.counts == {Problem.MISSING_FILE: 1272}
    radar = next(channel for channel in half.inventory.channels if channel.channel == "RADAR_FRONT")
    assert radar.keyframes.whole
    assert "evaluation with radar;" in what_works(half.inventory.splits[0])


def test_what_works_follows_from_what_is_there(root: Path) -> None:
    shutil.rmtree(root / "sweeps" / "LIDAR_TOP")
    for row in read_table(root, "sample_data"):
        if row["filename"].startswith("samples/CAM_") and row["filename"].endswith(".jpg") and SCENE in row["filename"]:
            (root / row["filename"]).unlink()
    _, train, val = check_dataset(root, VERSION).inventory.splits
    assert (train.whole_scenes, val.whole_scenes) == ((), (OTHER,))
    assert what_works(train).startswith("training and evaluation with lidar + radar; with --missing-sensors allow also")
    assert "lidar without sweeps" in what_works(train)
    assert what_works(val).startswith("training and evaluation with camera + lidar + radar; lidar without sweeps")


def test_findings_are_capped_and_all_are_counted(root: Path) -> None:
    shutil.rmtree(root / "sweeps")
    result = check_dataset(root, VERSION, limit=7)
    assert result.findings.counts == {Problem.MISSING_FILE: 32}
    assert len(result.findings.kept) == 7


def test_a_missing_root_or_version_is_refused(root: Path) -> None:
    for place, version in ((root / "nowhere", None), (root, "v1.0-test")):
        with pytest.raises(InputRefused):
            check_dataset(place, version)


def test_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    words = ["data", "check", str(root), "--output", str(report), "--jobs", "1"]
    assert main(words) == ExitCode.FINE
    text = capsys.readouterr().out
    assert "Findings: none." in text
    assert text.splitlines()[-1] == str(report)
    assert json.loads(report.read_bytes())["counts"] == {"error": 0, "loss": 0, "warning": 0}
    CATALOGUE["picture cut"][0](root)
    assert main(words) == ExitCode.DEGRADED
    assert "1 sensor files are missing or broken" in capsys.readouterr().err
    CATALOGUE["no rotation"][0](root)
    assert main(words) == ExitCode.INPUT_REFUSED
    assert "LOSS truncated: 1" in capsys.readouterr().out
    told = {finding["problem"]: finding for finding in json.loads(report.read_bytes())["findings"]}
    assert told["bad_rotation"]["token"] == f"{SCENE}-calibration-CAM_FRONT"
    assert told["truncated"]["severity"] == "loss"
    assert told["truncated"]["file"].startswith("samples/CAM_FRONT/")
    assert main(["data", "check", str(root), "--limit", "0"]) == ExitCode.INPUT_REFUSED


def test_hostile_text_reaches_no_terminal(root: Path) -> None:
    setting("sample_data", f"{LIDAR}1", token="\x1b[31m\ud800\n" + "x" * 5000, next="nowhere")(root)
    for finding in check_dataset(root, VERSION).findings.kept:
        sentence = finding.sentence()
        assert sentence.isprintable()
        assert len(sentence.encode()) < 800


def test_a_process_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the first of hundreds of parts is done: however late the kill comes, others are left to look at."""
    write_dataset(tmp_path, keyframes=22)
    monkeypatch.setattr("tools.data_check.check_dataset", partial(check_dataset, files_at_once=4))

    @contextmanager
    def killing(description: str, total: int) -> Iterator[Callable[[int], None]]:
        def kill(steps: int) -> None:
            for child in multiprocessing.active_children():
                child.kill()

        yield kill

    with pytest.raises(CommandFailed, match=r"a process that looked at files was killed.*try fewer --jobs"):
        check(CheckArguments(tmp_path, deep=True, jobs=2), killing)
