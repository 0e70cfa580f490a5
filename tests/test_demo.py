"""The command `demo`, end to end in a small world with a network that trains in seconds."""

import itertools
import json
import os
import shutil
import signal
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.version import bevel_version
from tests.small_run import small_config
from tests.small_world import SMALL_WORLD
from tools.demo import prepare_world, run_demo
from tools.exit_codes import Interrupted
from tools.run_config import config_to_json
from tools.simulate import SimulateArguments

# The world takes long to make: one test process makes it for all that read it.
pytestmark = pytest.mark.xdist_group("synthetic world")


def place_world(synthetic_root: Path, output: Path) -> None:
    """Put the shared world where the demo would have written it."""
    shutil.copytree(synthetic_root, output / "world")
    facts = {"bevel": bevel_version(), "world": asdict(SMALL_WORLD)}
    (output / "world.json").write_text(json.dumps(facts, indent=2))


@pytest.mark.slow
def test_demo_goes_from_world_to_page(synthetic_root: Path, tmp_path: Path) -> None:
    output, config = tmp_path / "demo", tmp_path / "small.json"
    config.write_text(config_to_json(small_config(1)))
    place_world(synthetic_root, output)
    page = run_demo(output, 0.001, SMALL_WORLD, str(config))
    root = ET.fromstring(page.read_text())
    assert page == output / "report.html"
    assert len(list(root.iter("img"))) == len(list((output / "pictures").iterdir())) == SMALL_WORLD.keyframes
    assert len(list(root.iter("svg"))) == 2
    assert (output / "evaluation" / "metrics_summary.json").is_file()
    assert (output / "replay" / "scene-0103.mcap").is_file()
    assert (output / "run" / "weights.safetensors").is_file()
    commands = [element.text or "" for element in root.iter("pre")]
    assert any("bevel train" in text and "--steps 20" in text for text in commands)
    assert any("--seed 7 --conditions mixed\n" in text for text in commands)
    assert any("--split mini_val --frames 5 --min-score 0.2 " in text for text in commands)
    # Once more, from the weights of that run: the page has its figures from before.
    start, again = output / "run", tmp_path / "again"
    place_world(synthetic_root, again)
    page = run_demo(again, 0.001, SMALL_WORLD, str(config), start)
    assert f"NDS of {start} before" in page.read_text()
    assert f"--init {start}" in page.read_text()
    assert f"from {start / 'weights.safetensors'}" in (again / "run" / "train.log").read_text()
    # What was begun from other weights is not gone on with.
    run_demo(again, 0.001, SMALL_WORLD, str(config))
    assert f"from {start / 'weights.safetensors'}" not in (again / "run" / "train.log").read_text()


def press_ctrl_c_at(frame: int, patch: pytest.MonkeyPatch) -> None:
    """Press it while so many frames have been read."""
    read, counter = NuScenesReader.frame, itertools.count(1)

    def counted(reader: NuScenesReader, token: str) -> Any:
        if next(counter) == frame:
            os.kill(os.getpid(), signal.SIGINT)
        return read(reader, token)

    patch.setattr(NuScenesReader, "frame", counted)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_the_same_command_goes_on_wherever_it_was_stopped(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, config = tmp_path / "demo", tmp_path / "small.json"
    config.write_text(config_to_json(small_config(1)))
    place_world(synthetic_root, output)
    weights = output / "run" / "weights.safetensors"

    def stopped(frame: int, part: str) -> None:
        with monkeypatch.context() as patch:
            press_ctrl_c_at(frame, patch)
            with pytest.raises(Interrupted, match=f"Stopped in part {part}; the same command goes on") as interruption:
                run_demo(output, 0.001, SMALL_WORLD, str(config))
        assert "--resume" not in str(interruption.value)

    stopped(1, "2, training")
    assert sorted(path.name for path in output.iterdir()) == ["world", "world.json"]  # steps that are timed are nothing
    # Ten steps of two samples were timed; the fifth step of the training has not begun while its samples are read.
    stopped(20 + 9, "2, training")
    assert [path.name for path in (output / "run" / "checkpoints").iterdir()] == ["step_00000004"]
    capsys.readouterr()
    stopped(2 * 16 + 1, "3, metrics on scenes that were not trained on")
    assert "was not finished: going on with it" in capsys.readouterr().out
    assert "from step 4" in (output / "run" / "train.log").read_text()
    trained = weights.stat().st_mtime_ns
    run_demo(output, 0.001, SMALL_WORLD, str(config))
    assert "run is there already and is used again" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == trained
    # A longer training is another one.
    run_demo(output, 0.002, SMALL_WORLD, str(config))
    assert weights.stat().st_mtime_ns > trained


def test_world_of_the_same_settings_is_used_again(synthetic_root: Path, tmp_path: Path) -> None:
    place_world(synthetic_root, tmp_path)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}
    assert prepare_world(tmp_path, SMALL_WORLD) == (tmp_path / "world", True)
    assert marks == {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}


def test_world_that_was_whole_when_the_demo_was_stopped_is_used_again(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_at_the_end(arguments: SimulateArguments) -> Path:
        shutil.copytree(synthetic_root, arguments.directory)
        raise Interrupted("stopped")

    monkeypatch.setattr("tools.demo.simulate", stopped_at_the_end)
    with pytest.raises(Interrupted):
        prepare_world(tmp_path, SMALL_WORLD)
    assert prepare_world(tmp_path, SMALL_WORLD) == (tmp_path / "world", True)


def test_folders_that_no_demo_wrote_are_left_alone(synthetic_root: Path, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "precious").write_text("mine")
    with pytest.raises(InputRefused, match="not an empty folder"):
        prepare_world(tmp_path, SMALL_WORLD)
    assert (tmp_path / "world" / "precious").read_text() == "mine"
    output = tmp_path / "demo"
    place_world(synthetic_root, output)
    config = tmp_path / "small.json"
    config.write_text(config_to_json(small_config(1)))
    (output / "run").mkdir()
    (output / "run" / "config.json").write_text("mine")
    for _ in range(2):  # nor may the first demo leave anything that makes the second one think it wrote the folder
        with pytest.raises(InputRefused, match="no demo wrote it"):
            run_demo(output, 0.001, SMALL_WORLD, str(config))
        assert (output / "run" / "config.json").read_text() == "mine"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_must_be_positive(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="--minutes"):
        run_demo(tmp_path / "demo", minutes, SMALL_WORLD, "tiny")
