"""Training: it learns, it stops and goes on exactly, and it survives what is not finite."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.faults import InputRefused
from datasets.frames import Annotations, LogFrame
from datasets.reader import LogReader
from datasets.samples.batch import Batch, collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.sample import EGO_MOTION_FIELDS, Sample
from perception.backbone import BackboneConfig, ImageBackbone
from perception.detector import Detector
from perception.weights import save_weights
from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config, small_detector
from tools.exit_codes import Degraded, Diverged
from tools.open_dataset import open_dataset
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint_files import checkpoints
from tools.training.config import TrainingConfig
from tools.training.interruption import Interruption
from tools.training.loading import load_batches
from tools.training.optimizer import make_optimizer
from tools.training.order import BatchOrder, EpochIndex, PlainOrder
from tools.training.processes import Processes
from tools.training.run_folder import RunFolder, load_detector
from tools.training.step import LossOfBatch, seed_step, training_step

ALONE = Processes(1, 0, torch.device("cpu"))


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> Callable[[RunConfig], TrainArguments]:
    """Arguments that train a config into tmp_path/run."""

    def make(config: RunConfig) -> TrainArguments:
        write_config(tmp_path / "given.json", config)
        return TrainArguments(str(tmp_path / "given.json"), nuscenes_root, output=tmp_path / "run", device="cpu")

    return make


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_tensors(a: Path, b: Path) -> bool:
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_the_loss_falls_and_the_run_folder_is_complete(
    arguments: Callable[[RunConfig], TrainArguments], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(arguments(small_config(25)))
    values = losses(run)
    assert len(values) == 25
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    names = {"config.json", "environment.json", "metrics.jsonl", "train.log", "weights.safetensors", "tensorboard"}
    assert names < {path.name for path in run.iterdir()}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert "25 of 25 steps" in printed
    assert "Missing sensors: none." in printed


def test_the_saved_detector_is_the_averaged_one(arguments: Callable[[RunConfig], TrainArguments]) -> None:
    run = train(arguments(small_config(3)))
    config, detector = load_detector(run)
    assert config == small_config(3)
    assert not detector.training
    last = RunFolder(run).checkpoints / "step_00000003"
    assert same_tensors(run / "weights.safetensors", last / "weights.safetensors")
    assert not same_tensors(last / "weights.safetensors", last / "raw_weights.safetensors")
    # A run that is not finished gives its last checkpoint's.
    (run / "weights.safetensors").unlink()
    _, of_checkpoint = load_detector(run)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, of_checkpoint.state_dict()[name]), name


def test_a_resumed_run_ends_in_the_same_bits(arguments: Callable[[RunConfig], TrainArguments], tmp_path: Path) -> None:
    # Modality dropout and augmentation take part; three samples in batches of two: step 4 is mid-epoch.
    config = small_config(5, checkpoint_interval=2, modality_dropout=0.5)
    config = replace(config, training=replace(config.training, augmentation=Augmentation(bev=BevAugmentation())))
    given = arguments(config)
    run = train(given)
    checkpoint = run / "checkpoints" / "step_00000005"
    uninterrupted = shutil.copytree(checkpoint, tmp_path / "uninterrupted")
    expected_losses = losses(run)
    # As if the process had been killed in step 5: only the checkpoint of step 4 is there, and a cut line.
    shutil.rmtree(checkpoint)
    (run / "weights.safetensors").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    # Another number of loader processes changes nothing.
    assert train(replace(given, resume=True, workers=1)) == run
    for name in ("weights.safetensors", "raw_weights.safetensors", "optimizer.safetensors"):
        assert same_tensors(checkpoint / name, uninterrupted / name), name
    assert (checkpoint / "state.json").read_text() == (uninterrupted / "state.json").read_text()
    assert losses(run) == expected_losses
    assert (run / "weights.safetensors").is_file()


def test_resuming_what_does_not_belong_together_is_refused(
    arguments: Callable[[RunConfig], TrainArguments], nuscenes_root: Path
) -> None:
    given = arguments(small_config(1))
    with pytest.raises(InputRefused, match="no run to resume"):
        train(replace(given, resume=True))
    train(given)
    with pytest.raises(InputRefused, match="holds a run already"):
        train(given)
    with pytest.raises(InputRefused, match="another config"):
        train(replace(given, resume=True, steps=2))
    with pytest.raises(InputRefused, match="other samples"):
        train(replace(given, resume=True, split="mini_val"))


def test_resuming_goes_back_past_a_damaged_checkpoint_and_says_so(
    arguments: Callable[[RunConfig], TrainArguments], tmp_path: Path
) -> None:
    given = arguments(small_config(4, checkpoint_interval=2))
    run = train(given)
    expected = load_file(run / "weights.safetensors")
    newest, before = run / "checkpoints" / "step_00000004", run / "checkpoints" / "step_00000002"
    for checkpoint in (newest, before):
        file = checkpoint / "optimizer.safetensors"
        damaged = bytearray(file.read_bytes())
        damaged[-20] ^= 1
        file.write_bytes(bytes(damaged))
        if checkpoint is newest:
            assert train(replace(given, resume=True)) == run
            said = (run / "train.log").read_text()
            assert f"{file} is not the file that was saved: tensor " in said
            assert f"Resuming from {before}, the newest checkpoint that is whole." in said
            again = load_file(run / "weights.safetensors")
            assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())
            newest.rename(tmp_path / "made again")
    with pytest.raises(InputRefused, match=r"tensor .* No checkpoint is whole"):
        train(replace(given, resume=True))


def test_a_run_without_a_checkpoint_resumes_from_the_first_step(
    arguments: Callable[[RunConfig], TrainArguments],
) -> None:
    given = arguments(small_config(2))
    run = train(given)
    expected = load_file(run / "weights.safetensors")
    shutil.rmtree(run / "checkpoints")
    train(replace(given, resume=True))
    assert "holds no checkpoint yet: from the first step" in (run / "train.log").read_text()
    again = load_file(run / "weights.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_the_file_of_the_backbones_first_weights_is_needed_once(
    arguments: Callable[[RunConfig], TrainArguments], tmp_path: Path
) -> None:
    config, file = small_config(2, checkpoint_interval=1), tmp_path / "backbone.safetensors"
    camera = config.detector.camera
    assert camera is not None
    assert isinstance(camera.backbone, BackboneConfig)
    torch.manual_seed(1)
    first = {f"resnet.{name}": value for name, value in ImageBackbone(camera.backbone).resnet.state_dict().items()}
    save_file(first, file)
    camera = replace(camera, backbone=replace(camera.backbone, weights=file))
    config = replace(config, detector=replace(config.detector, camera=camera))
    # A rate of nearly nothing: what the run has after two steps is what it began with.
    config = replace(config, training=replace(config.training, learning_rate=1e-12))
    run = train(arguments(config))
    expected = load_file(run / "weights.safetensors")
    assert torch.allclose(
        expected["camera.backbone.resnet.embedder.embedder.convolution.weight"],
        first["resnet.embedder.embedder.convolution.weight"],
        atol=1e-6,
    )
    file.unlink()
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    (run / "weights.safetensors").unlink()
    assert train(replace(arguments(config), resume=True)) == run
    assert all(torch.equal(value, expected[name]) for name, value in load_file(run / "weights.safetensors").items())
    # Another run that has the camera branch from this one does not need it either.
    train(replace(arguments(config), output=tmp_path / "next", init=(run,)))
    # One that has only the head from there does, and so does one that is resumed before its first checkpoint.
    head = nn.Module()
    head.add_module("head", load_detector(run)[1].head)
    save_weights(head, tmp_path / "head.safetensors", "{}")
    with pytest.raises(InputRefused, match=r"backbone\.safetensors: the backbone's weights cannot be read"):
        train(replace(arguments(config), output=tmp_path / "other", init=(tmp_path / "head.safetensors",)))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputRefused, match=r"backbone\.safetensors: the backbone's weights cannot be read"):
        train(replace(arguments(config), resume=True))


def test_two_trainings_do_not_share_a_folder(arguments: Callable[[RunConfig], TrainArguments]) -> None:
    given = arguments(small_config(1))
    assert given.output is not None
    with RunFolder(given.output).locked(), pytest.raises(InputRefused, match="another training is writing"):
        train(given)


def test_divergence_ends_the_training_and_names_the_samples(
    arguments: Callable[[RunConfig], TrainArguments],
) -> None:
    given = arguments(small_config(50, learning_rate=1e30))
    with pytest.raises(
        Diverged, match=r"3 steps in a row, last with the samples scene-0061-sample-., scene-0061-sample-."
    ):
        train(given)
    assert given.output is not None
    assert "is not finite; samples " in (given.output / "train.log").read_text()
    # What is saved is from before: finite numbers only.
    _, detector = load_detector(given.output)
    assert all(bool(tensor.isfinite().all()) for tensor in detector.state_dict().values())


def test_a_step_that_is_not_finite_changes_nothing(nuscenes_root: Path) -> None:
    config = small_config(1)
    detector = Detector(config.detector).train()
    model, optimizer = LossOfBatch(detector), make_optimizer(detector, config.training)
    dataset = open_dataset(nuscenes_root, None, "mini_train", config.sample)
    good = collate([dataset[0], dataset[1]])

    def step(batch: Batch) -> bool:
        return training_step(
            model,
            optimizer,
            [batch],
            config.training,
            learning_rate=1e-3,
            generator=seed_step(0, 0, 0),
            processes=ALONE,
        ).finite

    assert step(good)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    moments = [value.clone() for kept in optimizer.state.values() for value in kept.values()]

    def nothing_has_changed() -> bool:
        after = [value for kept in optimizer.state.values() for value in kept.values()]
        return all(torch.equal(a, b) for a, b in zip(moments, after, strict=True)) and all(
            torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items()
        )

    # The loss is not finite, and batch norm has seen the batch by then.
    hook = detector.head.register_forward_pre_hook(lambda module, inputs: (inputs[0] * torch.inf, *inputs[1:]))
    assert not step(good)
    assert nothing_has_changed()
    hook.remove()
    # The loss is finite, a gradient is not.
    hook = next(detector.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    assert not step(good)
    assert nothing_has_changed()
    hook.remove()
    assert step(good)
    assert not nothing_has_changed()


def test_as_many_ego_states_as_the_config_asks_for(tmp_path: Path) -> None:
    write_dataset(tmp_path, ("scene-0061",), keyframes=9)
    sample = replace(small_config(1).sample, ego_states=8)
    last = open_dataset(tmp_path, None, "all", sample)[8]
    assert last.ego_motion_valid.tolist() == [True] * 8
    ages = last.ego_motion[:, EGO_MOTION_FIELDS.index("age")]
    assert torch.allclose(ages, torch.arange(7, -1, -1) * 0.5)


class SecondWithoutAnnotations:
    """The frames of another reader, all annotated but the second."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        return self._reader.frame_tokens(split)

    def frame(self, token: str) -> LogFrame:
        return replace(self._reader.frame(token), annotations=self.annotations(token))

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        return self._reader.earlier_tokens(token, count)

    def annotations(self, token: str) -> Annotations | None:
        return None if token == self.frame_tokens("all")[1] else self._reader.annotations(token)


