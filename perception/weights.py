"""A detector's weights in one safetensors file, with the config that built it and a checksum for each tensor."""

import json
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused

_FORMAT = "bevel-weights-1"


def save_weights(detector: nn.Module, path: Path, config_json: str) -> None:
    """Write the weights and buffers, with any JSON text as the config, atomically.

    Checksums are kept because neither safetensors nor torch notices a flipped bit. Raises OSError where the file cannot
    be written; a file that stood there before is then untouched.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    save_tensors(tensors, path, config_json)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, config_json: str) -> None:
    """`save_weights` for a state that was taken from the detector already, on the CPU."""
    metadata = {"format": _FORMAT, "config": config_json} | checksums_of(tensors)
    write_atomically(path, save(dict(tensors), metadata))


def checksums_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Metadata for a safetensors file with which `damaged_tensor` finds what was damaged."""
    return {"crc32": json.dumps({name: _checksum(value) for name, value in tensors.items()})}


def damaged_tensor(path: Path) -> str | None:
    """The first tensor of a file that does not match its checksum; None where none is found or none can be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            checksums = json.loads((file.metadata() or {})["crc32"])
            return next((name for name in checksums if checksums[name] != _checksum(file.get_tensor(name))), None)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def load_weights(detector: nn.Module, path: Path) -> None:
    """Load weights into a detector of the same config.

    Raises InputRefused as `read_weights` does. The detector is changed only if everything fits.
    """
    detector.load_state_dict(read_weights(detector, path))


def read_weights(detector: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of a file, which are those of the detector's state, on the CPU.

    Raises InputRefused, naming the file and the first tensor that does not fit, for a file that is missing, cut,
    damaged, not ours, or of another architecture.
    """
    tensors = _read(path)
    expected = detector.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        kind, names = ("lacks", missing) if missing else ("has the unknown tensor", unexpected)
        raise InputRefused(
            f"{path} {kind} {names[0]} ({len(missing)} missing, {len(unexpected)} unexpected): "
            "it belongs to a detector of another config; build the detector from the file's own."
        )
    for name, value in tensors.items():
        want = expected[name]
        if value.shape != want.shape or value.dtype != want.dtype:
            raise InputRefused(
                f"{path}: {name} is {_describe(value)} where this detector has {_describe(want)}: "
                "it belongs to a detector of another config; build the detector from the file's own."
            )
    return tensors


@dataclass(frozen=True)
class PartsFound:
    """Which parts of a network (`camera`, `head`, ...) a weights file had, each with its number of tensors; which of
    the network's parts it did not have; and which parts of the file the network has no place for.
    """

    loaded: dict[str, int]
    new: dict[str, int]
    unused: dict[str, int]

    def text(self, path: Path) -> str:
        """One line."""
        parts = [f"{_in_words(self.loaded)} from {path}", f"{_in_words(self.new)} new"]
        if self.unused:
            parts.append(f"{_in_words(self.unused)} of the file not used")
        return "; ".join(parts)


def parts_of(path: Path) -> frozenset[str]:
    """The parts (`camera`, `head`, ...) that a weights file has, of which no tensor is read.

    Raises InputRefused where it cannot be opened.
    """
    with _opened(path) as file:
        return frozenset(map(_part, file.keys()))


def load_parts(network: nn.Module, path: Path) -> PartsFound:
    """Load those parts of a network that a weights file has; the others keep what they have.

    A part comes whole or not at all. Raises InputRefused, naming the file and the tensor, as `load_weights` does, for a
    part of another shape, and for a file that has no part of the network.
    """
    tensors = _read(path)
    expected = network.state_dict()
    loaded, new, unused = _counted(expected, tensors), _counted(expected), _counted(tensors)
    if not loaded:
        raise InputRefused(f"{path} has none of the network's parts ({', '.join(new)}), but {', '.join(unused)}.")
    for name in [*expected, *tensors]:
        if _part(name) in loaded and (name not in tensors or name not in expected):
            lacking = "lacks" if name not in tensors else "has the unknown tensor"
            raise InputRefused(
                f"{path} {lacking} {name}: its {_part(name)} is of another config; start from a config with that part "
                "as the file's run has it."
            )
    for name, value in tensors.items():
        if name in expected and (value.shape != expected[name].shape or value.dtype != expected[name].dtype):
            raise InputRefused(
                f"{path}: {name} is {_describe(value)} where this network has {_describe(expected[name])}: start from "
                f"a config with that {_part(name)} as the file's run has it."
            )
    network.load_state_dict({name: value for name, value in tensors.items() if name in expected}, strict=False)
    for part in loaded:
        del new[part], unused[part]
    return PartsFound(loaded, new, unused)


def _counted(names: Iterable[str], also_in: Container[str] | None = None) -> dict[str, int]:
    """How many tensors each part has, of those names that are `also_in` another collection."""
    return dict(Counter(_part(name) for name in names if also_in is None or name in also_in))


def _part(name: str) -> str:
    """The first word; what a head has for the radars' velocities is apart: it depends on the radar branch."""
    first, *others = name.split(".")
    return f"{first}.radar" if "radar" in others else first


def _in_words(parts: Mapping[str, int]) -> str:
    of = f" ({', '.join(parts)})" if parts else ""
    return f"{sum(parts.values())} tensors{of}"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; what fails while it is open raises InputRefused."""
    if not path.is_file():
        raise InputRefused(f"{path}: there is no such weights file.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise InputRefused(f"{path} is not a readable weights file: {error}. Copy or train it again.") from error


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, checksums verified."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if metadata.get("format") != _FORMAT:
        raise InputRefused(
            f"{path}: format {metadata.get('format')!r}, expected {_FORMAT!r}: not a Bevel weights file."
        )
    try:
        checksums = json.loads(metadata["crc32"])
    except (KeyError, ValueError) as error:
        raise InputRefused(f"{path}: its metadata is damaged ({error!r}). Copy or train it again.") from error
    for name, value in tensors.items():
        if checksums.get(name) != _checksum(value):
            raise InputRefused(
                f"{path}: tensor {name} does not match its checksum: the file is damaged. Copy it again."
            )
    return tensors


def _checksum(value: Tensor) -> int:
    return zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _describe(value: Tensor) -> str:
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
