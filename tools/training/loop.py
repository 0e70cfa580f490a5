"""The training loop: batches in, weights, numbers and checkpoints out."""

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datasets.faults import InputRefused
from datasets.samples.frame_classes import classes_of_frames
from datasets.samples.fusion_dataset import FusionDataset
from datasets.shards.reader import ShardReader
from perception.weights import save_weights
from tools.exit_codes import CommandFailed, Diverged
from tools.missing_sensors import MissingSensors
from tools.progress import Progress
from tools.run_config import RunConfig, config_to_json
from tools.training.checkpoint import (
    TrainingState,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tools.training.config import TrainingConfig, learning_rate_at
from tools.training.ema import MovingAverage
from tools.training.interruption import Interruption
from tools.training.loading import LoadedBatch, MissingSensorsPolicy, load_batches, refuse_loader_failure
from tools.training.metrics_log import MetricsLog
from tools.training.network import Network, network_of
from tools.training.order import BatchOrder, ClassBalancedOrder, EpochOrder, PlainOrder, ShardOrder
from tools.training.processes import Processes
from tools.training.run_folder import RunFolder
from tools.training.step import LossOfBatch, StepResult, make_optimizer, seed_step, training_step

_LOSSES_AVERAGED = 20  # the loss that is shown is the mean of so many steps


@dataclass(frozen=True)
class TrainingSummary:
    """How a training ended. `finished` is False where it was interrupted; then a checkpoint is saved.

    `loss`: the mean of the last finite losses of this session, NaN where there was none. `skipped_steps` and
    `missing` are of this session too.
    """

    finished: bool
    steps: int
    total_steps: int
    loss: float
    skipped_steps: int
    seconds: float
    missing: MissingSensors


class TrainingLoop:
    """One training of one network. Build it, then `run` it.

    With one CPU thread a resumed run ends in the same bits as one that was never stopped: the order of the samples,
    their augmentation, modality dropout and dropout follow from the seed and the number of the step.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: FusionDataset,
        run: RunFolder,
        processes: Processes,
        *,
        resume: bool,
        start: Callable[[Network], object] | None = None,
    ) -> None:
        """`start` puts weights into a new network before the first step; a resumed run has its own."""
        self._settings = config.training
        self._config_json = config_to_json(config)
        self._dataset = dataset
        self._run = run
        self._processes = processes
        self._order = order_of_samples(dataset, self._settings, processes.count)
        self._total_steps = self._settings.total_steps(len(self._order), processes.count)
        torch.manual_seed(self._settings.seed)
        self._detector = network_of(config).to(processes.device)
        if start is not None and not resume:
            start(self._detector)
        self._average = MovingAverage(self._detector, self._settings.ema_decay)
        self._optimizer = make_optimizer(self._detector, self._settings)
        self._state = TrainingState(0, 0, 0, processes.count, fingerprint(dataset.tokens), self._order_fingerprint(0))
        if resume:
            self._resume()
        self._model: nn.Module = LossOfBatch(self._detector)
        if processes.count > 1:
            # A branch whose modality is missing from the whole batch gets no gradient in that step.
            self._model = DistributedDataParallel(self._model, find_unused_parameters=True)
        self._detector.train()
        self._losses: deque[float] = deque(maxlen=_LOSSES_AVERAGED)
        self._skipped = 0
        self._missing = MissingSensors()

    @property
    def detector(self) -> Network:
        """The network with the averaged weights, in eval mode."""
        return self._average.network

    @property
    def state(self) -> TrainingState:
        """Where the training stands."""
        return self._state

    def run(self, *, missing_sensors: MissingSensorsPolicy, log: Callable[[str], None]) -> TrainingSummary:
        """Train up to the last step, or to Ctrl-C; then save a checkpoint and, at the end, the weights.

        Raises InputRefused for bad input, Diverged after too many steps in a row without finite numbers, CommandFailed
        where a loader process dies or the disk is full. `log` gets a sentence for everything out of the ordinary.
        """
        began = time.monotonic()
        with ExitStack() as stack:
            interruption = stack.enter_context(Interruption())
            metrics = shown = None
            if self._processes.first:
                metrics = stack.enter_context(MetricsLog(self._run, self._state.step))
                shown = stack.enter_context(Progress("training", self._total_steps, start=self._state.step))
            try:
                for loaded in self._batches(missing_sensors):
                    step, result = self._state.step, self._one_step(loaded)
                    if metrics is not None and shown is not None:
                        metrics.write(step, self._numbers(step, result, time.monotonic() - began))
                        shown.advance(f"loss {self._mean_loss():.3f}")
                    if not result.finite:
                        log(_skipped_text(step, loaded, result))
                    self._refuse_divergence(loaded)
                    if self._processes.any_of(interruption.requested)[0]:
                        break
                    if self._state.step % self._settings.checkpoint_interval == 0:
                        self._save()
                        log(f"step {self._state.step}: loss {self._mean_loss():.4f}, checkpoint saved")
            except (InputRefused, CommandFailed, Diverged):
                # These are raised between two steps: what was learnt is whole, and worth keeping.
                self._save()
                raise
            except RuntimeError as error:
                refuse_loader_failure(error)
                raise
            self._save()
        finished = self._state.step >= self._total_steps
        if finished and self._processes.first:
            save_weights(self._average.network, self._run.weights, self._config_json)
        return TrainingSummary(
            finished=finished,
            steps=self._state.step,
            total_steps=self._total_steps,
            loss=self._mean_loss(),
            skipped_steps=self._skipped,
            seconds=time.monotonic() - began,
            missing=self._missing,
        )

    def _resume(self) -> None:
        checkpoint = last_checkpoint(self._run.checkpoints)
        loaded = load_checkpoint(checkpoint, self._detector, self._average, self._optimizer)
        if loaded.data_fingerprint != self._state.data_fingerprint:
            raise InputRefused(
                f"{checkpoint} was trained on other samples than this data set's split has: pass the --data-root, "
                "--version and --split of the first part."
            )
        if loaded.processes != self._state.processes:
            raise InputRefused(
                f"{checkpoint} was trained by {loaded.processes} processes, these are {self._state.processes}: the "
                "order of the samples would change; start as many processes."
            )
        if loaded.order_fingerprint != self._order_fingerprint(loaded.step):
            raise InputRefused(
                f"{checkpoint} was trained on the samples in another order than this epoch has now: from tables "
                "instead of shards, from shards that were packed otherwise, or by another version of Bevel."
            )
        self._state = loaded

    def _order_fingerprint(self, step: int) -> str:
        """Of the epoch that the batches of a step begin in."""
        samples_before = step * self._settings.batch_size * self._processes.count
        return fingerprint(map(str, self._order.epoch(samples_before // len(self._order)).tolist()))

    def _batches(self, missing_sensors: MissingSensorsPolicy) -> Iterator[LoadedBatch]:
        order = BatchOrder(
            self._order,
            self._settings.batch_size,
            first_step=self._state.step,
            last_step=self._total_steps,
            process=self._processes.rank,
            processes=self._processes.count,
        )
        return load_batches(self._dataset, order, workers=self._settings.workers, missing_sensors=missing_sensors)

    def _one_step(self, loaded: LoadedBatch) -> StepResult:
        state, settings = self._state, self._settings
        for token, faults, impairments in zip(loaded.batch.tokens, loaded.faults, loaded.impairments, strict=True):
            self._missing.add(token, faults, impairments)
        if settings.objective == "detection" and loaded.batch.boxes is None:
            raise InputRefused(f"sample {loaded.unannotated[0]} has no annotations: train on a split that has some.")
        result = training_step(
            self._model,
            self._optimizer,
            loaded.batch,
            settings,
            learning_rate=self._learning_rate(state.step),
            generator=seed_step(settings.seed, state.step, self._processes.rank),
            processes=self._processes,
        )
        if result.finite:
            self._average.update(self._detector, state.updates)
            self._losses.append(result.loss)
            self._state = replace(state, step=state.step + 1, updates=state.updates + 1, nonfinite_in_a_row=0)
        else:
            self._skipped += 1
            self._state = replace(state, step=state.step + 1, nonfinite_in_a_row=state.nonfinite_in_a_row + 1)
        return result

    def _learning_rate(self, step: int) -> float:
        peak = self._settings.peak_learning_rate(self._processes.count)
        return learning_rate_at(step, self._total_steps, peak, self._settings.warmup_fraction)

    def _numbers(self, step: int, result: StepResult, seconds: float) -> dict[str, float]:
        """What metrics.jsonl and TensorBoard get: only finite numbers are JSON."""
        seen = self._settings.batch_size * self._processes.count
        numbers = {
            "epoch": step * seen / len(self._order),
            "loss": result.loss,
            **{f"loss/{name}": value for name, value in result.parts.items()},
            "gradient_norm": result.gradient_norm,
            "learning_rate": self._learning_rate(step),
            "seconds": seconds,
            "skipped": float(self._skipped),
        }
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def _mean_loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    def _refuse_divergence(self, loaded: LoadedBatch) -> None:
        in_a_row = self._state.nonfinite_in_a_row
        if in_a_row >= self._settings.max_nonfinite_steps:
            raise Diverged(
                f"Training diverged: no finite loss or gradient in {in_a_row} steps in a row, last with the samples "
                f"{', '.join(loaded.batch.tokens)}; lower training.learning_rate in {self._run.config}."
            )

    def _save(self) -> None:
        if not self._processes.first:
            return
        try:
            save_checkpoint(
                self._run.checkpoints,
                replace(self._state, order_fingerprint=self._order_fingerprint(self._state.step)),
                self._detector,
                self._average,
                self._optimizer,
                self._config_json,
            )
        except (OSError, SafetensorError) as error:
            raise CommandFailed(
                f"The checkpoint of step {self._state.step} could not be written to {self._run.checkpoints}: {error}; "
                "those before it, if any, are whole, and --resume goes on from the last."
            ) from error


def order_of_samples(dataset: FusionDataset, settings: TrainingConfig, processes: int) -> EpochOrder:
    """The order that the settings ask for. Raises InputRefused where classes cannot be balanced: there are none."""
    if settings.sampling == "plain" and isinstance(dataset.reader, ShardReader):
        return ShardOrder(
            [dataset.reader.shard_of(token) for token in dataset.tokens],
            settings.seed,
            window=settings.shuffled_shards,
            batch_size=settings.batch_size,
            processes=processes,
        )
    if settings.sampling == "plain":
        return PlainOrder(len(dataset), settings.seed)
    try:
        return ClassBalancedOrder(classes_of_frames(dataset.reader, dataset.tokens), settings.seed)
    except ValueError as error:
        raise InputRefused(f"training.sampling is class_balanced: {error}; use plain.") from error


def fingerprint(names: Iterable[str]) -> str:
    """A short hash of a list: a run is resumed on the same samples in the same order only."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _skipped_text(step: int, loaded: LoadedBatch, result: StepResult) -> str:
    what = "loss" if not math.isfinite(result.loss) else "gradient"
    return f"step {step} skipped: its {what} is not finite; samples {', '.join(loaded.batch.tokens)}"
