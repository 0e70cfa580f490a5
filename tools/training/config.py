"""How a network is trained: one frozen dataclass, and what follows from it."""

import math
from dataclasses import dataclass
from typing import Literal

from datasets.augmentation.augmenter import Augmentation
from tools.training.order import Sampling


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule and what is done to the data. Exactly one of `steps`, `epochs` is set."""

    batch_size: int
    """Samples in a batch, of each process."""
    learning_rate: float
    """The highest learning rate, for batches of `reference_batch_size` in all."""
    reference_batch_size: int
    """The learning rate is scaled by the square root of the real batch over this one (Malladi et al. 2022: the rule
    for Adam), so that a published rate for 32 does not explode at 2."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: matrices and convolutions by Muon (tools/training/muon.py), the rest by AdamW, at the same rate."""
    steps: int | None = None
    epochs: float | None = None
    weight_decay: float = 0.01
    """Of matrices and convolutions; biases and norms are not decayed."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises, linearly; afterwards it falls as a cosine."""
    clip_norm: float = 10.0
    """The norm of all gradients together is cut to this."""
    ema_decay: float = 0.999
    """Of the moving average of the weights, which is what is saved as the result and evaluated."""
    modality_dropout: float = 0.25
    """Probability that a training sample loses some of its modalities, so that one network works with any subset."""
    augmentation: Augmentation | None = None
    sampling: Sampling = "plain"
    """plain: each epoch has every sample once. class_balanced: samples with rare classes come more than once, so that
    each class has an equal share (CBGS); an epoch is then several times as long."""
    shuffled_shards: int = 16
    """Samples out of shards are shuffled among those of so many shards at a time (docs/shards.md)."""
    objective: Literal["detection", "cross_modal"] = "detection"
    """What is learnt: a detector from annotations, or its sensor branches from one another (`bevel pretrain`)."""
    seed: int = 0
    workers: int = 1
    """Processes that load samples, for each training process; 0: the training process loads them itself."""
    checkpoint_interval: int = 500
    """Steps between two checkpoints."""
    max_nonfinite_steps: int = 10
    """So many steps in a row without a finite loss or gradient end the training (exit code 6)."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be set")
        counts = ("batch_size", "reference_batch_size", "shuffled_shards", "checkpoint_interval", "max_nonfinite_steps")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("steps", "epochs", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, not {value}")
        for name in ("warmup_fraction", "ema_decay", "modality_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if self.weight_decay < 0 or self.workers < 0:
            raise ValueError("weight_decay and workers must not be negative")

    def total_steps(self, samples: int, processes: int) -> int:
        """How many steps the training takes where an epoch has so many samples."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 0.0) * samples / (self.batch_size * processes)))

    def peak_learning_rate(self, processes: int) -> float:
        """The learning rate for batches of this size on so many processes."""
        return self.learning_rate * math.sqrt(self.batch_size * processes / self.reference_batch_size)


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Linear warm-up from a tenth of the peak, then half a cosine down to a thousandth of it. `step` counts from 0."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return peak * (0.1 + 0.9 * step / warmup_steps)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (0.001 + 0.999 * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))))
