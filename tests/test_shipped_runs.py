"""The checkpoint that comes with Bevel: it loads, it sees, and nothing is written into its folder."""

import json
from pathlib import Path

import pytest

from tools.__main__ import main
from tools.exit_codes import ExitCode
from tools.presets import tiny
from tools.shipped_runs import folder_of_outputs, run_or_shipped, shipped_names
from tools.training.run_folder import load_detector

pytestmark = pytest.mark.xdist_group("synthetic world")


def test_the_shipped_checkpoint_is_the_preset_trained() -> None:
    assert shipped_names() == ("tiny",)
    config, detector = load_detector(run_or_shipped(Path("tiny")))
    assert config.detector == tiny().detector
    assert config.sample == tiny().sample
    assert sum(parameter.numel() for parameter in detector.parameters()) < 1_000_000


def test_a_run_of_that_name_goes_first_and_another_folder_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = run_or_shipped(Path("tiny"))
    assert shipped.is_absolute()
    assert folder_of_outputs(shipped) == Path("runs/shipped-tiny")
    Path("tiny").mkdir()
    (Path("tiny") / "map.png").touch()
    assert run_or_shipped(Path("tiny")) == shipped
    assert capsys.readouterr().err == "the folder tiny holds no run: taking the checkpoint that comes with Bevel\n"
    (Path("tiny") / "config.json").touch()
    assert run_or_shipped(Path("tiny")) == Path("tiny")
    assert capsys.readouterr().err == ""
    assert folder_of_outputs(Path("tiny")) == Path("tiny")
    assert run_or_shipped(Path("huge")) == Path("huge")


def test_it_finds_objects_of_a_world_that_it_has_never_seen(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = run_or_shipped(Path("tiny"))
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    words = ["evaluate", "tiny", "--data-root", str(synthetic_root), "--device", "cpu", "--bootstrap", "0"]
    assert main(words) == ExitCode.FINE
    output = Path("runs/shipped-tiny/evaluation-mini_val")
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    summary = json.loads((output / "metrics_summary.json").read_text())
    # Three keyframes of pictures 160 pixels wide: little to see, and far more than nothing.
    assert summary["label_aps"]["pedestrian"]["2.0"] > 0.2
    assert summary["label_aps"]["car"]["2.0"] > 0.2
    # What a linear layer reads in its branches goes to the same place.
    words = ["probe", "tiny", "--data-root", str(synthetic_root), "--samples", "1", "--device", "cpu"]
    assert main(words) == ExitCode.FINE
    output = Path("runs/shipped-tiny/probe-mini_val.json")
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    (row,) = json.loads(output.read_text())
    assert row["before"] != row["after"]
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before
