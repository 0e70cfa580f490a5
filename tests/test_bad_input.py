"""Bad input at the command line: one sentence with the file and the field, exit code 3, nothing half-written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.faults import FaultReason, SensorFault
from tests.nuscenes_fixture import read_table, write_dataset, write_radar, write_table
from tests.small_run import small_config
from tools.__main__ import main
from tools.exit_codes import ExitCode
from tools.missing_sensors import MissingSensors
from tools.run_config import read_config, write_config

Corruption = Callable[[Path], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", ("scene-0061",))
    write_config(tmp_path / "config.json", small_config(1))
    return tmp_path / "data"


def train(data: Path, *more: str) -> int:
    config, run = data.parent / "config.json", data.parent / "run"
    return main(["train", str(config), "--data-root", str(data), "--output", str(run), *more])


def keyframe(data: Path, channel: str) -> Path:
    """The file of the channel's first keyframe."""
    rows = read_table(data, "sample_data")
    row = next(row for row in rows if row["is_key_frame"] and f"/{channel}/" in row["filename"])
    return data / row["filename"]


def missing_folder(data: Path) -> None:
    data.rename(data.with_name("elsewhere"))


def missing_file(data: Path) -> None:
    keyframe(data, "CAM_BACK").unlink()


def truncated_lidar(data: Path) -> None:
    path = keyframe(data, "LIDAR_TOP")
    path.write_bytes(path.read_bytes()[:-7])


def missing_earlier_sweep(data: Path) -> None:
    rows = read_table(data, "sample_data")
    row = [row for row in rows if not row["is_key_frame"] and "/LIDAR_TOP/" in row["filename"]][-1]
    (data / row["filename"]).unlink()


def unreadable_jpeg(data: Path) -> None:
    keyframe(data, "CAM_FRONT").write_text("<html>404 not found</html>")


def cut_jpeg(data: Path) -> None:
    path = keyframe(data, "CAM_FRONT")
    path.write_bytes(path.read_bytes()[:-200])


def dangling_token(data: Path) -> None:
    rows = read_table(data, "sample_data")
    rows[3]["ego_pose_token"] = "nowhere"
    write_table(data, "sample_data", rows)


def broken_table(data: Path) -> None:
    path = data / "v1.0-mini" / "ego_pose.json"
    path.write_text(path.read_text()[:-40])


def no_lidar_points(data: Path) -> None:
    np.full((5, 5), np.nan, dtype=np.float32).tofile(keyframe(data, "LIDAR_TOP"))


