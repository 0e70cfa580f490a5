"""All frames of a set of shards, once an epoch, in a shuffled order, shared among processes, to be resumed anywhere.

Which frame comes when follows from (seed, epoch) and from who reads (rank, worker) alone. Shards come in a shuffled
order, frames are shuffled in their shard; of this order each rank, and in it each worker, has a stretch of its own, so
that it touches few shards and no two stretches differ by more than one frame.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info

from datasets.faults import InputRefused
from datasets.frames import LogFrame
from datasets.shards.reader import ShardReader

Made = TypeVar("Made")


def epoch_order(shard_sizes: Sequence[int], seed: int, epoch: int, shuffle: bool) -> list[tuple[int, int]]:
    """(shard, number in the shard) of every frame, each once."""
    generator = torch.Generator()
    # Odd multipliers spread (seed, epoch) over 63 bits: neighbours must not share a stream.
    generator.manual_seed((seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9) % (1 << 63))

    def order(count: int) -> list[int]:
        numbers: list[int] = torch.randperm(count, generator=generator).tolist() if shuffle else list(range(count))
        return numbers

    return [(shard, number) for shard in order(len(shard_sizes)) for number in order(shard_sizes[shard])]


def stretch(count: int, part: int, parts: int) -> range:
    """The part of `count` things that falls to one of `parts`; the first ones get one more where it does not divide."""
    size, more = divmod(count, parts)
    start = part * size + min(part, more)
    return range(start, start + size + (part < more))


@dataclass(frozen=True)
class StreamPosition:
    """Where one reader (rank and worker) is: in `epoch`, `offset` frames into the `shard`-th shard of its stretch.

    `taken`: the frames of the stretch before it, all in all.
    """

    epoch: int
    shard: int
    offset: int
    taken: int


class ShardStream:
    """The frames that fall to one of `parts` readers, epoch by epoch. Iterating goes on from `position`.

    Raises ValueError for numbers that make no sense.
    """

    def __init__(self, reader: ShardReader, *, seed: int, shuffle: bool = True, part: int = 0, parts: int = 1) -> None:
        if not 0 <= part < parts:
            raise ValueError(f"part must be 0 or more and below parts, not {part} of {parts}")
        self._reader = reader
        self._seed, self._shuffle, self._part, self._parts = seed, shuffle, part, parts
        self._epoch = self._taken = 0

    def tokens(self, epoch: int) -> tuple[str, ...]:
        """The frames of an epoch that fall to this reader, in their order."""
        shards = self._reader.manifest.shards
        return tuple(shards[shard].samples[number].token for shard, number in self._places(epoch))

    def _places(self, epoch: int) -> list[tuple[int, int]]:
        sizes = [len(shard.samples) for shard in self._reader.manifest.shards]
        order = epoch_order(sizes, self._seed, epoch, self._shuffle)
        mine = stretch(len(order), self._part, self._parts)
        return order[mine.start : mine.stop]

    @property
    def position(self) -> StreamPosition:
        """Where the next frame is."""
        before = [shard for shard, _ in self._places(self._epoch)[: self._taken + 1]]
        passed = list(dict.fromkeys(before))
        offset = sum(shard == passed[-1] for shard in before) - 1 if self._taken < len(before) else 0
        return StreamPosition(self._epoch, max(len(passed) - 1, 0), offset, self._taken)

    def state(self) -> dict[str, Any]:
        """The position with all it depends on, for JSON."""
        return {**vars(self.position), **self._terms()}

    def _terms(self) -> dict[str, Any]:
        return {
            "shards": self._reader.fingerprint,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "part": self._part,
            "parts": self._parts,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises InputRefused for a state of other shards, seed or reader."""
        for name, value in self._terms().items():
            if state.get(name) != value:
                raise InputRefused(
                    f"{self._reader.url}: cannot go on: {name} was {state.get(name)!r:.80} and is {value!r:.80} now."
                )
        epoch, taken = state.get("epoch"), state.get("taken")
        if type(epoch) is not int or type(taken) is not int or not 0 <= taken <= len(self._places(max(epoch, 0))):
            raise InputRefused(
                f"{self._reader.url}: cannot go on: epoch {epoch!r:.20}, taken {taken!r:.20} is no place."
            )
        self._epoch, self._taken = epoch, taken

    def __iter__(self) -> Iterator[LogFrame]:
        """The rest of the epoch; the position moves with each frame, and to the next epoch behind the last one."""
        tokens = self.tokens(self._epoch)
        while self._taken < len(tokens):
            frame = self._reader.frame(tokens[self._taken])
            self._taken += 1
            yield frame
        self._epoch, self._taken = self._epoch + 1, 0


class ShardDataset(IterableDataset[Made]):
    """One epoch for torch's DataLoader: each of its workers makes its stretch of the rank's frames.

    `make` turns a frame into what is batched. To go on in the middle of an epoch pass how many batches of `batch_size`
    the loader has given (`batches_done`): with the same number of workers the rest comes as it would have come.
    """

    def __init__(
        self,
        reader: ShardReader,
        make: Callable[[LogFrame], Made],
        *,
        seed: int,
        epoch: int,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
        batch_size: int = 1,
        batches_done: int = 0,
    ) -> None:
        self._reader, self._make = reader, make
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle
        self._rank, self._ranks = rank, ranks
        self._batch_size, self._batches_done = batch_size, batches_done

    def of_rank(self) -> tuple[str, ...]:
        """All frames of the epoch that fall to the rank, in their order."""
        stream = ShardStream(self._reader, seed=self._seed, shuffle=self._shuffle, part=self._rank, parts=self._ranks)
        return stream.tokens(self._epoch)

    def tokens(self, worker: int, workers: int) -> tuple[str, ...]:
        """What is left for one worker. The loader asks its workers in turn, beginning with the first, always."""
        of_rank = self.of_rank()
        turn = (worker + self._batches_done) % workers
        mine = stretch(len(of_rank), turn, workers)
        batches = (self._batches_done - turn + workers - 1) // workers
        return of_rank[mine.start : mine.stop][batches * self._batch_size :]

    def __iter__(self) -> Iterator[Made]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for token in self.tokens(worker, workers):
            yield self._make(self._reader.frame(token))
