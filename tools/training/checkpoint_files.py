"""What of a run's checkpoints is on the disk, and whether it is what was saved.

    checkpoints/step_00000500/   weights.safetensors      the moving average: what is evaluated
                                 raw_weights.safetensors  the weights that training goes on from
                                 optimizer.safetensors    the moments, by parameter name
                                 state.json               step, and what the run was trained on
                                 manifest.json            the sha256 of each of these files

torch.load notices no flipped bit; the manifest does, and the checksums of the tensors say which one.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from datasets.faults import InputRefused
from perception.weights import damaged_tensor

WEIGHTS, RAW_WEIGHTS, OPTIMIZER = "weights.safetensors", "raw_weights.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; the empty list where there is no folder."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def earlier_save(checkpoint: Path) -> Path:
    """Where a checkpoint waits while another of its step takes its place: one like any other till then."""
    return checkpoint.with_name(f"{checkpoint.name}_before")


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


def set_damaged_aside(folder: Path, whole: Sequence[Path]) -> list[Path]:
    """Rename the checkpoints that are not `whole`, so that they are none any more. Returns where they are now.

    Raises OSError where the folder cannot be written to.
    """
    moved = []
    for damaged in checkpoints(folder):
        if damaged not in whole:
            aside = folder / f"damaged_{damaged.name}"
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            moved.append(damaged.replace(aside))
    return moved


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint. Raises InputRefused where there is none, or where a newer one is damaged."""
    whole, damage = whole_checkpoints(folder)
    if not whole and not damage:
        raise InputRefused(f"{folder} holds no checkpoint: train the run first.")
    if not whole or whole[-1] != checkpoints(folder)[-1]:
        raise InputRefused(damage[-1])
    return whole[-1]


def refuse_damage(checkpoint: Path) -> None:
    """Raise InputRefused, naming file and tensor, unless the checkpoint has all its files as they were saved."""
    names = (WEIGHTS, RAW_WEIGHTS, OPTIMIZER, STATE)
    try:
        sums = TypeAdapter(dict[str, str]).validate_json((checkpoint / MANIFEST).read_bytes())
        found = {name: sha256_of(checkpoint / name) for name in names}
    except (OSError, ValidationError) as error:
        raise InputRefused(f"{checkpoint} is not a complete checkpoint ({MANIFEST}): {error}.") from error
    for name in names:
        if found[name] != sums.get(name):
            where = damaged_tensor(checkpoint / name) if name.endswith(".safetensors") else None
            tensor = f"tensor {where} is damaged, and " if where is not None else ""
            raise InputRefused(
                f"{checkpoint / name} is not the file that was saved: {tensor}its sha256 differs from {MANIFEST}'s; "
                "remove that checkpoint's folder."
            )


def sha256_of(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
