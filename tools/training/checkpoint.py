"""Checkpoints: safetensors and JSON, never a pickle; complete or not there; every byte accounted for.

    checkpoints/step_00000500/   weights.safetensors      the moving average: what is evaluated
                                 raw_weights.safetensors  the weights that training goes on from
                                 optimizer.safetensors    the moments, by parameter name
                                 state.json               step, and what the run was trained on
                                 manifest.json            the sha256 of each of these files

A checkpoint is written into a folder of another name, flushed to the disk and renamed, so the newest is the one with
the highest step. torch.load notices no flipped bit; the manifest does, and the checksums of the tensors say which one.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
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
from perception.weights import checksums_of, damaged_tensor, load_weights, save_weights
from tools.training.ema import MovingAverage

FORMAT = 2
KEPT = 2  # the newest checkpoints that stay: if the disk spoils one, there is one before it

_WEIGHTS, _RAW_WEIGHTS = "weights.safetensors", "raw_weights.safetensors"
_OPTIMIZER, _STATE, _MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"


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
    best_nds: float | None = None
    """Of the validations so far; and how many there have been since the best."""
    validations_since_best: int = 0
    format: int = FORMAT


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    network: nn.Module,
    average: MovingAverage,
    optimizer: Optimizer,
    config_json: str,
) -> Path:
    """Write `folder`/step_N and remove all but the newest KEPT. Returns the checkpoint's folder.

    Raises OSError where the disk is full or read-only; the checkpoints before stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{state.step:08d}"
    temporary = temporary_beside(target)
    for abandoned in folder.glob(".step_*.tmp"):  # by a process that was killed while it saved or removed
        shutil.rmtree(abandoned, ignore_errors=True)
    try:
        temporary.mkdir()
        save_weights(average.network, temporary / _WEIGHTS, config_json)
        save_weights(network, temporary / _RAW_WEIGHTS, config_json)
        moments = _optimizer_tensors(network, optimizer)
        write_flushed(temporary / _OPTIMIZER, save(moments, checksums_of(moments)))
        write_flushed(temporary / _STATE, json.dumps(asdict(state), indent=2).encode())
        sums = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        write_flushed(temporary / _MANIFEST, json.dumps(sums, indent=2).encode())
        flush_folder(temporary)
        _remove(target)  # a damaged one, or the same step once more
        temporary.replace(target)
        flush_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-KEPT]:
        _remove(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; the empty list where there is no folder."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def whole_checkpoints(folder: Path) -> tuple[list[Path], list[str]]:
    """The checkpoints with all the bytes that were saved, oldest first, and what is wrong with each of the others."""
    whole, damage = [], []
    for checkpoint in checkpoints(folder):
        try:
            refuse_damage(checkpoint)
            whole.append(checkpoint)
        except InputRefused as refusal:
            damage.append(str(refusal))
    return whole, damage


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint. Raises InputRefused where there is none, or where a newer one is damaged."""
    whole, damage = whole_checkpoints(folder)
    if not whole and not damage:
        raise InputRefused(f"{folder} holds no checkpoint: train the run first.")
    if not whole or whole[-1] != checkpoints(folder)[-1]:
        raise InputRefused(damage[-1])
    return whole[-1]


def load_checkpoint(
    checkpoint: Path, network: nn.Module, average: MovingAverage, optimizer: Optimizer
) -> TrainingState:
    """Put a checkpoint's tensors into the three and return its state.

    Raises InputRefused, naming the file, for a checkpoint that is incomplete, changed on the disk, of another format
    or of another network.
    """
    state = _read_state(checkpoint)
    refuse_damage(checkpoint)
    load_weights(average.network, checkpoint / _WEIGHTS)
    load_weights(network, checkpoint / _RAW_WEIGHTS)
    _load_optimizer(network, optimizer, checkpoint / _OPTIMIZER)
    return state


def refuse_damage(checkpoint: Path) -> None:
    """Raise InputRefused, naming file and tensor, unless the checkpoint has all its files as they were saved."""
    names = (_WEIGHTS, _RAW_WEIGHTS, _OPTIMIZER, _STATE)
    try:
        sums = TypeAdapter(dict[str, str]).validate_json((checkpoint / _MANIFEST).read_bytes())
        found = {name: _sha256(checkpoint / name) for name in names}
    except (OSError, ValidationError) as error:
        raise InputRefused(f"{checkpoint} is not a complete checkpoint ({_MANIFEST}): {error}.") from error
    for name in names:
        if found[name] != sums.get(name):
            where = damaged_tensor(checkpoint / name) if name.endswith(".safetensors") else None
            tensor = f"tensor {where} is damaged, and " if where is not None else ""
            raise InputRefused(
                f"{checkpoint / name} is not the file that was saved: {tensor}its sha256 differs from {_MANIFEST}'s; "
                "remove that checkpoint's folder."
            )


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that it is never there in part."""
    if checkpoint.exists():
        going = temporary_beside(checkpoint)
        checkpoint.replace(going)
        shutil.rmtree(going, ignore_errors=True)


def _read_state(checkpoint: Path) -> TrainingState:
    path = checkpoint / _STATE
    try:
        content = path.read_bytes()
        found = TypeAdapter(dict[str, Any]).validate_json(content).get("format")
        if found != FORMAT:
            raise InputRefused(f"{path}: format {found!r:.20}, this Bevel reads format {FORMAT}.")
        return TypeAdapter(TrainingState).validate_json(content)
    except (OSError, ValidationError) as error:
        raise InputRefused(f"{path} is not the state of a training: {error}.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _optimizer_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


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
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
