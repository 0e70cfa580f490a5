"""`bevel bench data`: its tables are whole, its figures are of what it was given, whatever the times are."""

import json
from pathlib import Path

import pytest

from datasets.nuscenes.check.findings import Findings
from datasets.nuscenes.check.raw_tables import read_raw_tables
from datasets.nuscenes.check.table_rules import check_tables
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.simulate import simulate
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
    figures = bench_index(tmp_path, SIZE, devkit=False, openings=1)
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyframe with ten sweeps behind it, its pictures larger than a sample's, as those that the command writes."""
    root = tmp_path_factory.mktemp("bench") / "world"
    simulate(root, WorldConfig(scenes=1, keyframes=2, image_width=800, seed=7))
    return root


def test_the_command_measures_everything(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    words = ["bench", "data", "--scenes", "1", "--rounds", "1", "--scratch", str(tmp_path), "--output", str(output)]
    assert main([*words, "--world", str(world)]) == ExitCode.FINE
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(output)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    figures = json.loads(output.read_text())
    index, samples = figures["index"], figures["samples"]
    assert figures["machine"]["cores"] >= 1
    assert f"{index['records']['annotations']:,} annotations" in said
    assert index["devkit"]["wall"] > 0
    assert "times faster than by the devkit" in said
    others = [{way["name"] for way in comparison["others"]} for comparison in samples["comparisons"]]
    assert others == [
        {"nuscenes-devkit"}, {"nuscenes-devkit"}, {"PIL, bicubic", "cv2 at full size, linear"}, {"spconv PointToVoxel"},
    ]  # fmt: skip
    for comparison in samples["comparisons"]:
        assert comparison["agreement"]["within"], comparison
        assert comparison["bevel"]["milliseconds"] > 0
        assert comparison["agreement"]["words"] in said
    assert samples["threads"] == 1
    base = samples["base_sample"]
    assert base["sensors"] == [6, 10, 5]
    assert base["objects"] > 10
    assert base["pasted"] > 0
    assert set(base["milliseconds"]) == {"read", "read and made", "all"}
    assert f"{base['pasted']:.1f} of {base['objects']} objects pasted" in said


def test_the_command_fails_where_results_do_not_agree(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures of 160 pixels are enlarged, where bicubic and linear are two things; all else agrees."""
    output = tmp_path / "figures.json"
    words = ["bench", "data", "--scenes", "1", "--rounds", "1", "--no-devkit", "--no-check"]
    words += ["--scratch", str(tmp_path), "--world", str(synthetic_root), "--output", str(output)]
    assert main(words) == ExitCode.FAILED
    said = capsys.readouterr()
    assert "OUT OF BOUNDS" in said.out
    assert "not those of the other ways: 6 JPEGs" in said.err
    comparisons = json.loads(output.read_text())["samples"]["comparisons"]
    assert [comparison["agreement"]["within"] for comparison in comparisons] == [True, True, False, True]


def test_the_command_refuses_what_it_cannot_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--scenes", "0"]) == ExitCode.INPUT_REFUSED
    assert "--scenes must be 1 or more" in capsys.readouterr().err
    assert main(["bench", "data", "--rounds", "0"]) == ExitCode.INPUT_REFUSED
    assert "--rounds must be 1 or more" in capsys.readouterr().err
    assert main(["bench", "data", "--scratch", str(tmp_path / "nowhere")]) == ExitCode.INPUT_REFUSED
    assert "--scratch" in capsys.readouterr().err
