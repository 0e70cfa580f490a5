"""Which samples make which batch: a function of (seed, step) alone, so that a resumed run goes on exactly."""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Sampling = Literal["plain", "class_balanced"]


class EpochIndex(NamedTuple):
    """The number of a sample in an epoch, and how often that epoch had it before."""

    epoch: int
    sample: int
    repeat: int = 0


@runtime_checkable
class EpochOrder(Protocol):
    """The samples of each epoch, all of the same length, in the order in which they are trained on."""

    def __len__(self) -> int:
        """Samples in an epoch; at least one."""
        ...

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch's samples: the same whenever it is asked for."""
        ...


class PlainOrder:
    """Every sample once in each epoch, shuffled by (seed, epoch). Raises ValueError where there is no sample."""

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("there is nothing to train on: no samples")
        self._samples, self._seed = samples, seed

    def __len__(self) -> int:
        return self._samples

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """A permutation of all samples."""
        return np.random.default_rng((self._seed, epoch)).permutation(self._samples)


class ClassBalancedOrder:
    """Class-balanced sampling (CBGS: Zhu et al. 2019, arXiv:1908.09492): each class gets an equal share of an epoch.

    A sample counts once for each class that it has. An epoch draws for each of the classes that there are the same
    number of samples that have it, so many that an epoch is as long as those counts together: as many classes as a
    sample has on average (nuScenes: 4.4) times the data set. A class with fewer samples takes each of them equally
    often and, at random, some once more; samples without any class are never drawn. `classes_of_sample`: one collection
    of labels for each sample. Raises ValueError where no sample has a class.
    """

    def __init__(self, classes_of_sample: Sequence[Collection[int]], seed: int) -> None:
        samples_of_class: dict[int, list[int]] = {}
        for sample, classes in enumerate(classes_of_sample):
            for label in sorted(set(classes)):
                samples_of_class.setdefault(label, []).append(sample)
        if not samples_of_class:
            raise ValueError("there is nothing to balance: no sample has an annotated class")
        self._members = [np.array(samples_of_class[label], np.int64) for label in sorted(samples_of_class)]
        self._share = sum(len(members) for members in self._members) // len(self._members)
        self._seed = seed

    def __len__(self) -> int:
        return self._share * len(self._members)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The samples of all classes, shuffled together."""
        generator = np.random.default_rng((self._seed, epoch))
        drawn = []
        for members in self._members:
            times, more = divmod(self._share, len(members))
            drawn += [np.tile(members, times), generator.permutation(members)[:more]]
        return generator.permutation(np.concatenate(drawn))


class ShardOrder:
    """Every sample once in each epoch, in an order that keeps those of one shard together.

    The shards come in a shuffled order, cut into as many stretches as there are training processes: each process reads
    shards of its own (at the ends of its stretch it shares one with its neighbour). Within `window` consecutive shards
    of a stretch the samples are shuffled together, so that a process and its loaders are in so many shards at a time.
    `shard_of_sample`: the number of each sample's shard. `batch_size` and `processes` say which process BatchOrder
    gives a sample to. Raises ValueError where there is no sample.
    """

    def __init__(
        self, shard_of_sample: Sequence[int], seed: int, *, window: int, batch_size: int, processes: int
    ) -> None:
        if not shard_of_sample:
            raise ValueError("there is nothing to train on: no samples")
        self._shard_of = np.array(shard_of_sample, np.int64)
        self._seed, self._window = seed, window
        self._batch_size, self._processes = batch_size, processes

    def __len__(self) -> int:
        return len(self._shard_of)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """A permutation of all samples."""
        generator = np.random.default_rng((self._seed, epoch))
        place_of_shard = generator.permutation(int(self._shard_of.max()) + 1)
        # Where a stretch ends within a shard, chance says which of its samples are whose.
        by_shard: NDArray[np.int64] = np.lexsort((generator.random(len(self)), place_of_shard[self._shard_of]))
        takers = (epoch * len(self) + np.arange(len(self))) // self._batch_size % self._processes
        order = np.empty(len(self), np.int64)
        done = 0
        for process in range(self._processes):
            places = np.flatnonzero(takers == process)
            order[places] = self._shuffled(by_shard[done : done + len(places)], generator)
            done += len(places)
        return order

    def _shuffled(self, stretch: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        shards = self._shard_of[stretch]
        shards_before = np.cumsum(np.diff(shards, prepend=shards[:1]) != 0)
        shuffled: NDArray[np.int64] = np.lexsort((generator.random(len(stretch)), shards_before // self._window))
        return stretch[shuffled]


class BatchOrder(Sampler[list[EpochIndex]]):
    """Batches of EpochIndex from `first_step` up to `last_step`.

    The epochs stand one after another as one long sequence which is cut into batches; a batch may therefore hold the
    end of one epoch and the start of the next, no sample is left out, and a data set smaller than a batch works. With
    several processes each takes every so-manieth batch of that sequence.
    """

    def __init__(
        self,
        order: EpochOrder,
        batch_size: int,
        *,
        first_step: int,
        last_step: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._order = order
        self._batch_size = batch_size
        self._steps = range(first_step, last_step)
        self._process = process
        self._processes = processes

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        epoch, indices, repeats = -1, np.empty(0, np.int64), np.empty(0, np.int64)
        length = len(self._order)
        for step in self._steps:
            start = (step * self._processes + self._process) * self._batch_size
            batch: list[EpochIndex] = []
            for position in range(start, start + self._batch_size):
                if position // length != epoch:
                    epoch = position // length
                    indices = self._order.epoch(epoch)
                    repeats = _repeats(indices)
                place = position % length
                batch.append(EpochIndex(epoch, int(indices[place]), int(repeats[place])))
            yield batch


def _repeats(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry how many equal ones stand before it."""
    by_index = np.argsort(indices, kind="stable")
    new = np.diff(indices[by_index], prepend=-1) != 0
    starts = np.maximum.accumulate(np.where(new, np.arange(len(indices)), 0))
    repeats = np.empty_like(indices)
    repeats[by_index] = np.arange(len(indices)) - starts
    return repeats
