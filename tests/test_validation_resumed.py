"""Validation and the run's end: stopped at any instant, each step is validated once and the best weights are known.

What a validation finds is scripted here, by the step; that its figures are right is tests/test_validation.py's.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datasets.faults import InputRefused
from perception.detector import Detector
from tests.small_run import small_config
from tests.test_training_kills import rows, survives
from tools.exit_codes import Interrupted
from tools.run_config import write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint_files import checkpoints, sha256_of
from tools.training.run_folder import RunFolder
from tools.training.trained_network import TrainedNetwork
from tools.training.validation import Validated, Validation

LAST = "checkpoints/step_00000006"
SCORES = {2: 0.1, 4: 0.3, 6: 0.2}  # the NDS after so many steps


@dataclass
class Script:
    """What validations find; `dies_in`: the one that is never over."""

    scores: dict[int, float]
    dies_in: int | None = None

    def measure(self, validation: Validation, detector: Detector) -> Validated:
        run = RunFolder(validation._folder.parent)
        step = len(rows(run.path))
        with (run.path / "validated").open("a") as file:
            file.write(f"{step}\n")
        if step == self.dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return Validated({"val/NDS": self.scores[step], "val/mAP": 0.5}, torch.zeros(4, 4, 3, dtype=torch.uint8))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script(dict(SCORES))
    monkeypatch.setattr(Validation, "measure", lambda validation, detector: script.measure(validation, detector))
    monkeypatch.setattr("tools.evaluate.evaluate", lambda arguments: None)
    return script


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> Callable[[str], TrainArguments]:
    def make(name: str) -> TrainArguments:
        config = small_config(6, checkpoint_interval=3)
        write_config(tmp_path / "config.json", replace(config, training=replace(config.training, batch_size=1)))
        given = TrainArguments(str(tmp_path / "config.json"), nuscenes_root, output=tmp_path / name, device="cpu")
        return replace(given, threads=1, val_split="mini_val", validate_every=2)

    return make


def validated(run: Path) -> list[int]:
    return [int(line) for line in (run / "validated").read_text().splitlines()]


def assert_same_end(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    assert [int(row["step"]) for row in rows(run)] == list(range(6))
    assert {int(row["step"]) + 1: row["val/NDS"] for row in rows(run) if "val/NDS" in row} == SCORES
    for file in ("best.safetensors", "weights.safetensors", f"{LAST}/raw_weights.safetensors"):
        expected, found = load_file(whole / file), load_file(run / file)
        assert all(tensor.equal(found[name]) for name, tensor in expected.items()), file
    expected, found = state_of(whole), state_of(run)
    # Tensors are the same bits, their file is not: safetensors writes the entries of its header in any order.
    assert found["validations"]["best"].pop("sha256") == sha256_of(run / "best.safetensors")
    expected["validations"]["best"].pop("sha256")
    assert found == expected


def state_of(run: Path, checkpoint: str = LAST) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run / checkpoint / "state.json").read_text())
    return state


def dies_at_rename(name: str, time: int) -> None:
    """Let this process die of SIGKILL just before a file or folder gets this name for so manieth time."""
    times = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal times
        if event == "os.rename" and str(arguments[1]).endswith(name):
            times += 1
            if times == time:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


# What gets its name when the process dies, for which time; and the checkpoint that training goes on from.
KILLS = {
    "in the checkpoint before a validation": ("step_00000004", 1, 3),
    "before the better weights have their place": ("best.safetensors", 2, 4),
    # (It is written once when the training starts.)
    "before its figures are in the log": ("metrics.jsonl", 3, 4),
    "before the next checkpoint": ("step_00000006", 1, 4),
    "while that makes room for the same step, validated": ("step_00000006", 2, 6),
}


def test_killed_around_a_validation_it_ends_in_the_same_bits(
    arguments: Callable[[str], TrainArguments], script: Script
) -> None:
    whole = train(arguments("whole"))
    assert validated(whole) == [2, 4, 6]
    assert (whole / "best.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    for when, (name, time, resumed_from) in KILLS.items():
        given = arguments(when)

        def work(given: TrainArguments = given, name: str = name, time: int = time) -> None:
            dies_at_rename(name, time)
            train(given)

        assert not survives(work), when
        run = train(replace(given, resume=True))
        assert f"from step {resumed_from}\n" in (run / "train.log").read_text(), when
        assert_same_end(run, whole)


def test_killed_in_a_validation_it_goes_on_with_that_and_trains_no_step_again(
    arguments: Callable[[str], TrainArguments], script: Script
) -> None:
    whole, given = train(arguments("whole")), arguments("run")
    script.dies_in = 4
    assert not survives(lambda: train(given))
    script.dies_in = None
    run = train(replace(given, resume=True))
    assert validated(run) == [2, 4, 4, 6]
    assert "from step 4\n" in (run / "train.log").read_text()
    assert_same_end(run, whole)


def test_an_interrupted_training_validates_when_it_is_resumed(
    arguments: Callable[[str], TrainArguments], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, given, step = train(arguments("whole")), arguments("run"), TrainedNetwork.step
    for stopped_after in (2, 6):  # the last step is not the end: it has not been validated
        with monkeypatch.context() as patch:

            def stop(self: TrainedNetwork, *a: object, updates: int, last: int = stopped_after, **b: object) -> object:
                if updates + 1 == last:
                    os.kill(os.getpid(), signal.SIGTERM)
                return step(self, *a, updates=updates, **b)  # type: ignore[arg-type]

            patch.setattr(TrainedNetwork, "step", stop)
            with pytest.raises(Interrupted, match=f"after step {stopped_after} of 6, checkpoint saved"):
                train(replace(given, resume=stopped_after > 2))
        assert checkpoints(RunFolder(whole.parent / "run").checkpoints)[-1].name == f"step_0000000{stopped_after}"
    run = train(replace(given, resume=True))
    assert validated(run) == [2, 4, 6]
    assert_same_end(run, whole)
    # Figures of two splits are not compared.
    with pytest.raises(InputRefused, match="validated on other samples than this --val-split has"):
        train(replace(given, resume=True, val_split="mini_train"))


def test_best_weights_that_no_checkpoint_knows_are_not_believed(
    arguments: Callable[[str], TrainArguments], script: Script
) -> None:
    """As on a machine where the validation that is done again finds less than it did before."""
    given = arguments("run")

    def work() -> None:
        dies_at_rename("step_00000006", 1)
        train(given)

    assert not survives(work)
    run = RunFolder(given.output or Path())
    # The checkpoint knows those of step 2; in their place are those of step 4.
    before = state_of(run.path, "checkpoints/step_00000004")["validations"]["best"]
    assert (before["step"], before["nds"]) == (2, 0.1)
    assert sha256_of(run.best) != before["sha256"]
    script.scores |= {4: 0.05, 6: 0.01}
    train(replace(given, resume=True))
    assert "does not hold the best weights, of step 2 with NDS 0.1000, any more" in run.log.read_text()
    assert state_of(run.path)["validations"]["best"] == {"nds": 0.05, "step": 4, "sha256": sha256_of(run.best)}
    assert run.weights.read_bytes() == run.best.read_bytes()
