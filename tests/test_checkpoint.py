"""Checkpoints: whole or not there, and every flipped bit found."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.faults import InputRefused
from perception.detector import Detector
from tests.small_run import small_config, small_detector
from tools.training.checkpoint import KEPT, TrainingState, load_checkpoint, save_checkpoint
from tools.training.checkpoint_files import (
    checkpoints,
    newest_checkpoint,
    refuse_damage,
    sha256_of,
    whole_checkpoints,
)
from tools.training.ema import MovingAverage
from tools.training.optimizer import make_optimizer
from tools.training.resuming import checkpoint_to_resume
from tools.training.run_folder import RunFolder

Parts = tuple[Detector, MovingAverage, torch.optim.Optimizer]


def parts(seed: int) -> Parts:
    torch.manual_seed(seed)
    detector = Detector(small_detector())
    return detector, MovingAverage(detector, 0.9), make_optimizer(detector, small_config(1).training)


def stepped(seed: int) -> Parts:
    """As after one step with random gradients."""
    detector, average, optimizer = parts(seed)
    for parameter in detector.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    average.update(detector, 0)
    return detector, average, optimizer


def state_of(step: int) -> TrainingState:
    return TrainingState(step, step, 0, 1, "abc", "def")


def tensors_of(state: Parts) -> dict[str, Tensor]:
    detector, average, optimizer = state
    names = {parameter: name for name, parameter in detector.named_parameters()}
    moments = {
        f"{names[parameter]}/{key}": value for parameter, kept in optimizer.state.items() for key, value in kept.items()
    }
    return {f"raw/{k}": v for k, v in detector.state_dict().items()} | {
        f"average/{k}": v for k, v in average.network.state_dict().items()
    } | moments  # fmt: skip


def test_a_checkpoint_brings_back_every_bit(tmp_path: Path) -> None:
    saved, loaded = stepped(0), parts(1)
    path = save_checkpoint(tmp_path, state_of(7), *saved, config_json="{}")
    assert load_checkpoint(path, *loaded) == state_of(7)
    expected, found = tensors_of(saved), tensors_of(loaded)
    assert expected.keys() == found.keys()
    assert len(expected) > 3 * len(list(saved[0].parameters()))
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_only_the_newest_stay(tmp_path: Path) -> None:
    saved = parts(0)
    (tmp_path / ".step_00000001.99.tmp").mkdir()  # left behind by a killed process
    for step in range(1, KEPT + 2):
        save_checkpoint(tmp_path, state_of(step), *saved, config_json="{}")
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]
    assert newest_checkpoint(tmp_path).name == "step_00000003"
    # What cannot be had is refused, not replaced in silence by what is older.
    (tmp_path / "step_00000003" / "state.json").unlink()
    assert [path.name for path in whole_checkpoints(tmp_path)[0]] == ["step_00000002"]
    with pytest.raises(InputRefused, match="step_00000003 is not a complete checkpoint"):
        newest_checkpoint(tmp_path)


def test_damaged_ones_do_not_count_among_the_newest(tmp_path: Path) -> None:
    run, saved, said = RunFolder(tmp_path), parts(0), list[str]()
    for step in (45, 50):
        save_checkpoint(run.checkpoints, state_of(step), *saved, config_json="{}")
    damaged = run.checkpoints / "step_00000050"
    (damaged / "optimizer.safetensors").write_bytes(b"")
    # Only one of several processes moves anything, and all find the same.
    assert checkpoint_to_resume(run, said.append, tidies=False) == run.checkpoints / "step_00000045"
    assert damaged.is_dir()
    assert checkpoint_to_resume(run, said.append, tidies=True) == run.checkpoints / "step_00000045"
    assert said[-1].startswith(f"The damaged one is now {run.checkpoints / 'damaged_step_00000050'}: ")
    save_checkpoint(run.checkpoints, state_of(46), *saved, config_json="{}")
    names = [path.name for path in whole_checkpoints(run.checkpoints)[0]]
    assert names == ["step_00000045", "step_00000046"]
    assert whole_checkpoints(run.checkpoints)[1] == []
    # Where none is whole nothing is moved: the run must not begin anew as if there had been none.
    for name in names:
        (run.checkpoints / name / "state.json").unlink()
    with pytest.raises(InputRefused, match="No checkpoint is whole"):
        checkpoint_to_resume(run, said.append, tidies=True)
    assert [path.name for path in checkpoints(run.checkpoints)] == names


def test_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no checkpoint"):
        newest_checkpoint(tmp_path / "nothing")


def test_two_hundred_flipped_bits_and_twenty_cuts_are_all_found(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state_of(7), *stepped(0), config_json="{}")
    whole = {file: file.read_bytes() for file in sorted(path.iterdir())}
    assert len(whole) == 5
    generator = random.Random(0)
    # Each file as often as any other, and within it each bit as likely as any other.
    for flip, file in zip(range(200), itertools.cycle(whole)):
        content = whole[file]
        damaged = bytearray(content)
        position = generator.randrange(len(content))
        damaged[position] ^= 1 << generator.randrange(8)
        file.write_bytes(bytes(damaged))
        with pytest.raises(InputRefused) as refusal:
            refuse_damage(path)
        said = str(refusal.value)
        assert "manifest.json" in said, flip
        if file.name != "manifest.json":
            assert str(file) in said, flip
        header = 8 + int.from_bytes(content[:8], "little")
        if file.suffix == ".safetensors" and position >= header:
            assert f"tensor {tensor_at(file, content, position - header)} is damaged" in said, flip
        file.write_bytes(content)
    for cut, file in zip(range(20), itertools.cycle(whole)):
        file.write_bytes(whole[file][: generator.randrange(len(whole[file]))])
        with pytest.raises(InputRefused) as refusal:
            refuse_damage(path)
        assert str(file if file.name != "manifest.json" else path) in str(refusal.value), cut
        file.write_bytes(whole[file])
    refuse_damage(path)


def tensor_at(file: Path, content: bytes, offset: int) -> str:
    """The name of the tensor that has this byte of a safetensors file, by the format's own header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return next(
        name
        for name, entry in header.items()
        if name != "__metadata__" and entry["data_offsets"][0] <= offset < entry["data_offsets"][1]
    )


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "raw_weights.safetensors", "optimizer.safetensors", "state.json"]
)
def test_damage_is_found_and_the_file_named(name: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state_of(7), *stepped(0), config_json="{}")
    whole = (path / name).read_bytes()
    flipped = bytearray(whole)
    flipped[-20] ^= 1  # in state.json, of a name or a number; elsewhere of a tensor
    for damaged in (bytes(flipped), whole[:-1], b""):
        (path / name).write_bytes(damaged)
        with pytest.raises(InputRefused, match=name):
            load_checkpoint(path, *parts(1))
    (path / name).unlink()
    with pytest.raises(InputRefused, match=name):
        load_checkpoint(path, *parts(1))


def test_a_state_from_before_validations_were_noted_is_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state_of(7), *parts(0), config_json="{}")
    state = json.loads((path / "state.json").read_text())
    assert state.pop("validations") is None
    (path / "state.json").write_text(json.dumps(state | {"best_nds": 0.3, "validations_since_best": 1}))
    sums = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(sums | {"state.json": sha256_of(path / "state.json")}))
    loaded = load_checkpoint(path, *parts(1))
    assert loaded == state_of(7)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state_of(7), *parts(0), config_json="{}")
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(InputRefused, match="format 99"):
        load_checkpoint(path, *parts(1))
