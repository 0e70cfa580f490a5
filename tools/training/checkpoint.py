"""Checkpoints (tools/training/checkpoint_files.py) saved and loaded: never a pickle; complete or not there.

A checkpoint is written into a folder of another name, flushed to the disk and renamed, so the newest is the one with
the highest step.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.atomic_file import flush_folder, temporary_beside, write_flushed
from datasets.faults import InputRefused
from perception.weights import checksums_of, read_weights, save_tensors
from tools.training.checkpoint_files import (
    MANIFEST,
    OPTIMIZER,
    RAW_WEIGHTS,
    STATE,
    WEIGHTS,
    checkpoints,
    earlier_save,
    refuse_damage,
    sha256_of,
)
from tools.training.ema import MovingAverage
from tools.training.sharding import share_of, whole, whole_tensors
from tools.training.validations import Validations

FORMAT = 2
KEPT = 2  # the newest checkpoints that stay: if the disk spoils one, there is one before it


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint says beside its tensors. Random numbers need no state: each step is seeded by its number."""

    step: int
    """Steps done, which is also the position in the order of the samples."""
    updates: int
    """Steps that changed the weights: those with finite numbers."""
    nonfinite_in_a_row: int
    processes: int
    """Training processes: with another number the order of the samples would be another one."""
    data_fingerprint: str
    """Of the list of sample tokens."""
    order_fingerprint: str
    """Of the order of the samples in the epoch under way."""
    loss_scale: float | None = None
    """What the loss is multiplied by in fp16, and how many steps in a row it has been good for."""
    loss_scale_steps: int = 0
    validations: Validations | None = None
    """None: of a training that does not validate."""
    format: int = FORMAT


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    network: nn.Module,
    average: MovingAverage,
    optimizer: Optimizer,
    config_json: str,
    *,
    writes: bool = True,
) -> Path:
    """Write `folder`/step_N and remove all but the newest KEPT. Returns the checkpoint's folder.

    Where weights are in shares, all processes must call this, and one of them `writes`.

    Raises OSError where the disk is full or read-only; the checkpoints before stay as they were.
    """
    # All is gathered before anything is written: a full disk must not leave the others waiting for a share.
    averaged, raw, moments = (
        {name: tensor.cpu().contiguous() for name, tensor in tensors if writes}
        for tensors in (whole_tensors(average.network), whole_tensors(network), _moments(network, optimizer))
    )
    target = folder / f"step_{state.step:08d}"
    if not writes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    for abandoned in folder.glob(".step_*.tmp"):  # by a process that was killed while it saved or removed
        shutil.rmtree(abandoned, ignore_errors=True)
    try:
        temporary.mkdir()
        save_tensors(averaged, temporary / WEIGHTS, config_json)
        save_tensors(raw, temporary / RAW_WEIGHTS, config_json)
        write_flushed(temporary / OPTIMIZER, save(moments, checksums_of(moments)))
        write_flushed(temporary / STATE, json.dumps(asdict(state), indent=2).encode())
        sums = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        write_flushed(temporary / MANIFEST, json.dumps(sums, indent=2).encode())
        flush_folder(temporary)
        if target.exists():  # a damaged one, or the same step once more, validated: one of both is there at any instant
            _remove(aside := earlier_save(target))
            target.replace(aside)
        temporary.replace(target)
        flush_folder(folder)
        _remove(earlier_save(target))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-KEPT]:
        _remove(old)
    return target


def load_checkpoint(
    checkpoint: Path, network: nn.Module, average: MovingAverage, optimizer: Optimizer
) -> TrainingState:
    """Put a checkpoint's tensors into the three and return its state.

    Raises InputRefused, naming the file, for a checkpoint that is incomplete, changed on the disk, of another format
    or of another network.
    """
    state = _read_state(checkpoint)
    refuse_damage(checkpoint)
    _load_weights(average.network, checkpoint / WEIGHTS)
    _load_weights(network, checkpoint / RAW_WEIGHTS)
    _load_optimizer(network, optimizer, checkpoint / OPTIMIZER)
    return state


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that it is never there in part."""
    if checkpoint.exists():
        going = temporary_beside(checkpoint)
        checkpoint.replace(going)
        shutil.rmtree(going, ignore_errors=True)


def _read_state(checkpoint: Path) -> TrainingState:
    path = checkpoint / STATE
    try:
        content = path.read_bytes()
        found = TypeAdapter(dict[str, Any]).validate_json(content).get("format")
        if found != FORMAT:
            raise InputRefused(f"{path}: format {found!r:.20}, this Bevel reads format {FORMAT}.")
        return TypeAdapter(TrainingState).validate_json(content)
    except (OSError, ValidationError) as error:
        raise InputRefused(f"{path} is not the state of a training: {error}.") from error


def _load_weights(network: nn.Module, path: Path) -> None:
    present = network.state_dict()
    tensors = read_weights(network, path)
    network.load_state_dict({name: share_of(value, present[name]) for name, value in tensors.items()})


def _moments(network: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}/{name}", whole(torch.as_tensor(value)).detach()


def _load_optimizer(network: nn.Module, optimizer: Optimizer, path: Path) -> None:
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputRefused(f"{path} is not a readable safetensors file: {error}.") from error
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for full_name, value in tensors.items():
        key, _, name = full_name.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (key != "step" and value.shape != parameter.shape):
            raise InputRefused(f"{path} belongs to another network: {full_name} does not fit.")
        # Adam counts its steps on the CPU, and keeps its moments where the parameter is.
        optimizer.state[parameter][key] = value if key == "step" else share_of(value.to(parameter.device), parameter)
