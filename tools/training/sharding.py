"""Weights in shares: each process of torchrun keeps its rows of every parameter (FSDP2), and all of them for a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from datasets.faults import InputRefused
from datasets.samples.batch import Batch
from perception.losses import Counts, Losses
from tools.training.config import TrainingConfig
from tools.training.processes import Processes


def refuse_unshardable(settings: TrainingConfig) -> None:
    """Raise InputRefused for settings that need whole gradients in each process."""
    if settings.optimizer == "muon":
        raise InputRefused("--shard: muon needs whole matrices; set training.optimizer to adamw or sgd.")
    if settings.precision == "fp16":
        raise InputRefused("--shard: fp16's scale needs whole gradients; set training.precision to bf16 or fp32.")
    if settings.compile:
        raise InputRefused("--shard: compiled parts have not been tried with it; set training.compile to false.")


class ShardedModel(nn.Module):
    """A module that gives Losses, its parameters in shares; as DistributedDataParallel, it is called instead of it.

    The parameters are gathered for its forward pass, and each process is left with the mean gradient of its share. All
    processes gather all parameters at once, whatever sensors their batches have: a branch that is gathered on its own
    would be waited for where no sample has the sensor.
    """

    def __init__(self, module: nn.Module, averaged: nn.Module, processes: Processes) -> None:
        """`averaged`: a copy of the network, whose parameters are divided in the same way and never gathered here."""
        super().__init__()
        for tensor in (*module.state_dict().values(), *averaged.state_dict().values()):
            distributed.broadcast(tensor, 0)  # or shares of different networks would make one
        # Of the group that there is, with its timeout; init_device_mesh may make another one.
        group = distributed.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, processes.device.type)
        self._whole = _WithEveryParameter(module)
        fully_shard(self._whole, mesh=mesh)  # in place
        fully_shard(averaged, mesh=mesh)

    @property
    def module(self) -> nn.Module:
        """The module that was given."""
        return self._whole.module

    def forward(self, batch: Batch, counts: Counts | None = None) -> Losses:
        """The losses of a batch."""
        total, parts = self._whole(batch, counts)
        return Losses(total, parts)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay in this process: they are exchanged with those of a later batch."""
        fsdp: Any = self._whole
        assert isinstance(fsdp, FSDPModule)
        fsdp.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            fsdp.set_requires_gradient_sync(True)

    def forget_unused(self, processes: Processes) -> None:
        """After a step's last backward pass: take the gradients of 0 from what no process used. Without shares it has
        none either, and neither moments nor decay touch it. All processes must call this.
        """
        named = [(name, parameter) for name, parameter in self._whole.named_parameters() if parameter.requires_grad]
        used = processes.any_of(*(name in self._whole.used for name, _ in named))
        for (_, parameter), was_used in zip(named, used, strict=True):
            if not was_used:
                parameter.grad = None
        self._whole.used.clear()


class _WithEveryParameter(nn.Module):
    """Losses as tensors that depend on every parameter, if only with a factor of 0: processes that exchange gradients
    must have the same ones. `used`: the names of those that they really depended on.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.used: set[str] = set()

    def forward(self, batch: Batch, counts: Counts | None) -> tuple[Tensor, dict[str, Tensor]]:
        losses: Losses = self.module(batch, counts)
        total = losses.total
        reached = _leaves(total)
        for name, parameter in self.named_parameters():
            if parameter in reached:
                self.used.add(name)
            elif parameter.requires_grad:
                total = total + 0.0 * parameter.flatten()[0]
        return total, losses.parts


def _leaves(result: Tensor) -> set[Tensor]:
    """The tensors that a backward pass from a result would give gradients."""
    found: set[Tensor] = set()
    seen, left = {result.grad_fn}, [result.grad_fn]
    while left:
        node = left.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.add(node.variable)
        after = [function for function, _ in node.next_functions if function not in seen]
        seen.update(after)
        left += after
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor from its shares, in every process: all must call this. What has no shares is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a tensor that all processes have, divided as `like` is; all of it where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def own_rows(tensor: Tensor) -> Tensor:
    """What of a tensor this process has: it can be changed in place."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The network's state by name, one tensor after another, with the first process's buffers. Where weights are in
    shares, all processes must go through it.
    """
    state: dict[str, Tensor] = network.state_dict()
    in_shares = any(isinstance(value, DTensor) for value in state.values())
    for name, value in state.items():
        if in_shares and not isinstance(value, DTensor):
            buffer = value.clone()
            distributed.broadcast(buffer, 0)
            yield name, buffer
        else:
            yield name, whole(value).detach()
