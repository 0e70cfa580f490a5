"""Which samples make which batch: a function of (seed, step) alone, so that a resumed run goes on exactly."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

EpochIndex = tuple[int, int]


class BatchOrder(Sampler[list[EpochIndex]]):
    """Batches of (epoch, index) from `first_step` up to `last_step`.

    The epochs, each shuffled by (seed, epoch), stand one after another as one long sequence which is cut into
    batches; a batch may therefore hold the end of one epoch and the start of the next, no sample is left out, and a
    data set smaller than a batch works. With several processes each takes every so-manieth batch of that sequence.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        first_step: int,
        last_step: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if samples < 1:
            raise ValueError("there is nothing to train on: no samples")
        self._samples = samples
        self._batch_size = batch_size
        self._steps = range(first_step, last_step)
        self._seed = seed
        self._process = process
        self._processes = processes

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in self._steps:
            start = (step * self._processes + self._process) * self._batch_size
            batch: list[EpochIndex] = []
            for position in range(start, start + self._batch_size):
                if position // self._samples != epoch:
                    epoch = position // self._samples
                    order = np.random.default_rng((self._seed, epoch)).permutation(self._samples)
                batch.append((epoch, int(order[position % self._samples])))
            yield batch
