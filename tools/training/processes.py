"""One training process among several: torchrun sets WORLD_SIZE, RANK and LOCAL_RANK."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from datasets.faults import InputRefused
from tools.devices import DeviceChoice, choose_device, out_of_memory_text
from tools.exit_codes import CommandFailed, Diverged
from tools.training.attempts import Attempt, agree_on_attempt

# Every group that this process has joined, for as long as it lives. Were DDP the last to hold one, it would end the
# group's threads while it holds Python's lock, for which a thread of gloo that lets go of a failed exchange waits:
# the process would stand still after its last sentence. A reference from Python is given up without the lock.
_GROUPS: list[object] = []

# What gloo says of a process that is gone or silent; its errors have no class of their own.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "Socket closed")


@dataclass(frozen=True)
class Processes:
    """How many train together, which of them this is, and its device. The first one writes the files.

    `sharded`: each has a share of the weights only. `attempt`: which of torchrun's starts this is.
    """

    count: int
    rank: int
    device: torch.device
    sharded: bool = False
    attempt: Attempt | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def began(self, run: Path) -> bool:
        """Whether an earlier attempt of the same torchrun began this run. (Only the first process knows its path.)"""
        return self.attempt is not None and self.attempt.begun == run.resolve()

    def note_begun(self, run: Path) -> None:
        """Let torchrun's next attempt, if there is one, go on with this run."""
        if self.attempt is not None:
            self.attempt.note_begun(run)

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag: whether it is set in any process. All processes must call this at the same place."""
        if self.count == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in tensor.tolist())

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Put into these what they are in the first process. All processes must call this at the same place."""
        for tensor in tensors if self.count > 1 else ():
            distributed.broadcast(tensor, 0)

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

    def said(self, text: str) -> tuple[str, ...]:
        """What each process says. All processes must call this at the same place."""
        if self.count == 1:
            return (text,)
        own = torch.tensor(list(f"{text}\0".encode()), dtype=torch.uint8)
        return tuple(bytes(self.joined(own[:, None]).flatten().tolist()).decode().split("\0")[:-1])


@contextmanager
def join_processes(choice: DeviceChoice, timeout_seconds: float, *, shard: bool = False) -> Iterator[Processes]:
    """This process alone, or its place in the group that torchrun started (nccl on CUDA, gloo on CPU).

    `shard`: they share the weights out. Raises InputRefused where they should and this process is alone, where
    torchrun's variables are not complete or there are more processes than GPUs, and whatever an earlier attempt of this
    torchrun was refused for; CommandFailed where another process of the group does not come, has died, or has not
    answered for so long, and where a GPU's memory is too small.
    """
    if shard and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputRefused("--shard divides the weights among the processes of torchrun, and this one is alone.")
    try:
        if "WORLD_SIZE" in os.environ:
            with _joined_group(choice, timedelta(seconds=timeout_seconds), shard) as processes:
                yield processes
        else:
            yield Processes(1, 0, choose_device(choice))
    except RuntimeError as error:
        refuse_failure_of_group(error, timeout_seconds)
        raise


def refuse_failure_of_group(error: RuntimeError, timeout_seconds: float) -> None:
    """Raise CommandFailed where another process has died or has not answered for so long, or a GPU's memory is too
    small; nothing otherwise.
    """
    if isinstance(error, torch.OutOfMemoryError):
        raise CommandFailed(out_of_memory_text(error)) from error
    if _of_another_process(error):
        raise CommandFailed(
            f"Another training process died, or did not answer for {timeout_seconds:g} s "
            f"({str(error).splitlines()[0]:.200}): see what it printed, then go on with --resume."
        ) from error


@contextmanager
def _joined_group(choice: DeviceChoice, timeout: timedelta, shard: bool) -> Iterator[Processes]:
    try:
        device = choose_device(choice, int(os.environ.get("LOCAL_RANK", "0")))
        store, rank, count = next(iter(rendezvous("env://", timeout=timeout)))
    except ValueError as error:
        raise InputRefused(
            f"WORLD_SIZE is in the environment, and what goes with it is not ({error}): start several processes with "
            "torchrun, which sets all of it; for one alone, unset WORLD_SIZE."
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    attempt = agree_on_attempt(store, rank, count, timeout)
    if attempt.refused is not None:
        raise attempt.refused
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=attempt.keys, rank=rank, world_size=count, timeout=timeout)
    _GROUPS.append(distributed.group.WORLD)
    try:
        yield Processes(count, rank, device, sharded=shard, attempt=attempt)
    except (InputRefused, Diverged) as refusal:
        # What an attempt refuses that goes on with a run may be over in the next one: a node or a disk is missing. One
        # process alone may train several runs.
        if count > 1 and (attempt.begun is None or isinstance(refusal, Diverged)):
            attempt.note_refused(refusal)
        raise
    finally:
        distributed.destroy_process_group()


def _of_another_process(error: RuntimeError) -> bool:
    """Whether an error says that a collective operation found a peer gone or silent."""
    if isinstance(error, distributed.DistError):
        return True
    return any(words in str(error) for words in _GONE)
