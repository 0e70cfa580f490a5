"""Several processes, and several batches for one step, train as one process with one large batch does."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datasets.faults import InputRefused
from datasets.samples.batch import Batch
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.sample import Sample
from perception.fusion.late import LateFusionConfig
from perception.heads.query_head import QueryHeadConfig
from perception.losses import Counts, Losses
from perception.tasks.depth import DepthTaskConfig
from tests.forked_processes import run_in_processes
from tests.small_run import small_config
from tools.__main__ import main
from tools.exit_codes import ExitCode
from tools.open_dataset import open_dataset
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint_files import checkpoints
from tools.training.network import network_of
from tools.training.order import BatchOrder, PlainOrder
from tools.training.processes import join_processes
from tools.training.sharding import own_rows, refuse_unshardable
from tools.training.step import LossOfBatch
from tools.training.trained_network import TrainedNetwork

STEPS = 3


def without_batch_statistics(config: RunConfig) -> RunConfig:
    """Batch norms of the camera backbone keep their statistics: those of a part of a batch are not those of all."""
    camera = config.detector.camera
    assert camera is not None
    frozen = replace(camera, backbone=replace(camera.backbone, frozen_norms=True))
    return replace(config, detector=replace(config.detector, camera=frozen))


def config_of(batch_size: int, accumulate: int) -> RunConfig:
    config = without_batch_statistics(small_config(STEPS))
    return replace(
        config, training=replace(config.training, batch_size=batch_size, accumulate=accumulate, reference_batch_size=4)
    )


HEADS: dict[str, Callable[[RunConfig], RunConfig]] = {
    "center head": lambda config: config,
    "center head, sgd": lambda config: replace(
        config, training=replace(config.training, optimizer="sgd", learning_rate=1e-3)
    ),
    "query heads of each sensor, depth": lambda config: replace(
        config,
        detector=replace(
            config.detector,
            fusion=LateFusionConfig(),
            head=QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16),
            depth=DepthTaskConfig(max_age=0.5),
        ),
        training=replace(config.training, optimizer="sgd", learning_rate=1e-3),
    ),
}


def run_of(root: Path, output: Path, config: RunConfig, processes: int = 1, **options: Any) -> Path:
    write_config(output.with_suffix(".json"), config)
    given = TrainArguments(str(output.with_suffix(".json")), root, output=output, device="cpu", threads=1, **options)
    if processes == 1:
        return train(given)
    assert run_in_processes(processes, lambda: train(given)) == [0] * processes
    return output


def numbers(run: Path, name: str) -> torch.Tensor:
    return torch.tensor([json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()])


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if "query" in kind else kind for kind in HEADS]
)
def test_processes_and_accumulation_give_the_run_of_the_large_batch(
    nuscenes_root: Path, tmp_path: Path, kind: str
) -> None:
    whole = run_of(nuscenes_root, tmp_path / "whole", HEADS[kind](config_of(4, 1)))
    parts = {
        "accumulated": run_of(nuscenes_root, tmp_path / "accumulated", HEADS[kind](config_of(1, 4))),
        "processes": run_of(nuscenes_root, tmp_path / "processes", HEADS[kind](config_of(1, 2)), processes=2),
    }
    if kind == "center head, sgd":
        config = HEADS[kind](config_of(1, 2))
        parts["shares"] = run_of(nuscenes_root, tmp_path / "shares", config, processes=2, shard=True)
    for name, run in parts.items():
        # Adam's first step is as large for what rounding leaves of a gradient as for the gradient: its third gradient
        # is of weights that differ where no gradient was, 2.6e-5 in norm; the losses do not show it.
        exact = ("loss", "learning_rate") if kind == "center head" else ("loss", "learning_rate", "gradient_norm")
        for column in exact:
            difference = (numbers(run, column) / numbers(whole, column) - 1).abs().max()
            assert difference < 1e-5, (name, column)
    if kind != "center head":
        for name in parts.keys() - {"accumulated"}:
            assert difference_of(weights_of(whole), weights_of(parts[name])) < 1e-6, name


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def difference_of(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"accumulate": 2}, 1e-5),
        pytest.param({"optimizer": "sgd", "checkpoint_activations": True}, 1e-5, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_shares_learn_what_whole_weights_do_where_sensors_are_missing(
    nuscenes_root: Path, tmp_path: Path, change: dict[str, Any], tolerance: float
) -> None:
    """Each process drops sensors of its own: what only one of them uses is learnt by both, what none does by none."""
    config = small_config(6, learning_rate=1e-3, modality_dropout=0.9)
    config = replace(config, training=replace(config.training, batch_size=1, weight_decay=0.1, **change))
    whole = run_of(nuscenes_root, tmp_path / "whole", config, processes=2)
    shares = run_of(nuscenes_root, tmp_path / "shares", config, processes=2, shard=True)
    for column in ("loss", "gradient_norm"):
        assert (numbers(shares, column) / numbers(whole, column) - 1).abs().max() < tolerance
    assert difference_of(weights_of(whole), weights_of(shares)) < tolerance / 10


CHECKPOINT_FILES = tuple(
    f"checkpoints/step_00000004/{name}.safetensors" for name in ("weights", "raw_weights", "optimizer")
)


def test_shares_are_validated_saved_and_resumed_as_whole_weights(nuscenes_root: Path, tmp_path: Path) -> None:
    config = small_config(4, checkpoint_interval=2)
    config = replace(config, training=replace(config.training, batch_size=1, validate_every=2))

    def run(name: str, **options: Any) -> Path:
        return run_of(nuscenes_root, tmp_path / name, config, processes=2, val_split="mini_val", **options)

    whole, shares = run("whole"), run("shares", shard=True)
    assert numbers(shares, "loss").allclose(numbers(whole, "loss"), rtol=1e-5)
    for file in ("weights.safetensors", "best.safetensors", *CHECKPOINT_FILES):
        assert difference_of(load_file(whole / file), load_file(shares / file)) < 1e-5, file
    kept = {file: load_file(shares / file) for file in ("weights.safetensors", *CHECKPOINT_FILES)}
    shutil.rmtree(shares / "checkpoints" / "step_00000004")
    (shares / "weights.safetensors").unlink()
    run("shares", shard=True, resume=True)
    assert all(difference_of(tensors, load_file(shares / file)) == 0.0 for file, tensors in kept.items())
    shutil.rmtree(shares / "checkpoints" / "step_00000004")
    run("shares", resume=True)
    assert all(difference_of(tensors, load_file(shares / file)) < 1e-5 for file, tensors in kept.items())


def test_each_of_two_processes_keeps_half_of_the_weights_and_their_average() -> None:
    config = config_of(1, 1)

    def work() -> None:
        with join_processes("cpu", 60.0, shard=True) as processes:
            network = network_of(config)
            whole = sum(parameter.numel() for parameter in network.parameters())
            average = TrainedNetwork(network, config, processes).average
            kept = [sum(own_rows(tensor).numel() for tensor in one.parameters()) for one in (network, average)]
        # Of three rows one process has two.
        os._exit(0 if all(0.4 < own / whole < 0.6 for own in kept) else 1)

    assert run_in_processes(2, work) == [0, 0]


def test_what_cannot_be_shared_out_is_refused_before_there_is_a_run(nuscenes_root: Path, tmp_path: Path) -> None:
    config = small_config(1)
    refused = {
        "muon needs whole": {"optimizer": "muon"},
        "fp16's scale": {"precision": "fp16"},
        "compiled": {"compile": True},
    }
    for said, change in refused.items():
        with pytest.raises(InputRefused, match=said):
            refuse_unshardable(replace(config.training, **change))
    write_config(tmp_path / "c.json", replace(config, training=replace(config.training, optimizer="muon")))
    assert run_in_processes(2, lambda: command(nuscenes_root, tmp_path, "--shard")) == [ExitCode.INPUT_REFUSED] * 2
    assert "muon needs whole matrices" in (tmp_path / "stderr 0").read_text()
    assert not (tmp_path / "run").exists()


def test_a_process_alone_has_nobody_to_share_with(nuscenes_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="this one is alone"):
        run_of(nuscenes_root, tmp_path / "run", small_config(1), shard=True)


@pytest.mark.parametrize("options", [(), ("--shard",)])
def test_steps_without_finite_numbers_are_skipped_in_all_processes(
    nuscenes_root: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    config = config_of(1, 2)
    write_config(tmp_path / "c.json", replace(config, training=replace(config.training, steps=50, learning_rate=1e30)))
    assert run_in_processes(2, lambda: command(nuscenes_root, tmp_path, *options)) == [ExitCode.DIVERGED] * 2
    (said,) = {line for line in (tmp_path / "stderr 1").read_text().splitlines() if "Training diverged" in line}
    assert "no finite loss or gradient in 3 steps in a row" in said
    (checkpoint,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint / "raw_weights.safetensors").values())


def test_the_samples_of_the_process_whose_loss_is_not_finite_are_named(
    nuscenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(50)
    write_config(
        tmp_path / "c.json", replace(config, training=replace(config.training, batch_size=1, max_nonfinite_steps=1))
    )
    tokens = open_dataset(nuscenes_root, None, "mini_train", config.sample).tokens
    ((bad,),) = BatchOrder(PlainOrder(len(tokens), 0), 1, first_step=0, last_step=1, process=1, processes=2)
    loss_of = LossOfBatch.forward

    def forward(model: LossOfBatch, batch: Batch, counts: Counts | None = None) -> Losses:
        losses = loss_of(model, batch, counts)
        return replace(losses, total=losses.total * (torch.nan if tokens[bad.sample] in batch.tokens else 1.0))

    monkeypatch.setattr(LossOfBatch, "forward", forward)
    assert run_in_processes(2, lambda: command(nuscenes_root, tmp_path)) == [ExitCode.DIVERGED] * 2
    named = f"samples {tokens[bad.sample]}"
    assert f"step 0 skipped: its loss is not finite; {named}\n" in (tmp_path / "run" / "train.log").read_text()
    for rank in range(2):
        assert f"in 1 steps in a row, last with the {named}; lower" in (tmp_path / f"stderr {rank}").read_text()


@pytest.mark.parametrize("options", [(), pytest.param(("--shard",), marks=pytest.mark.slow)])
def test_bad_input_of_one_process_loses_no_finished_step(
    nuscenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    config = small_config(3)
    config = replace(config, training=replace(config.training, batch_size=1))
    write_config(tmp_path / "c.json", config)
    made = FusionDataset.sample

    def sample(dataset: FusionDataset, index: int, epoch: int, repeat: int) -> Sample:
        if epoch == 1:  # it begins in the second process's second step
            raise InputRefused("sample x is broken.")
        return made(dataset, index, epoch, repeat)

    with monkeypatch.context() as patch:
        patch.setattr(FusionDataset, "sample", sample)
        refused = run_in_processes(2, lambda: command(nuscenes_root, tmp_path, *options))
    assert refused == [ExitCode.INPUT_REFUSED] * 2
    assert all((tmp_path / f"stderr {rank}").read_text().endswith("bevel: sample x is broken.\n") for rank in (0, 1))
    (checkpoint,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoint.name == "step_00000001"
    shard = bool(options)
    resumed = run_of(nuscenes_root, tmp_path / "run", config, processes=2, shard=shard, resume=True)
    whole = run_of(nuscenes_root, tmp_path / "whole", config, processes=2, shard=shard)
    assert difference_of(weights_of(whole), weights_of(resumed)) == 0.0


def test_where_one_process_dies_the_others_end_with_one_sentence(nuscenes_root: Path, tmp_path: Path) -> None:
    write_config(tmp_path / "c.json", small_config(1_000_000))

    def work() -> None:
        if os.environ["RANK"] == "1":
            signal.signal(signal.SIGPROF, lambda number, frame: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_PROF, 2.0)
        command(nuscenes_root, tmp_path)

    assert run_in_processes(2, work) == [ExitCode.FAILED, -signal.SIGKILL]
    said = (tmp_path / "stderr 0").read_text()
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("bevel: Another training process died, or did not answer for 600 s (")
    assert last.endswith("): see what it printed, then go on with --resume.")


def command(root: Path, folder: Path, *options: str) -> None:
    """The real command, its errors in a file of each rank."""
    file = os.open(folder / f"stderr {os.environ['RANK']}", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 (pytest's own does not write to 2)
    words = ["train", str(folder / "c.json"), "--data-root", str(root), "--output", str(folder / "run")]
    os._exit(main([*words, "--device", "cpu", "--threads", "1", *options]))
