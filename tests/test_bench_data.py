"""The benchmark of tables and its command: the tables are whole, the figures are of them, whatever the times are."""

import json
from pathlib import Path

import pytest

from datasets.nuscenes.check.findings import Findings
from datasets.nuscenes.check.raw_tables import read_raw_tables
from datasets.nuscenes.check.table_rules import check_tables
from tools.__main__ import main
from tools.benchmarks.index import bench_index
from tools.benchmarks.nuscenes_tables import TablesSize, write_tables
from tools.exit_codes import ExitCode

VERSION = "v1.0-trainval"
SIZE = TablesSize(scenes=2, keyframes=3)


def test_the_generated_tables_are_whole_and_the_same_again(tmp_path: Path) -> None:
    counts = write_tables(tmp_path / "a", VERSION, SIZE)
    assert write_tables(tmp_path / "b", VERSION, SIZE) == counts
    tables = {path.name: path.read_bytes() for path in (tmp_path / "a" / VERSION).iterdir()}
    assert tables == {path.name: path.read_bytes() for path in (tmp_path / "b" / VERSION).iterdir()}
    assert len(tables) == 13
    rows = {name: len(json.loads(content)) for name, content in tables.items()}
    assert rows["scene.json"] == 2
    assert rows["sample.json"] == counts.samples == 6
    assert rows["sample_data.json"] == rows["ego_pose.json"] == counts.sample_data > 12 * 6
    assert rows["sample_annotation.json"] == counts.annotations > 0
    findings = Findings()
    check_tables(read_raw_tables(tmp_path / "a", VERSION, findings, lambda step: None), findings)
    assert not findings.kept


def test_the_figures_are_of_the_tables(tmp_path: Path) -> None:
    figures = bench_index(tmp_path, SIZE, devkit=False)
    assert not list(tmp_path.iterdir())
    assert figures.records == write_tables(tmp_path / "again", VERSION, SIZE)
    assert figures.table_bytes == sum(path.stat().st_size for path in (tmp_path / "again" / VERSION).iterdir())
    assert figures.index_bytes > 100 * figures.records.sample_data
    costs = (figures.building, figures.opening, figures.scanning, figures.checking)
    assert all(cost is not None and cost.peak_mib > 0 for cost in costs)
    assert (figures.devkit, figures.opening_ratio) == (None, None)
    lines = figures.lines()
    assert f"{figures.records.sample_data:,} sensor records" in lines[0]
    assert not any("devkit" in line for line in lines)


def test_the_command_refuses_what_it_cannot_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--scenes", "0"]) == ExitCode.INPUT_REFUSED
    assert "--scenes must be 1 or more" in capsys.readouterr().err
    assert main(["bench", "data", "--scratch", str(tmp_path / "nowhere")]) == ExitCode.INPUT_REFUSED
    assert "--scratch" in capsys.readouterr().err
