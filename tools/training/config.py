"""How a network is trained: one frozen dataclass, and what follows from it."""

import math
from dataclasses import dataclass
from typing import Literal

from datasets.augmentation.augmenter import Augmentation
from tools.training.order import Sampling
from tools.training.schedule import Schedule

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule and what is done to the data. Exactly one of `steps`, `epochs` is set."""

    batch_size: int
    """Samples in a batch, of each process: as many as fit into its memory."""
    learning_rate: float
    """The highest learning rate, for batches of `reference_batch_size` in all."""
    reference_batch_size: int
    """The learning rate is scaled by the square root of the real batch over this one (Malladi et al. 2022: the rule
    for Adam; sgd: by the quotient itself, Goyal et al. 2017), so that a published rate for 32 does not explode at 2."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon: matrices and convolutions by Muon (tools/training/muon.py), the rest by AdamW, at the same rate. sgd: with
    Nesterov's momentum."""
    schedule: Schedule = "cosine"
    """cosine: warm-up, then half a cosine. one_cycle: half a cosine up and one down, the momentum the other way."""
    accumulate: int = 1
    """So many batches, one after another, make one step: as if they were one batch."""
    precision: Precision = "fp32"
    """What the network computes in; losses and sparse convolutions stay in float32, fp16 scales the loss."""
    checkpoint_activations: bool = False
    """Compute the camera backbone and the fusion twice, forward and again for the gradients, instead of keeping what
    they computed: less memory, about a third more time."""
    compile: bool = False
    """Make kernels of the dense parts with torch.compile: fewer, larger ones for a GPU, after minutes of compiling."""
    steps: int | None = None
    epochs: float | None = None
    weight_decay: float = 0.01
    """Of matrices and convolutions; biases and norms are not decayed."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises (published for one_cycle: 0.4)."""
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
    objective: Literal["detection", "cross_modal", "perspective"] = "detection"
    """What is learnt: a detector from annotations or, with `bevel pretrain`, its sensor branches from one another
    (cross_modal) or its camera branch from the annotated boxes in the pictures (perspective)."""
    seed: int = 0
    workers: int = 1
    """Processes that load samples, for each training process; 0: the training process loads them itself."""
    loader_timeout: float = 30.0
    """Seconds after which a batch that does not come ends the training; the first one has at least 300."""
    checkpoint_interval: int = 500
    """Steps between two checkpoints."""
    process_timeout: float = 600.0
    """Seconds after which a training process that does not answer the others ends the training."""
    validate_every: int | None = None
    """Steps between two validations on --val-split (at the end there is one, too): figures and a picture in the log,
    the weights with the best NDS in best.safetensors."""
    patience: int | None = None
    """So many validations in a row without a better NDS end the training."""
    max_nonfinite_steps: int = 10
    """So many steps in a row without a finite loss or gradient end the training (exit code 6)."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be set")
        counts = (
            "batch_size",
            "reference_batch_size",
            "accumulate",
            "shuffled_shards",
            "checkpoint_interval",
            "max_nonfinite_steps",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("steps", "epochs", "learning_rate", "clip_norm", "loader_timeout", "process_timeout"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, not {value}")
        for name in ("warmup_fraction", "ema_decay", "modality_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        for name in ("validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("patience counts validations: set validate_every, too")
        if self.compile and self.checkpoint_activations:
            raise ValueError("compile keeps what checkpoint_activations computes again: set one of them")
        if self.weight_decay < 0 or self.workers < 0:
            raise ValueError("weight_decay and workers must not be negative")

    def total_steps(self, samples: int, processes: int) -> int:
        """How many steps the training takes where an epoch has so many samples."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 0.0) * samples / self.effective_batch(processes)))

    def effective_batch(self, processes: int) -> int:
        """Samples of a step, of all batches and processes together."""
        return self.batch_size * self.accumulate * processes

    def peak_learning_rate(self, processes: int) -> float:
        """The learning rate for batches of this size on so many processes."""
        ratio = self.effective_batch(processes) / self.reference_batch_size
        return self.learning_rate * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))

    def learning_rate_text(self, processes: int) -> str:
        """One line: the rate as it is stated, and as it is used."""
        rule = "in proportion" if self.optimizer == "sgd" else "by the square root"
        return (
            f"learning rate {self.learning_rate:g} for batches of {self.reference_batch_size}, scaled {rule} to "
            f"{self.peak_learning_rate(processes):g} for {self.effective_batch(processes)} = {self.batch_size} samples "
            f"x {self.accumulate} accumulated x {processes} processes; {self.optimizer}, {self.schedule}, "
            f"{self.precision}"
        )
