"""One training process among several: torchrun sets WORLD_SIZE, RANK and LOCAL_RANK."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed

from tools.devices import DeviceChoice, choose_device


@dataclass(frozen=True)
class Processes:
    """How many train together, which of them this is, and its device. The first one writes the files."""

    count: int
    rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag: whether it is set in any process. All processes must call this at the same place."""
        if self.count == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in tensor.tolist())


@contextmanager
def join_processes(choice: DeviceChoice) -> Iterator[Processes]:
    """This process alone, or its place in the group that torchrun started (nccl on CUDA, gloo on CPU)."""
    if "WORLD_SIZE" not in os.environ:
        yield Processes(1, 0, choose_device(choice))
        return
    device = choose_device(choice, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_world_size(), distributed.get_rank(), device)
    finally:
        distributed.destroy_process_group()
