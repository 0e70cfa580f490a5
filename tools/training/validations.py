"""The validations of a training so far: which one was the best, and whether the file of its weights is still there."""

from dataclasses import dataclass, replace
from pathlib import Path

from tools.training.checkpoint_files import sha256_of


@dataclass(frozen=True)
class BestWeights:
    """The validation with the highest NDS, after so many steps, and the sha256 of the file of its weights."""

    nds: float
    step: int
    sha256: str


@dataclass(frozen=True)
class Validations:
    """What a checkpoint says of them."""

    split: str
    """The fingerprint of the samples that are validated on: figures of others cannot be compared with these."""
    last_step: int = 0
    """Steps done when the last one was. A checkpoint is saved before its step is validated."""
    best: BestWeights | None = None
    since_best: int = 0
    """How many there have been since the best one."""

    def with_best(self, best: BestWeights) -> "Validations":
        """After a validation that was better than all before."""
        return replace(self, last_step=best.step, best=best, since_best=0)

    def without_better(self, step: int) -> "Validations":
        """After a validation that was not better."""
        return replace(self, last_step=step, since_best=self.since_best + 1)

    def lost(self, weights: Path) -> str | None:
        """What is wrong with the file of the best weights, in one sentence; None where nothing is.

        A later validation has written over it where the newest checkpoint is damaged, or where the training was killed
        between the two.
        """
        if self.best is None or (weights.is_file() and sha256_of(weights) == self.best.sha256):
            return None
        return (
            f"{weights} does not hold the best weights, of step {self.best.step} with NDS {self.best.nds:.4f}, any "
            "more: they are forgotten, and the next validation's are the best."
        )

    def forgotten(self) -> "Validations":
        """Where the best weights are lost: as if there had been no validation. One that belongs to this step is done
        again, and what a later one had written over them is found to be the best again.
        """
        return Validations(self.split)
