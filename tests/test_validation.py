"""Validation on the way: figures in the log, the best weights kept, an end where nothing gets better."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.faults import InputRefused
from tests.forked_processes import run_in_processes
from tests.small_run import small_config
from tests.test_training_processes import without_batch_statistics
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.run_folder import RunFolder

Arguments = Callable[[RunConfig, str], TrainArguments]


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> Arguments:
    def make(config: RunConfig, name: str) -> TrainArguments:
        write_config(tmp_path / f"{name}.json", config)
        given = TrainArguments(str(tmp_path / f"{name}.json"), nuscenes_root, output=tmp_path / name, device="cpu")
        return replace(given, threads=1, val_split="mini_val")

    return make


def validating(steps: int, every: int, patience: int | None = None, learning_rate: float = 5e-3) -> RunConfig:
    config = small_config(steps, learning_rate=learning_rate, checkpoint_interval=2)
    return replace(config, training=replace(config.training, validate_every=every, patience=patience))


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_figures_are_those_of_evaluate_and_the_best_weights_are_the_result(
    arguments: Arguments,
) -> None:
    run = train(arguments(validating(5, 2), "run"))
    validated = {int(row["step"]) + 1: row for row in rows(run) if "val/NDS" in row}
    assert list(validated) == [2, 4, 5]
    best = max(validated, key=lambda step: (validated[step]["val/NDS"], -step))
    folder = RunFolder(run)
    # bevel evaluate, of the weights that are the result, finds what the log says of the best step.
    summary = json.loads((run / "evaluation-mini_val" / "metrics_summary.json").read_text())
    assert summary["nd_score"] == validated[best]["val/NDS"]
    assert summary["mean_ap"] == validated[best]["val/mAP"]
    assert summary["tp_errors"]["trans_err"] == validated[best]["val/mATE"]
    assert folder.weights.read_bytes() == folder.best.read_bytes()
    page = folder.report.read_text()
    assert "NDS and mAP of the averaged weights" in page
    assert "data:image/jpeg" in page
    assert (folder.validation / "detections.png").is_file()
    assert f"step 5: NDS {validated[5]['val/NDS']:.4f}" in folder.log.read_text()


def test_patience_ends_the_training_and_a_resumed_run_knows_the_best(arguments: Arguments) -> None:
    # With such a rate the weights do not move: the first validation stays the best.
    given = arguments(validating(50, 1, patience=2, learning_rate=1e-30), "run")
    run = train(given)
    assert [int(row["step"]) for row in rows(run)] == [0, 1, 2]
    said = (run / "train.log").read_text()
    assert "Stopping after step 3: no better NDS than" in said
    assert RunFolder(run).weights.read_bytes() == RunFolder(run).best.read_bytes()
    before = rows(run)
    assert train(replace(given, resume=True)) == run  # which has ended
    assert rows(run) == before


@pytest.mark.slow
def test_processes_share_the_scenes_and_find_the_same(arguments: Arguments, tmp_path: Path) -> None:
    config = without_batch_statistics(validating(1, 1, learning_rate=1e-30))  # weights as they were drawn
    config = replace(config, training=replace(config.training, batch_size=1))
    alone = replace(arguments(config, "alone"), val_split="all")
    shared = replace(arguments(config, "shared"), val_split="all")
    one = train(alone)
    assert run_in_processes(2, lambda: train(shared)) == [0, 0]
    expected, found = rows(one)[0], rows(tmp_path / "shared")[0]
    names = [name for name in expected if name.startswith("val/")]
    assert len(names) >= 7
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-6)
    contents = [json.loads((run / "validation" / "results.json").read_text()) for run in (one, tmp_path / "shared")]
    assert contents[0]["results"].keys() == contents[1]["results"].keys()


def test_without_a_split_validation_is_refused(arguments: Arguments) -> None:
    with pytest.raises(InputRefused, match="name it with --val-split"):
        train(replace(arguments(validating(1, 1), "run"), val_split=None))
    with pytest.raises(ValueError, match="set validate_every"):
        replace(small_config(1).training, patience=2)
