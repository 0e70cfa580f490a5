"""Samples to batches in loader processes, and what can go wrong there said in one sentence."""

import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.faults import InputRefused, SensorFault, refuse_faults
from datasets.samples.batch import Batch, collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.sample import Sample
from tools.exit_codes import CommandFailed
from tools.training.order import EpochIndex

MissingSensorsPolicy = Literal["refuse", "allow"]

# A batch that takes longer hangs: a pipe in the place of a file, a network disk that is gone. The first one may take
# longer, because it finds code that is to be compiled and files that are to be opened.
_TIMEOUT_SECONDS, _TIMEOUTS_OF_FIRST = 30.0, 10


@dataclass(frozen=True)
class LoadedBatch:
    """A batch, for each of its samples what it lacked (see Sample), and which of them have no annotations."""

    batch: Batch
    faults: tuple[tuple[SensorFault, ...], ...]
    impairments: tuple[tuple[SensorFault, ...], ...]
    unannotated: tuple[str, ...]


@dataclass(frozen=True)
class _Refusal:
    """An InputRefused on its way out of a loader process: raised there, it would be a traceback."""

    message: str


class _SamplesByEpoch(Dataset[Sample | _Refusal]):
    """The data set by EpochIndex, with the refusals as values."""

    def __init__(self, dataset: FusionDataset, missing_sensors: MissingSensorsPolicy) -> None:
        self._dataset = dataset
        self._missing_sensors = missing_sensors

    def __getitem__(self, epoch_index: EpochIndex) -> Sample | _Refusal:
        try:
            sample = self._dataset.sample(epoch_index.sample, epoch_index.epoch, epoch_index.repeat)
            if self._missing_sensors == "refuse":
                for each in (sample, *sample.previous):
                    refuse_faults(each.faults + each.impairments)
        except InputRefused as refusal:
            return _Refusal(str(refusal))
        return sample


def load_batches(
    dataset: FusionDataset,
    order: Iterable[list[EpochIndex]],
    *,
    workers: int,
    missing_sensors: MissingSensorsPolicy,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Generator[LoadedBatch, None, None]:
    """The batches of `order` (which is gone through twice), one after another.

    Raises InputRefused for a broken sensor file (with "refuse") or a table that contradicts itself, CommandFailed
    where a loader process dies or hangs.
    """
    loader = DataLoader(
        _SamplesByEpoch(dataset, missing_sensors),
        batch_sampler=order,
        collate_fn=_collate,
        num_workers=workers,
        # Forked: a loader process starts at once, with all modules imported, and shares the pages of what is there (the
        # index and the database of objects are mapped; Python's own lists are copied bit by bit as they are used).
        # Only the thread that forks goes on in the child. The pools of OpenMP and OpenCV would wait for theirs in vain:
        # _start_worker switches them off. A lock that another thread holds (TensorBoard's writer, say) stays locked:
        # making samples takes none of those, and fsspec starts threads of its own anew after a fork. CUDA does not
        # survive a fork at all: samples are made on the CPU.
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_start_worker if workers else None,
        timeout=timeout_seconds if workers else 0,
    )
    try:
        loading = iter(loader)
        for number, batch in enumerate(order):
            tokens = [dataset.tokens[index.sample] for index in batch]
            loaded = _next_of(loading, tokens, timeout_seconds, _TIMEOUTS_OF_FIRST if number == 0 else 1)
            if isinstance(loaded, _Refusal):
                raise InputRefused(loaded.message)
            yield loaded
    except RuntimeError as error:
        refuse_loader_failure(error)
        raise


def _next_of(
    loading: Iterator[LoadedBatch | _Refusal], tokens: Sequence[str], timeout_seconds: float, timeouts: int
) -> LoadedBatch | _Refusal:
    """The next batch, which is of these samples. Raises CommandFailed where it does not come in so many timeouts."""
    for _ in range(timeouts):
        try:
            return next(loading)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
    raise CommandFailed(
        f"No batch came within {timeouts * timeout_seconds:g} s: a sensor file of sample {', '.join(tokens)} hangs "
        "when it is read (a pipe in the place of a file? a network disk that is gone?)."
    )


def refuse_loader_failure(error: RuntimeError) -> None:
    """Raise CommandFailed with one sentence if the error says that a loader process died.

    torch notices a death by a signal, so the error can come out of any line that runs while loaders do.
    """
    message = str(error)
    if message.startswith("DataLoader worker (pid"):
        first_line = message.splitlines()[0].rstrip(". ")
        raise CommandFailed(
            f"A loader process died ({first_line}): out of memory or of /dev/shm is the usual "
            "reason; use a smaller training.batch_size or fewer training.workers."
        ) from error


def _collate(samples: list[Sample | _Refusal]) -> LoadedBatch | _Refusal:
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, _Refusal):
            return sample
        whole.append(sample)
    return LoadedBatch(
        collate(whole),
        faults=tuple(sample.faults for sample in whole),
        impairments=tuple(sample.impairments for sample in whole),
        unannotated=tuple(sample.token for sample in whole if sample.boxes is None),
    )


def _start_worker(worker: int) -> None:
    # One thread for each loader process: they are many. Ctrl-C is the training process's affair.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
