"""One step of training: forward, backward, and nothing at all where the numbers are not finite."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from datasets.samples.batch import Batch
from perception.losses import Counts, Losses
from perception.modality_dropout import drop_modalities
from tools.training.config import Precision, TrainingConfig
from tools.training.network import Network
from tools.training.processes import Processes
from tools.training.schedule import set_rates
from tools.training.sharding import ShardedModel, whole

_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossOfBatch(nn.Module):
    """The network and its losses as one module, because DistributedDataParallel watches a forward pass only.

    The network computes in the `precision` (sparse convolutions, the camera's way to the BEV and what else needs it
    stay in float32 by themselves); the losses are always float32.
    """

    def __init__(self, detector: Network, precision: Precision = "fp32") -> None:
        super().__init__()
        self.detector = detector
        self._dtype = _AUTOCAST.get(precision)

    def forward(self, batch: Batch, counts: Counts | None = None) -> Losses:
        """The losses of a batch, annotated where the network learns from that, divided by `counts` (None: its own)."""
        with torch.autocast(batch.images.device.type, self._dtype, enabled=self._dtype is not None):
            predictions = self.detector(batch)
        if self._dtype is not None:
            predictions = _in_float32(predictions)
        losses: Losses = self.detector.losses(predictions, batch, counts=counts)
        return losses


@dataclass(frozen=True)
class StepResult:
    """What came of a step: the mean over its batches and, of the loss, over the processes. Where `finite` is False
    nothing was changed; `suspect`: whether the batches of this process can be the reason, and not only those of others,
    whose losses are not finite.
    """

    loss: float
    parts: dict[str, float]
    gradient_norm: float
    finite: bool
    suspect: bool


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
    batches: Sequence[Batch],
    config: TrainingConfig,
    *,
    learning_rate: float,
    generator: torch.Generator,
    processes: Processes,
    momentum: float | None = None,
    scaler: GradScaler | None = None,
) -> StepResult:
    """One step on one or several batches on the CPU, as if they were one; `model` gives the Losses of each.

    Where a loss or a gradient is not finite, in any process, the step is skipped in all: the weights and the moments
    are not touched, and batch norm's statistics, which the forward pass has changed by then, are put back. That is
    asked once, at the end: without its backward pass this process would leave the others waiting in theirs. `scaler`:
    of the loss in fp16; it learns from a skipped step, too, unless the loss was not finite before it was scaled.
    """
    set_rates(optimizer, learning_rate, momentum)
    optimizer.zero_grad(set_to_none=True)
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    masked = [drop_modalities(batch, config.modality_dropout, generator).to(processes.device) for batch in batches]
    counts = _shared_counts(model, masked, processes)
    total = torch.zeros((), device=processes.device)
    parts: dict[str, float] = {}
    for index, batch in enumerate(masked):
        with _without_exchange(model) if index < len(masked) - 1 else nullcontext():
            losses: Losses = model(batch, counts)
            total = total + losses.total.detach() / len(masked)
            for name, part in losses.parts.items():
                parts[name] = parts.get(name, 0.0) + float(part) / len(masked)
            share = losses.total / len(masked)
            (share if scaler is None else scaler.scale(share)).backward()  # type: ignore[no-untyped-call]
    if isinstance(model, ShardedModel):
        model.forget_unused(processes)
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    own_broken = (~torch.stack([total, norm]).isfinite()).tolist()
    loss_broken, gradient_broken = processes.any_of(*own_broken)
    broken = loss_broken or gradient_broken
    if not broken:
        optimizer.step()
    if scaler is not None:
        scaler.update(scaler.get_scale() if loss_broken else None)
    if broken:
        _put_back(before)
        optimizer.zero_grad(set_to_none=True)
    suspect = broken and (own_broken[0] or not loss_broken)
    return StepResult(float(processes.mean(total)), parts, float(norm), finite=not broken, suspect=suspect)


def scale_of(scaler: GradScaler) -> dict[str, Any]:
    """What a checkpoint keeps of the scaler: the fields of TrainingState."""
    state = scaler.state_dict()
    return {"loss_scale": float(state["scale"]), "loss_scale_steps": int(state["_growth_tracker"])}


def put_scale_back(scaler: GradScaler, loss_scale: float | None, loss_scale_steps: int) -> None:
    """Go on with what `scale_of` gave; None: of a checkpoint of a run in another precision."""
    if loss_scale is not None:
        scaler.load_state_dict(scaler.state_dict() | {"scale": loss_scale, "_growth_tracker": loss_scale_steps})


def _shared_counts(model: nn.Module, batches: Sequence[Batch], processes: Processes) -> Counts | None:
    """What each batch's losses are divided by so that their mean is the loss of all together; None for a lone batch."""
    if len(batches) * processes.count == 1:
        return None
    network = _network_of(model)
    each = [network.loss_counts(batch) for batch in batches]
    names = list(each[0])
    if not names:  # losses that are means already
        return None
    mean_of_batches = torch.stack([torch.stack([counts[name] for name in names]) for counts in each]).mean(dim=0)
    mean = processes.mean(mean_of_batches).clamp(min=1.0 / (len(batches) * processes.count))
    return dict(zip(names, mean.unbind(), strict=True))


def _network_of(model: nn.Module) -> Network:
    inner = model.module if isinstance(model, DistributedDataParallel | ShardedModel) else model
    if not isinstance(inner, LossOfBatch):
        raise TypeError("a training step needs a LossOfBatch")
    return inner.detector


def _without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay in this process: they are exchanged once, with those of the step's last batch."""
    return model.no_sync() if isinstance(model, DistributedDataParallel | ShardedModel) else nullcontext()


def _in_float32(value: Any) -> Any:
    """The same structure (dataclasses, dictionaries) with float32 in the place of shorter floating point numbers."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _AUTOCAST.values() else value
    if isinstance(value, dict):
        return {name: _in_float32(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _in_float32(getattr(value, part.name)) for part in fields(value)})
    return value


@torch.no_grad()
def _put_back(before: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in before:
        buffer.copy_(value)
