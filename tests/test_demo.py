"""The command `demo`, end to end in a small world with a network that trains in seconds."""

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest

from datasets.faults import InputRefused
from datasets.version import bevel_version
from tests.small_run import small_config
from tests.small_world import SMALL_WORLD
from tools.demo import prepare_world, run_demo
from tools.run_config import config_to_json

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
    # Once more, from the weights of that run: the page has its figures from before.
    start, again = output / "run", tmp_path / "again"
    place_world(synthetic_root, again)
    page = run_demo(again, 0.001, SMALL_WORLD, str(config), start)
    assert f"NDS of {start} before" in page.read_text()
    assert f"--init {start}" in page.read_text()
    assert f"from {start / 'weights.safetensors'}" in (again / "run" / "train.log").read_text()
    # What was begun from other weights is not gone on with.
    (again / "run" / "weights.safetensors").unlink()
    run_demo(again, 0.001, SMALL_WORLD, str(config))
    assert f"from {start / 'weights.safetensors'}" not in (again / "run" / "train.log").read_text()


def test_world_of_the_same_settings_is_used_again(synthetic_root: Path, tmp_path: Path) -> None:
    place_world(synthetic_root, tmp_path)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}
    assert prepare_world(tmp_path, SMALL_WORLD) == (tmp_path / "world", True)
    assert marks == {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}


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
    with pytest.raises(InputRefused, match="holds a run already"):
        run_demo(output, 0.001, SMALL_WORLD, str(config))
    assert (output / "run" / "config.json").read_text() == "mine"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_must_be_positive(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="--minutes"):
        run_demo(tmp_path / "demo", minutes, SMALL_WORLD, "tiny")
