"""Which checkpoint a run goes on from, and that it is the same training that goes on."""

from collections.abc import Callable
from pathlib import Path

from datasets.faults import InputRefused
from tools.training.checkpoint import TrainingState
from tools.training.checkpoint_files import set_damaged_aside, whole_checkpoints
from tools.training.run_folder import RunFolder


def checkpoint_to_resume(run: RunFolder, log: Callable[[str], None], *, tidies: bool) -> Path | None:
    """The newest checkpoint that is whole; None where there is none yet. `tidies`: damaged ones are moved out of the
    way, or they would count among the newest, which are kept. Raises InputRefused where all are damaged.
    """
    whole, damage = whole_checkpoints(run.checkpoints)
    for text in damage:
        log(text)
    # Going back costs time and nothing else: what is trained again comes out in the same bits.
    if not whole and damage:
        raise InputRefused(f"{damage[-1]} No checkpoint is whole: start the training again in another folder.")
    if not whole:
        log(f"{run.checkpoints} holds no checkpoint yet: from the first step.")
        return None
    if damage:
        log(f"Resuming from {whole[-1]}, the newest checkpoint that is whole.")
    for moved in set_damaged_aside(run.checkpoints, whole) if tidies else ():
        log(f"The damaged one is now {moved}: nothing reads it any more, remove it when you like.")
    return whole[-1]


def refuse_other_training(checkpoint: Path, loaded: TrainingState, expected: TrainingState) -> None:
    """Raise InputRefused unless a checkpoint is of the training that `expected` is the beginning of (with the order of
    the checkpoint's epoch).
    """
    if loaded.data_fingerprint != expected.data_fingerprint:
        raise InputRefused(
            f"{checkpoint} was trained on other samples than this data set's split has: pass the --data-root, "
            "--version and --split of the first part."
        )
    if loaded.processes != expected.processes:
        raise InputRefused(
            f"{checkpoint} was trained by {loaded.processes} processes, these are {expected.processes}: the "
            "order of the samples would change; start as many processes."
        )
    if loaded.order_fingerprint != expected.order_fingerprint:
        raise InputRefused(
            f"{checkpoint} was trained on the samples in another order than this epoch has now: from tables "
            "instead of shards, from shards that were packed otherwise, or by another version of Bevel."
        )
    before, now = loaded.validations, expected.validations
    if before is not None and now is not None and before.split != now.split:
        raise InputRefused(
            f"{checkpoint} was validated on other samples than this --val-split has, and figures of two splits cannot "
            "be compared: pass the --val-split of the first part."
        )
