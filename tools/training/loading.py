"""Samples to batches in loader processes, and what can go wrong there said in one sentence."""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch.utils.data import DataLoader, Dataset

from datasets.faults import InputRefused, SensorFault, refuse_faults
from datasets.samples.batch import Batch, collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.sample import Sample
from tools.exit_codes import CommandFailed
from tools.training.config import TrainingConfig
from tools.training.loader_process import LoaderContext, start_loader
from tools.training.order import EpochIndex

MissingSensorsPolicy = Literal["refuse", "allow"]

_LEAST_OF_FIRST = 300.0  # seconds for the first one, which finds code to be compiled and files to be opened


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
        except Exception as error:  # a bug, or a file that breaks a library: the traceback says of which sample
            error.add_note(f"(while sample {self._dataset.tokens[epoch_index.sample]} was made)")
            raise
        return sample


def load_batches(
    dataset: FusionDataset,
    order: Iterable[list[EpochIndex]],
    *,
    workers: int,
    missing_sensors: MissingSensorsPolicy,
    timeout_seconds: float = TrainingConfig.loader_timeout,
) -> Generator[LoadedBatch, None, None]:
    """The batches of `order` (which is gone through twice), one after another.

    One that does not come within the timeout hangs: a pipe in the place of a file, a network disk that is gone.

    Raises InputRefused for a broken sensor file (with "refuse") or a table that contradicts itself, CommandFailed
    where a loader process dies or hangs.
    """
    loader = DataLoader(
        _SamplesByEpoch(dataset, missing_sensors),
        batch_sampler=order,
        collate_fn=_collate,
        num_workers=workers,
        multiprocessing_context=LoaderContext() if workers else None,
        worker_init_fn=start_loader if workers else None,
        timeout=timeout_seconds if workers else 0,
    )
    try:
        loading = iter(loader)
        timeouts_of_first = max(1, math.ceil(_LEAST_OF_FIRST / timeout_seconds))
        for number, batch in enumerate(order):
            tokens = [dataset.tokens[index.sample] for index in batch]
            loaded = _next_of(loading, tokens, timeout_seconds, timeouts_of_first if number == 0 else 1)
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
