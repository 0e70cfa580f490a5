"""Pretraining without annotations, and a detector that starts from it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore

from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from perception.camera_pretraining import CameraPretraining
from perception.detector import Detector, DetectorConfig
from perception.fusion.early import EarlyFusionConfig
from perception.pretraining import BranchPretraining
from perception.weights import load_parts, save_tensors, save_weights
from tests.nuscenes_fixture import write_dataset, write_table
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.__main__ import main
from tools.exit_codes import ExitCode
from tools.presets import preset
from tools.pretrain import PretrainArguments, pretrain, pretraining_config
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, _train, train, training_config
from tools.training.attempts import agree_on_attempt
from tools.training.processes import Processes
from tools.training.run_folder import RunFolder, load_detector

BRANCHES = ("camera", "lidar", "radar")


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> Callable[[RunConfig], PretrainArguments]:
    def make(config: RunConfig) -> PretrainArguments:
        write_config(tmp_path / "given.json", config)
        return PretrainArguments(str(tmp_path / "given.json"), nuscenes_root, output=tmp_path / "run", device="cpu")

    return make


def without_annotations(root: Path, version: str) -> None:
    """The tables as nuScenes' test set has them."""
    for table in ("sample_annotation", "instance"):
        write_table(root, table, [])
    (root / "v1.0-mini").rename(root / version)


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", ["info_nce", "triplet", "max_margin"])
def test_every_loss_falls_and_reaches_every_parameter(loss: str) -> None:
    config = replace(small_config(1), detector=small_detector())
    write = pretraining_config(PretrainArguments("tiny", ".", loss=loss)).detector.cross_modal
    torch.manual_seed(0)
    network = BranchPretraining(replace(config.detector, cross_modal=write)).train()
    batch = random_batch(2, torch.Generator().manual_seed(1), image_size=(32, 64), reach=40.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = network.losses(network(batch), batch, torch.Generator().manual_seed(2))
        losses.total.backward()
        optimizer.step()
        values.append(float(losses.total.detach()))
    assert values[-1] < values[0]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any() or "bias" in name, name


def test_the_branches_are_those_of_the_detector() -> None:
    config = replace(
        small_detector(), cross_modal=pretraining_config(PretrainArguments("tiny", ".")).detector.cross_modal
    )
    torch.manual_seed(0)
    detector, branches = Detector(config).eval(), BranchPretraining(config).eval()
    own = {name: value for name, value in detector.state_dict().items() if name in branches.state_dict()}
    branches.load_state_dict(own)  # strict: the names are the same ones
    batch = random_batch(2, torch.Generator().manual_seed(1), image_size=(32, 64)).without("radar")
    bevs, predictions = branches(batch), detector(batch)
    assert torch.equal(bevs.modality_bevs, predictions.modality_bevs)
    assert torch.equal(bevs.available, predictions.availability[:, :3])
    assert bevs.available.any(dim=0).tolist() == [True, True, False]


def test_annotations_play_no_part_and_a_test_set_will_do(
    arguments: Callable[[RunConfig], PretrainArguments], nuscenes_root: Path, tmp_path: Path
) -> None:
    config = small_config(3, modality_dropout=0.5)
    given = replace(arguments(config), split="all", threads=1)
    annotated = pretrain(given)
    bare = tmp_path / "bare"
    shutil.copytree(nuscenes_root, bare)
    without_annotations(bare, "v1.0-mini")
    assert not NuScenesReader(bare).index.annotated
    other = pretrain(replace(given, data_root=bare, output=tmp_path / "other"))
    left, right = load_file(annotated / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    # Its split is found by itself, where training a detector is refused.
    write_dataset(tmp_path / "test", ("scene-0077",))  # a scene of the test set
    without_annotations(tmp_path / "test", "v1.0-test")
    of_test = replace(given, data_root=tmp_path / "test", split=None, output=tmp_path / "third", steps=1)
    assert len(rows_of(pretrain(of_test))) == 1
    with pytest.raises(InputRefused, match="no annotations"):
        train(TrainArguments(given.config, tmp_path / "test", output=tmp_path / "fourth", device="cpu"))


def test_a_run_is_resumed_in_the_same_bits_and_is_no_detector(
    arguments: Callable[[RunConfig], PretrainArguments], tmp_path: Path
) -> None:
    given = replace(arguments(small_config(4, checkpoint_interval=2)), threads=1)
    run = pretrain(given)
    expected, losses = load_file(run / "weights.safetensors"), [row["loss"] for row in rows_of(run)]
    assert {name.split(".")[0] for name in expected} == {*BRANCHES, "cross_modal"}
    shutil.rmtree(run / "checkpoints" / "step_00000004")
    (run / "weights.safetensors").unlink()
    assert pretrain(replace(given, resume=True)) == run
    resumed = load_file(run / "weights.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert [row["loss"] for row in rows_of(run)] == losses
    assert any("camera-lidar" in name for name in json.dumps(rows_of(run)).split('"'))
    with pytest.raises(InputRefused, match=r"no detector: train one from it with bevel train --init"):
        load_detector(run)


def test_a_teacher_stays_as_it_is_to_the_bit_and_the_others_learn_from_it(
    arguments: Callable[[RunConfig], PretrainArguments], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    taught = {
        f"camera.{name}": value for name, value in CameraPretraining(small_detector()).camera.state_dict().items()
    }
    save_tensors(taught, tmp_path / "taught.safetensors", "{}")
    given = replace(arguments(small_config(3)), init=(tmp_path / "taught.safetensors",), teacher="camera")
    learnt = load_file(pretrain(given) / "weights.safetensors")
    assert all(torch.equal(value, learnt[name]) for name, value in taught.items())
    others = load_file(pretrain(replace(given, teacher=None, output=tmp_path / "other")) / "weights.safetensors")
    assert not all(torch.equal(value, others[name]) for name, value in taught.items())
    began = BranchPretraining(pretraining_config(given).detector)
    assert all(not parameter.requires_grad for parameter in began.camera.parameters())
    assert not began.train().camera.training
    assert began.lidar.training
    batch = random_batch(2, torch.Generator().manual_seed(1), image_size=(32, 64), reach=40.0)
    began.losses(began(batch), batch, torch.Generator().manual_seed(2)).total.backward()
    for branch in (began.lidar, began.radar, *began.cross_modal.project):
        assert any((parameter.grad != 0).any() for parameter in branch.parameters())


def test_a_detector_starts_from_the_pretrained_branches(
    arguments: Callable[[RunConfig], PretrainArguments],
    nuscenes_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = pretrain(arguments(small_config(2)))
    learnt = load_file(run / "weights.safetensors")
    # A rate of nearly nothing: what the detector has after a step is what it began with.
    write_config(tmp_path / "detector.json", small_config(1, learning_rate=1e-12))
    given = TrainArguments(
        str(tmp_path / "detector.json"), nuscenes_root, output=tmp_path / "with", device="cpu", init=(run,)
    )
    capsys.readouterr()
    train(given)
    counts = [sum(name.startswith(f"{part}.") for name in learnt) for part in (*BRANCHES, "cross_modal")]
    printed = capsys.readouterr().out
    new = len(Detector(small_detector()).state_dict()) - sum(counts[:3])
    assert (
        f"{sum(counts[:3])} tensors (camera, lidar, radar) from {run}/weights.safetensors; {new} tensors (pose"
        in printed
    )
    assert f"{counts[3]} tensors (cross_modal) of the file not used" in printed
    began = load_file(tmp_path / "with" / "weights.safetensors")
    torch.manual_seed(0)
    random = Detector(small_detector()).state_dict()
    for name, value in began.items():
        floating = value.dtype.is_floating_point and "running" not in name
        if floating and name.split(".")[0] in BRANCHES:
            assert torch.allclose(value, learnt[name], atol=1e-6), name
        elif floating:
            assert torch.allclose(value, random[name], atol=1e-6), name
    with pytest.raises(InputRefused, match="leave out one"):
        train(replace(given, resume=True))
    # Killed after its first step, before the first checkpoint that holds one: it goes on from the same weights.
    shutil.rmtree(tmp_path / "with" / "checkpoints" / "step_00000001")
    (tmp_path / "with" / "weights.safetensors").unlink()
    train(replace(given, init=(), resume=True))
    resumed = load_file(tmp_path / "with" / "weights.safetensors")
    assert all(torch.allclose(value.float(), resumed[name].float(), atol=1e-6) for name, value in began.items())
    # Killed before any checkpoint, and started again by torchrun with the same words.
    shutil.rmtree(tmp_path / "with" / "checkpoints")
    folder, store = RunFolder(tmp_path / "with"), HashStore()
    agree_on_attempt(store, 0, 1, timedelta(seconds=1)).note_begun(folder.path)
    restarted = Processes(1, 0, torch.device("cpu"), attempt=agree_on_attempt(store, 0, 1, timedelta(seconds=1)))
    _train(given, training_config(given), folder, restarted)
    again = load_file(folder.weights)
    assert all(torch.allclose(value.float(), again[name].float(), atol=1e-6) for name, value in began.items())
    # A file does as well as a folder; and a refusal leaves no run behind.
    train(replace(given, init=(run / "weights.safetensors",), output=tmp_path / "of_file"))
    with pytest.raises(InputRefused, match="no such weights file"):
        train(replace(given, init=(tmp_path / "nothing",), output=tmp_path / "refused"))
    assert not RunFolder(tmp_path / "refused").config.exists()
    # Of two that have a part it is the later one's; what only the first one has stays.
    torch.manual_seed(8)
    other = Detector(small_detector()).state_dict()
    save_tensors(other, tmp_path / "other.safetensors", "{}")
    words = ["train", given.config, "--data-root", str(nuscenes_root), "--output", str(tmp_path / "of_both")]
    words += ["--device", "cpu", "--init", str(tmp_path / "other.safetensors"), "--init", str(run)]
    capsys.readouterr()
    assert main(words) == ExitCode.FINE
    assert capsys.readouterr().out.count("; 0 tensors new") == 2  # what one lacks the other has
    of_both = load_file(tmp_path / "of_both" / "weights.safetensors")
    for name, value in of_both.items():
        if value.dtype.is_floating_point and "running" not in name:
            expected = learnt if name.split(".")[0] in BRANCHES else other
            assert torch.allclose(value, expected[name], atol=1e-6), name


def other_lidar(config: DetectorConfig, **changes: object) -> DetectorConfig:
    assert config.lidar is not None
    return replace(config, lidar=replace(config.lidar, encoder=replace(config.lidar.encoder, **changes)))


def test_parts_come_whole_or_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    saved = Detector(small_detector())
    save_weights(saved, file, "{}")
    for changed, sentence in (
        (
            other_lidar(small_detector(), widths=(16, 8)),
            r"lidar\.\S+ is \[\S* ?.*\] float32 where this network has .*lidar",
        ),
        (other_lidar(small_detector(), blocks=(1, 2)), r"lacks lidar\.\S+: its lidar is of another config"),
    ):
        network = Detector(changed)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(InputRefused, match=sentence):
            load_parts(network, file)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    without_radar = Detector(replace(small_detector(), radar=None))
    found = load_parts(without_radar, file)
    assert {"radar", "head.radar"} <= set(found.unused)
    assert not found.new
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in without_radar.state_dict().items())
    whole = Detector(small_detector())
    save_weights(Detector(other_lidar(small_detector(), blocks=(1, 2))), file, "{}")
    with pytest.raises(InputRefused, match=r"has the unknown tensor lidar\.\S+: its lidar is of another config"):
        load_parts(whole, file)
    save_weights(torch.nn.Linear(2, 2), file, "{}")
    with pytest.raises(InputRefused, match=r"none of the network's parts \(camera, .*\), but bias, weight"):
        load_parts(whole, file)


def test_one_sensor_and_painted_points_are_refused(
    arguments: Callable[[RunConfig], PretrainArguments], tmp_path: Path
) -> None:
    config = small_config(1)
    lone = replace(config, detector=replace(config.detector, camera=None, radar=None))
    with pytest.raises(InputRefused, match="this detector has lidar alone"):
        pretrain(arguments(lone))
    painted = replace(config, detector=replace(config.detector, fusion=EarlyFusionConfig()))
    with pytest.raises(InputRefused, match="early fusion paints"):
        pretrain(arguments(painted))
    with pytest.raises(InputRefused, match="teacher must be one of"):
        pretrain(replace(arguments(config), teacher="pose"))
    blind = replace(config, detector=replace(config.detector, camera=None))
    with pytest.raises(InputRefused, match="teacher, camera, is no branch"):
        pretrain(replace(arguments(blind), teacher="camera"))
    with pytest.raises(InputRefused, match="--teacher is for cross-modal losses"):
        pretrain(replace(arguments(config), loss="perspective", teacher="camera"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputRefused, match="steps must be"):
        pretrain(replace(arguments(config), steps=-1))


def test_nothing_in_the_config_reads_annotations() -> None:
    config = pretraining_config(PretrainArguments("tiny", "."))
    assert config.training.objective == "cross_modal"
    assert config.training.modality_dropout == 0.0
    assert preset("tiny").training.modality_dropout > 0.0
    with pytest.raises(ValueError, match="cross_modal"):
        BranchPretraining(preset("tiny").detector)
