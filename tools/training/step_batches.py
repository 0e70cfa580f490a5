"""The batches of each step, and what all processes must know of one another before they begin it."""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

from datasets.faults import InputRefused
from datasets.samples.fusion_dataset import FusionDataset
from tools.exit_codes import CommandFailed
from tools.training.config import TrainingConfig
from tools.training.interruption import Interruption
from tools.training.loading import LoadedBatch, MissingSensorsPolicy, load_batches
from tools.training.order import BatchOrder, EpochOrder
from tools.training.processes import Processes
from tools.training.told_failures import Failure, failure_from_text, failure_to_text

BatchesOfSteps = Generator[list[LoadedBatch], None, None]
"""For each step the batches that make it, of this process."""


def load_steps(
    dataset: FusionDataset,
    order: EpochOrder,
    settings: TrainingConfig,
    processes: Processes,
    steps: tuple[int, int],
    missing_sensors: MissingSensorsPolicy,
) -> BatchesOfSteps:
    """The batches of the steps from one up to another.

    Raises what `load_batches` does, and InputRefused for a sample without annotations where there must be some.
    """
    together = settings.accumulate
    of_process = BatchOrder(
        order,
        settings.batch_size,
        first_step=steps[0] * together,
        last_step=steps[1] * together,
        process=processes.rank,
        processes=processes.count,
    )
    batches = load_batches(
        dataset,
        of_process,
        workers=settings.workers,
        missing_sensors=missing_sensors,
        timeout_seconds=settings.loader_timeout,
    )
    with closing(batches):
        while group := list(islice(batches, together)):
            for one in group:
                if settings.objective != "cross_modal" and one.batch.boxes is None:
                    token = one.unannotated[0]
                    raise InputRefused(f"sample {token} has no annotations: train on a split that has some.")
            yield group


class StepBatches:
    """For each step the batches of this process, until any process is interrupted or has none because it failed.

    A process that left the others alone in a step would leave them waiting, with a step that is half done. So each
    asks all before it begins one, and all stop between the same two steps, with weights that are worth saving.
    `failure` is then what ended the loading in any of them.
    """

    def __init__(self, loading: BatchesOfSteps, processes: Processes, interruption: Interruption) -> None:
        self.failure: Failure | None = None
        self._loading, self._processes, self._interruption = loading, processes, interruption

    def __iter__(self) -> Iterator[list[LoadedBatch]]:
        with closing(self._loading):  # before a checkpoint is written: a loader that dies would interrupt that
            while True:
                own = self._loaded()
                interrupted, failed = self._processes.any_of(self._interruption.requested, self.failure is not None)
                if failed:
                    self._share_failure()
                if interrupted or failed or own is None:
                    return
                yield own

    def _loaded(self) -> list[LoadedBatch] | None:
        if self._interruption.requested:
            return None
        try:
            return next(self._loading, None)
        except (InputRefused, CommandFailed) as failure:
            self.failure = failure
            return None

    def _share_failure(self) -> None:
        """Let every process that has no failure of its own have the first of the others'."""
        said = self._processes.said("" if self.failure is None else failure_to_text(self.failure))
        if self.failure is None:
            self.failure = failure_from_text(next(text for text in said if text))
