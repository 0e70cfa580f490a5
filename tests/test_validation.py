"""Validation on the way: figures in the log, the best weights kept, an end where nothing gets better."""

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from tests.forked_processes import run_in_processes
from tests.small_run import small_config
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train, training_config
from tools.training.in_folder import resume_command
from tools.training.run_folder import RunFolder
from tools.training.step import StepResult
from tools.training.trained_network import TrainedNetwork
from tools.training.validation import rows_of_samples, samples_of_rows

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
def test_processes_score_the_weights_that_are_saved(arguments: Arguments, tmp_path: Path) -> None:
    """Each process has batch norm statistics of its own samples; those of the first one are saved."""
    config = validating(1, 1)
    config = replace(config, training=replace(config.training, batch_size=1))
    given, step = replace(arguments(config, "shared"), val_split="all"), TrainedNetwork.step

    def step_on_other_pictures(self: TrainedNetwork, *given: Any, **options: Any) -> StepResult:
        result = step(self, *given, **options)
        for name, buffer in self.average.named_buffers():
            if name.endswith("running_mean"):
                buffer += 1.0
        return result

    def work() -> None:
        if os.environ["RANK"] == "1":  # all pictures of the fixture are alike
            TrainedNetwork.step = step_on_other_pictures  # type: ignore[method-assign]
        train(given)

    assert run_in_processes(2, work) == [0, 0]
    # At the end the first process alone evaluates the best weights.
    run = tmp_path / "shared"
    together, alone = (
        json.loads((run / folder / "results.json").read_text())["results"]
        for folder in ("validation", "evaluation-all")
    )
    assert together.keys() == alone.keys()
    assert sum(map(len, alone.values())) > 0
    for token, boxes in alone.items():
        # Scores in falling order: boxes of one score may change places.
        assert [box["detection_score"] for box in together[token]] == pytest.approx(
            [box["detection_score"] for box in boxes], rel=1e-5
        )
    summary = json.loads((run / "evaluation-all" / "metrics_summary.json").read_text())
    assert rows(run)[0]["val/NDS"] == pytest.approx(summary["nd_score"], rel=1e-6)
    assert rows(run)[0]["val/mATE"] == pytest.approx(summary["tp_errors"]["trans_err"], rel=1e-6)


def test_boxes_of_all_processes_come_back_by_sample() -> None:
    tokens = ("a", "b", "none", "c")
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> Boxes3D:
        wide = torch.rand(3, count, 3, generator=generator, dtype=torch.float64)
        whole = torch.randint(9, (2, count), generator=generator)
        return Boxes3D(wide[0], wide[1], wide[2, :, 0], wide[2, :, 1:], whole[0], wide[0, :, 0], whole[1])

    found = {"c": boxes(3), "a": boxes(700), "b": boxes(2), "none": boxes(0)}
    rows = rows_of_samples(found, tokens)
    assert rows.shape == (705, 13)
    # As of two processes, the second of which has the first sample; and of samples none of which has a box.
    back = samples_of_rows(torch.cat([rows[3:], rows[:3]]), tokens)
    assert tuple(back) == tokens
    for token in tokens:
        for field in fields(Boxes3D):
            assert getattr(back[token], field.name).equal(getattr(found[token], field.name)), (token, field.name)
    assert [len(one) for one in samples_of_rows(rows_of_samples({}, tokens), tokens).values()] == [0] * 4


def test_without_a_split_validation_is_refused(arguments: Arguments) -> None:
    with pytest.raises(InputRefused, match="name it with --val-split"):
        train(replace(arguments(validating(1, 1), "run"), val_split=None))
    # The command line asks for what the config does not.
    given = replace(arguments(small_config(1), "run"), val_split=None, validate_every=3)
    assert training_config(given).training.validate_every == 3
    with pytest.raises(InputRefused, match="name it with --val-split"):
        train(given)
    with pytest.raises(InputRefused, match="On the command line: validate_every must be at least 1, not 0"):
        training_config(replace(given, validate_every=0))
    assert "--val-split mini_val --validate-every 3 " in resume_command(
        "train", replace(given, val_split="mini_val"), RunFolder(Path("run"))
    )
    with pytest.raises(ValueError, match="set validate_every"):
        replace(small_config(1).training, patience=2)
