"""One step of training: forward, backward, and nothing at all where the numbers are not finite."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from datasets.samples.batch import Batch
from perception.losses import Losses
from perception.modality_dropout import drop_modalities
from tools.training.config import TrainingConfig
from tools.training.muon import Muon, is_matrix
from tools.training.network import Network
from tools.training.processes import Processes


class LossOfBatch(nn.Module):
    """The network and its losses as one module, because DistributedDataParallel watches a forward pass only."""

    def __init__(self, detector: Network) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch, which has annotations where the network learns from them."""
        losses: Losses = self.detector.losses(self.detector(batch), batch)
        return losses


@dataclass(frozen=True)
class StepResult:
    """What came of a step. Where `finite` is False nothing was changed."""

    loss: float
    parts: dict[str, float]
    gradient_norm: float
    finite: bool


def make_optimizer(detector: Network, config: TrainingConfig) -> Optimizer:
    """The optimiser of the config. Biases, norms and other vectors are not decayed: pulling them to zero regularises
    nothing.
    """
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    matrices = {
        parameter
        for module in detector.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if config.optimizer == "muon" and is_matrix(name, parameter)
    }
    others = [parameter for parameter in trained if parameter not in matrices]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": config.weight_decay, "matrix": False},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "matrix": False},
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate)
    chosen = [parameter for parameter in trained if parameter in matrices]
    return Muon(
        [{"params": chosen, "weight_decay": config.weight_decay, "matrix": True}, *groups], lr=config.learning_rate
    )


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed torch's own random numbers (dropout) for this step; returns a generator with another stream.

    Each step is seeded by its number, so that a resumed run draws what the uninterrupted one would have drawn.
    """
    own, other = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint64)
    torch.manual_seed(int(own) >> 1)
    return torch.Generator().manual_seed(int(other) >> 1)


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    config: TrainingConfig,
    *,
    learning_rate: float,
    generator: torch.Generator,
    processes: Processes,
) -> StepResult:
    """One step on a batch on the CPU; `model` gives its Losses.

    Where the loss or a gradient is not finite, in any process, the step is skipped in all: the weights and the moments
    are not touched, and batch norm's statistics, which the forward pass has changed by then, are put back.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    masked = drop_modalities(batch, config.modality_dropout, generator)
    losses: Losses = model(masked.to(processes.device))
    (broken,) = processes.any_of(not bool(losses.total.isfinite()))
    norm = losses.total.new_tensor(float("nan"))
    if not broken:
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        (broken,) = processes.any_of(not bool(norm.isfinite()))
    if broken:
        _put_back(before)
        optimizer.zero_grad(set_to_none=True)
    else:
        optimizer.step()
    parts = {name: float(part) for name, part in losses.parts.items()}
    return StepResult(float(losses.total.detach()), parts, float(norm), finite=not broken)


@torch.no_grad()
def _put_back(before: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in before:
        buffer.copy_(value)
