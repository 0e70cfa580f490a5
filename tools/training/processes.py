"""One training process among several: torchrun sets WORLD_SIZE, RANK and LOCAL_RANK."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from datasets.faults import InputRefused
from tools.devices import DeviceChoice, choose_device
from tools.exit_codes import CommandFailed

# What gloo says of a process that is gone or silent; its errors have no class of their own.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "Socket closed")


@dataclass(frozen=True)
class Processes:
    """How many train together, which of them this is, and its device. The first one writes the files.

    `restarted`: torchrun started them again after one had died. `sharded`: each has a share of the weights only.
    """

    count: int
    rank: int
    device: torch.device
    restarted: bool = False
    sharded: bool = False

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

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes. All processes must call this at the same place."""
        if self.count == 1:
            return values
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed / self.count

    def joined(self, rows: Tensor) -> Tensor:
        """The rows (N, C) of all processes, one process after another, on the CPU. All must call this.

        (Not distributed.all_gather_object: that pickles.)
        """
        counts = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        counts[self.rank] = len(rows)
        distributed.all_reduce(counts)
        padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]), device=self.device)
        padded[: len(rows)] = rows.to(self.device)
        gathered = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts.tolist(), strict=True)]).cpu()


@contextmanager
def join_processes(choice: DeviceChoice, timeout_seconds: float, *, shard: bool = False) -> Iterator[Processes]:
    """This process alone, or its place in the group that torchrun started (nccl on CUDA, gloo on CPU).

    `shard`: they share the weights out. Raises InputRefused where they should and this process is alone, CommandFailed
    where another process of the group has died, or has not answered for so long.
    """
    if shard and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputRefused("--shard divides the weights among the processes of torchrun, and this one is alone.")
    if "WORLD_SIZE" not in os.environ:
        yield Processes(1, 0, choose_device(choice))
        return
    device = choose_device(choice, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    restarts, timeout = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), timedelta(seconds=timeout_seconds)
    store, rank, count = next(iter(rendezvous("env://", timeout=timeout)))
    # The store is torchrun's and outlives a restart: there stand the addresses of the processes that died.
    store = PrefixStore(f"after {restarts} restarts", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    try:
        yield Processes(distributed.get_world_size(), distributed.get_rank(), device, restarts > 0, shard)
    except RuntimeError as error:
        if _of_another_process(error):
            raise CommandFailed(
                f"Another training process died, or did not answer for {timeout_seconds:g} s "
                f"({str(error).splitlines()[0]:.200}): see what it printed, then go on with --resume."
            ) from error
        raise
    finally:
        distributed.destroy_process_group()


def _of_another_process(error: RuntimeError) -> bool:
    """Whether an error says that a collective operation found a peer gone or silent."""
    if isinstance(error, distributed.DistError):
        return True
    return any(words in str(error) for words in _GONE)
