"""The benchmark of training: its figures add up, and are of a training that takes place."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.faults import InputRefused
from perception.tasks.segmentation import SegmentationConfig
from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config
from tools.__main__ import main
from tools.benchmarks.training import TrainingFigures, measure_training
from tools.exit_codes import ExitCode
from tools.run_config import RunConfig, write_config


def test_the_figures_add_up() -> None:
    figures = TrainingFigures(
        samples=20,
        batch_size=2,
        workers=3,
        threads=2,
        device="cpu",
        wall=10.0,
        waited=2.5,
        waiting_cpu=1.0,
        step_cpu=14.0,
        worker_cpu=5.0,
        parent_peak_mib=1500.0,
        worker_peak_mib=700.0,
    )
    assert figures.samples_per_second == 2.0
    assert figures.waiting_share == 0.25
    assert figures.loading_cpu_per_sample == pytest.approx(0.3)
    assert figures.model_cpu_per_sample == pytest.approx(0.7)
    assert figures.lines()[2].endswith("25.0% of the time")
    assert "largest loader process 700" in figures.lines()[-1]
    assert replace(figures, device_peak_mib=2048.0).lines()[-1].endswith("tensors on the GPU 2,048")
    on_a_card = replace(figures, operations=6e13, matrix_rate=6e14)
    assert on_a_card.matrix_share == pytest.approx(0.01)
    assert on_a_card.lines()[-1].endswith(
        "3,000 GFLOP a sample, 6.0 TFLOP a second: 1.0% of the 600 that large matrix products reach here"
    )
    assert "loader process" not in replace(figures, worker_peak_mib=None).lines()[-1]


def with_map_to_learn() -> RunConfig:
    config = small_config(1)
    return replace(config, detector=replace(config.detector, segmentation=SegmentationConfig(channels=8, layers=1)))


def test_the_command_trains_and_writes_its_figures(
    nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path / "config.json", with_map_to_learn())
    output = tmp_path / "figures.json"
    words = ["bench", "train", str(tmp_path / "config.json"), "--world", str(nuscenes_root), "--steps", "3"]
    words += ["--batch-size", "3", "--precision", "bf16"]
    assert main([*words, "--workers", "2", "--device", "cpu", "--output", str(output)]) == ExitCode.FINE
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    figures = json.loads(output.read_text())["figures"]
    assert (figures["samples"], figures["batch_size"], figures["workers"]) == (9, 3, 2)
    assert (figures["precision"], figures["matrix_share"]) == ("bf16", None)
    assert 0 <= figures["waited"] < figures["wall"]
    assert figures["step_cpu"] > 0
    # Both are processes with torch in them.
    assert min(figures["parent_peak_mib"], figures["worker_peak_mib"]) > 50


def test_a_map_that_is_to_be_learnt_and_is_not_there_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "v1.0-mini" / "map.json").unlink()
    with pytest.raises(InputRefused, match=r"map\.json is missing, and map segmentation needs it"):
        measure_training(with_map_to_learn(), tmp_path, 1, "cpu", 1)


def test_what_cannot_be_measured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--steps", "0"],
        ["--batch-size", "0"],
        ["--workers", "-1"],
        ["huge"],
        ["--world", str(tmp_path / "nowhere")],
    ):
        assert main(["bench", "train", *words]) == ExitCode.INPUT_REFUSED
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