@pytest.mark.parametrize(
    ("corrupt", "options", "named"),
    [
        (missing_folder, (), ("there is no such folder",)),
        (lambda data: None, ("--version", "v1.0-trainval"), ("v1.0-trainval", "choose one of v1.0-mini")),
        (missing_file, (), ("samples/CAM_BACK/", "there is no such file", "--missing-sensors allow")),
        (truncated_lidar, (), ("samples/LIDAR_TOP/", "no whole number of points", "--missing-sensors allow")),
        (missing_earlier_sweep, (), ("sweeps/LIDAR_TOP/", "there is no such file")),
        (no_lidar_points, (), ("samples/LIDAR_TOP/", "finite")),
        (unreadable_jpeg, (), ("samples/CAM_FRONT/", "neither a JPEG nor a PNG")),
        (cut_jpeg, (), ("samples/CAM_FRONT/", "the end of the picture is missing")),
        (dangling_token, (), ("sample_data.json", "ego_pose_token", "ego_pose.json", "nowhere")),
        (broken_table, (), ("ego_pose.json", "line ", "column ")),
    ],
)
def test_refused_in_one_sentence(
    corrupt: Corruption,
    options: tuple[str, ...],
    named: tuple[str, ...],
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corrupt(data)
    assert train(data, *options) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("bevel: ")] == said[-1:]
    assert "Traceback" not in "\n".join(said)
    for words in named:
        assert words in said[-1]
    assert not (data.parent / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("corrupt", "channel", "reason"),
    [
        (missing_file, "CAM_BACK", "missing_file"),
        (truncated_lidar, "LIDAR_TOP", "truncated"),
        (missing_earlier_sweep, "LIDAR_TOP", "missing_file"),
        (unreadable_jpeg, "CAM_FRONT", "not_an_image"),
        (no_lidar_points, "LIDAR_TOP", "no_finite_points"),
    ],
)
def test_tolerated_when_told_and_counted(
    corrupt: Corruption, channel: str, reason: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt(data)
    # The batch has the first two of the three keyframes; three steps see them all.
    write_config(data.parent / "config.json", small_config(3))
    assert train(data, "--missing-sensors", "allow") == ExitCode.FINE
    summary = capsys.readouterr().out
    assert any(line.split()[:3:2] == [channel, reason] for line in summary.splitlines()), summary
    assert (data.parent / "run" / "weights.safetensors").exists()


def test_strict_tells_by_its_exit_code_that_something_was_missing(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing_file(data)
    write_config(data.parent / "config.json", small_config(3))
    assert train(data, "--missing-sensors", "allow", "--strict") == ExitCode.DEGRADED
    assert "absent from a frame 1 times, and there with less than was recorded 0 times" in capsys.readouterr().err


def test_sensors_that_the_detector_has_no_branch_for_need_not_be_there(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing_file(data)
    keyframe(data, "RADAR_FRONT").write_bytes(b"")
    config = small_config(3)
    write_config(
        data.parent / "config.json", replace(config, detector=replace(config.detector, camera=None, radar=None))
    )
    assert train(data, "--strict") == ExitCode.FINE
    assert "Missing sensors: none." in capsys.readouterr().out
    saved = read_config(data.parent / "run" / "config.json").sample
    assert saved.channels == ("LIDAR_TOP",)


def test_a_validation_split_that_cannot_be_evaluated_is_refused_before_training(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, named in (("mini_val", "no scene of the split 'mini_val' is here"), ("val", "another version")):
        assert train(data, "--val-split", split) == ExitCode.INPUT_REFUSED
        assert named in capsys.readouterr().err.splitlines()[-1]
    write_table(data, "sample_annotation", [])
    assert train(data, "--val-split", "all") == ExitCode.INPUT_REFUSED
    assert "nothing to evaluate against" in capsys.readouterr().err.splitlines()[-1]
    assert not (data.parent / "run").exists()


def test_a_frame_counts_once_however_many_sweeps_it_lost() -> None:
    lost = SensorFault("LIDAR_TOP", FaultReason.MISSING_FILE, "sweeps/a: there is no such file")
    absent = SensorFault("LIDAR_TOP", FaultReason.MISSING_FILE, "samples/b: there is no such file")
    missing = MissingSensors()
    missing.add("first", (), [lost] * 9)
    missing.add("second", [absent], ())
    missing.add("third", (), [lost])
    missing.add("third", (), [lost])
    assert missing.counts == {
        ("LIDAR_TOP", "impaired", "missing_file"): 2,
        ("LIDAR_TOP", "absent", "missing_file"): 1,
    }
    assert missing.broken_count == 3
    rows = [line.split(maxsplit=4) for line in missing.table().splitlines()[2:]]
    assert rows == [
        ["LIDAR_TOP", "impaired", "missing_file", "2", lost.detail],
        ["LIDAR_TOP", "absent", "missing_file", "1", absent.detail],
    ]


def test_harmless_oddities_are_no_fault(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A radar that sees nothing, and a few points that are no numbers: the sensors stay, the points are counted."""
    write_radar(keyframe(data, "RADAR_FRONT"), np.zeros((0, 18)))
    lidar = keyframe(data, "LIDAR_TOP")
    points = np.fromfile(lidar, dtype=np.float32).reshape(-1, 5)
    points[0, 1] = np.nan
    points.tofile(lidar)
    write_config(data.parent / "config.json", small_config(3))
    assert train(data, "--strict") == ExitCode.FINE
    summary = capsys.readouterr().out
    assert "nonfinite_points" in summary
    assert "field y" in summary
    assert "RADAR_FRONT" not in summary