def test_the_sample_without_annotations_is_named(nuscenes_root: Path) -> None:
    whole = open_dataset(nuscenes_root, None, "all", small_config(1).sample)
    reader = SecondWithoutAnnotations(whole.reader)
    dataset = FusionDataset(reader, whole.tokens[:3], whole.config)
    batches = load_batches(dataset, [[EpochIndex(0, index) for index in range(3)]], workers=0, missing_sensors="refuse")
    assert next(batches).unannotated == (whole.tokens[1],)


def test_a_missing_file_is_refused_or_counted(
    arguments: Callable[[RunConfig], TrainArguments], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "broken"
    write_dataset(root)
    lost = sorted((root / "samples" / "CAM_BACK").iterdir())[0]
    lost.unlink()
    given = replace(arguments(small_config(4)), data_root=root, workers=1)
    with pytest.raises(InputRefused, match=r"CAM_BACK.*--missing-sensors allow"):
        train(given)
    again = replace(given, missing_sensors="allow", strict=True, output=tmp_path / "second")
    with pytest.raises(Degraded, match="a sensor was absent from a frame 1 times"):
        train(again)
    # Four steps see the frame more than once; it is one frame.
    assert "CAM_BACK           absent    missing_file            1" in capsys.readouterr().out


def test_bad_input_on_the_way_loses_no_finished_step(
    arguments: Callable[[RunConfig], TrainArguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(3)
    given = arguments(config)
    made = FusionDataset.sample

    def sample(dataset: FusionDataset, index: int, epoch: int, repeat: int) -> Sample:
        if epoch == 1:  # three samples in batches of two: the second step ends in it
            raise InputRefused("sample x is broken.")
        return made(dataset, index, epoch, repeat)

    with monkeypatch.context() as patch:
        patch.setattr(FusionDataset, "sample", sample)
        with pytest.raises(InputRefused, match="sample x is broken"):
            train(given)
    assert given.output is not None
    assert [path.name for path in checkpoints(given.output / "checkpoints")] == ["step_00000001"]
    # How long one waits is no other config.
    patient = replace(config, training=replace(config.training, loader_timeout=60.0, process_timeout=60.0))
    train(replace(arguments(patient), resume=True))
    assert len(losses(given.output)) == 3


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_a_signal_is_remembered_and_a_second_one_interrupts() -> None:
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_epoch_has_every_sample_once() -> None:
    order = BatchOrder(PlainOrder(5, 3), 2, first_step=0, last_step=10)
    seen = [item for batch in order for item in batch]
    assert len(order) == 10
    for epoch in range(4):
        assert sorted(index for e, index, _ in seen if e == epoch) == list(range(5))
    shuffled = [[index for e, index, _ in seen if e == epoch] for epoch in range(4)]
    assert len({tuple(epoch) for epoch in shuffled}) > 1
    assert list(BatchOrder(PlainOrder(5, 3), 2, first_step=3, last_step=10)) == list(order)[3:]
    # Two processes share the same sequence.
    pair = [BatchOrder(PlainOrder(5, 3), 1, first_step=0, last_step=10, process=rank, processes=2) for rank in (0, 1)]
    assert [[*a, *b] for a, b in zip(*pair, strict=True)] == list(order)
    with pytest.raises(ValueError, match="no samples"):
        PlainOrder(0, 0)


def test_vectors_are_not_decayed() -> None:
    detector = Detector(small_detector())
    decayed, kept = make_optimizer(detector, TrainingConfig(2, 1e-3, 2, steps=1)).param_groups
    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert all(p.dim() > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(detector.parameters()))
