"""The training loop: batches in, weights, numbers and checkpoints out."""

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.samples.frame_classes import classes_of_frames
from datasets.samples.fusion_dataset import FusionDataset
from datasets.shards.reader import ShardReader
from perception.detector import Detector
from perception.weights import save_weights
from tools.exit_codes import CommandFailed, Diverged
from tools.missing_sensors import MissingSensors
from tools.run_config import RunConfig, config_to_json
from tools.training.checkpoint import TrainingState
from tools.training.checkpoint_files import checkpoints, sha256_of
from tools.training.config import TrainingConfig
from tools.training.interruption import Interruption
from tools.training.loading import LoadedBatch, MissingSensorsPolicy, refuse_loader_failure
from tools.training.network import Network, network_from, network_of
from tools.training.order import ClassBalancedOrder, EpochOrder, PlainOrder, ShardOrder
from tools.training.processes import Processes, refuse_failure_of_group
from tools.training.record import STEPS_AVERAGED, Record, recorded
from tools.training.resuming import checkpoint_to_resume, refuse_other_training
from tools.training.run_folder import RunFolder
from tools.training.schedule import learning_rate_at, momentum_at
from tools.training.step import StepResult, scale_of, seed_step
from tools.training.step_batches import StepBatches, load_steps
from tools.training.told_failures import Failure
from tools.training.trained_network import TrainedNetwork
from tools.training.validation import Validation
from tools.training.validations import BestWeights, Validations


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
        log: Callable[[str], None],
        init: Sequence[Path] = (),
        validation: Validation | None = None,
    ) -> None:
        """`log` gets a sentence for everything out of the ordinary. `init`: the weights files whose parts a new
        network has; a resumed run has its own, if it was killed before its first checkpoint too: there is one of step
        0. `validation`: where the config asks for some.
        """
        self._settings = config.training
        self._config_json = config_to_json(config)
        self._dataset = dataset
        self._run = run
        self._processes = processes
        self._log = log
        self._validation = validation if config.training.validate_every is not None else None
        self._order = order_of_samples(dataset, self._settings, processes.count)
        self._total_steps = self._settings.total_steps(len(self._order), processes.count)
        torch.manual_seed(self._settings.seed)
        saved = resume and bool(checkpoints(run.checkpoints))
        if not init or saved:
            network = network_of(config, pretrained=not saved)
        else:  # even to resume: torchrun restarts a run that may have no checkpoint yet
            network, _ = network_from(config, init)
        self._trained = TrainedNetwork(network, config, processes)
        self._state = TrainingState(0, 0, 0, processes.count, fingerprint(dataset.tokens), self._order_fingerprint(0))
        if self._validation is not None:
            self._state = replace(self._state, validations=Validations(fingerprint(self._validation.tokens)))
        self._saved: TrainingState | None = None
        if resume:
            self._resume()
        if float(processes.mean(torch.tensor(float(self._state.step), device=processes.device))) != self._state.step:
            raise InputRefused(f"{run.path} must lie on a disk that all training processes share: they differ in it.")
        self._forget_lost_weights()
        self._losses: deque[float] = deque(maxlen=STEPS_AVERAGED)
        self._skipped = 0
        self._missing = MissingSensors()
        if init and self._saved is None:
            self._save()  # --resume does not know what the run started from

    @property
    def detector(self) -> Network:
        """The network with the averaged weights, in eval mode."""
        return self._trained.average

    @property
    def state(self) -> TrainingState:
        """Where the training stands."""
        return self._state

    def run(self, *, missing_sensors: MissingSensorsPolicy) -> TrainingSummary:
        """Train up to the last step, or to Ctrl-C; then save a checkpoint and, at the end, the weights.

        Raises InputRefused for bad input, Diverged after too many steps in a row without finite numbers, CommandFailed
        where a loader process or another training process dies or hangs, or the disk is full.
        """
        began = time.monotonic()
        with ExitStack() as stack:
            interruption = stack.enter_context(Interruption())
            record = stack.enter_context(self._recorded()) if self._processes.first else None
            try:
                failure = self._train(missing_sensors, interruption, record)
            except RuntimeError as error:
                refuse_loader_failure(error)
                refuse_failure_of_group(error, self._settings.process_timeout)
                raise
            self._save()  # all processes are here, between the same two steps
            if failure is not None:
                raise failure
        if finished := self._finished():
            self._write_weights()
        return TrainingSummary(
            finished=finished,
            steps=self._state.step,
            total_steps=self._total_steps,
            loss=self._mean_loss(),
            skipped_steps=self._skipped,
            seconds=time.monotonic() - began,
            missing=self._missing,
        )

    def _train(
        self, missing_sensors: MissingSensorsPolicy, interruption: Interruption, record: Record | None
    ) -> Failure | None:
        """One step after another; returns what ended them in any of the processes, if something did.

        Those after which a validation is due save a checkpoint first, so that whoever stops the training meanwhile
        costs the validation and nothing else: a resumed run begins with it.
        """
        steps = (self._state.step, self._total_steps)
        loading = load_steps(self._dataset, self._order, self._settings, self._processes, steps, missing_sensors)
        batches = StepBatches(loading, self._processes, interruption)
        self._validate(record)
        for loaded in () if self._enough() else batches:
            step, result = self._state.step, self._one_step(loaded)
            if record is not None:
                record.step(step, self._numbers(step, result), self._mean_loss())
            if not result.finite:
                samples = self._suspects(loaded, result)
                self._log(_skipped_text(step, samples, result))
                if (divergence := self._divergence(samples)) is not None:
                    return divergence
            due = self._validation_is_due()
            if due or self._state.step % self._settings.checkpoint_interval == 0:
                self._save()
                self._log(f"step {self._state.step}: loss {self._mean_loss():.4f}, checkpoint saved")
            if due and self._processes.any_of(interruption.requested)[0]:
                break
            self._validate(record)
            if self._enough():
                self._log(self._patience_text())
                break
        return batches.failure

    def _recorded(self) -> AbstractContextManager[Record]:
        samples_of_step = self._settings.effective_batch(self._processes.count)
        return recorded(self._run, self._state.step, self._total_steps, samples_of_step)

    def _finished(self) -> bool:
        """Whether nothing is left to be done."""
        return (self._state.step >= self._total_steps or self._enough()) and not self._validation_is_due()

    def _write_weights(self) -> None:
        """The result: the best weights, or the last where none were validated."""
        if self._state.validations is None or self._state.validations.best is None:
            network = self._trained.whole_average()
            if self._processes.first:
                save_weights(network, self._run.weights, self._config_json)
        elif self._processes.first:
            write_atomically(self._run.weights, self._run.best.read_bytes())

    def _validation_is_due(self) -> bool:
        """Whether one belongs to the steps that are done, and has not been yet."""
        step, every, so_far = self._state.step, self._settings.validate_every, self._state.validations
        if so_far is None or every is None or step <= so_far.last_step:
            return False
        return step % every == 0 or step >= self._total_steps

    def _validate(self, record: Record | None) -> None:
        """Validate where it is due; keep the best weights."""
        step, so_far = self._state.step, self._state.validations
        if self._validation is None or so_far is None or not self._validation_is_due():
            return
        network = self._trained.whole_average()
        if not isinstance(network, Detector):
            raise TypeError("only a detector can be validated")
        validated = self._validation.measure(network)
        # Only the first process has the figures, and all must know whether to go on.
        known = torch.tensor(0.0 if validated is None else validated.nds, dtype=torch.float64)
        nds = float(self._processes.mean(known.to(self._processes.device))) * self._processes.count
        if so_far.best is None or nds > so_far.best.nds:
            so_far = so_far.with_best(BestWeights(nds, step, self._keep_best(network)))
        else:
            so_far = so_far.without_better(step)
        self._state = replace(self._state, validations=so_far)
        if record is not None and validated is not None and so_far.best is not None:
            record.validation(step - 1, validated)
            best = f"best so far {so_far.best.nds:.4f}" if so_far.since_best else "the best"
            self._log(f"step {step}: NDS {validated.nds:.4f}, mAP {validated.numbers['val/mAP']:.4f}, {best}")

    def _keep_best(self, network: Detector) -> str:
        """Write the best weights; returns the sha256 of their file, which only the first process has, and needs."""
        if not self._processes.first:
            return ""
        save_weights(network, self._run.best, self._config_json)
        return sha256_of(self._run.best)

    def _enough(self) -> bool:
        """Whether so many validations brought nothing better that the training ends."""
        patience, so_far = self._settings.patience, self._state.validations
        return patience is not None and so_far is not None and so_far.since_best >= patience

    def _patience_text(self) -> str:
        so_far = self._state.validations
        assert so_far is not None
        assert so_far.best is not None
        return (
            f"Stopping after step {self._state.step}: no better NDS than {so_far.best.nds:.4f} in "
            f"{so_far.since_best} validations."
        )

    def _resume(self) -> None:
        checkpoint = checkpoint_to_resume(self._run, self._log, tidies=self._processes.first)
        if checkpoint is None:
            return
        loaded = self._trained.load(checkpoint)
        expected = replace(self._state, order_fingerprint=self._order_fingerprint(loaded.step))
        refuse_other_training(checkpoint, loaded, expected)
        # (One from before validations were noted says nothing of them: there have been none.)
        self._state = replace(loaded, validations=loaded.validations or expected.validations)
        self._saved = self._state

    def _forget_lost_weights(self) -> None:
        """Where the best weights are not there any more: for all processes, if one of them does not see them."""
        so_far = self._state.validations
        lost = None if so_far is None else so_far.lost(self._run.best)
        if self._processes.any_of(lost is not None)[0] and so_far is not None:
            self._state = replace(self._state, validations=so_far.forgotten())
            self._saved = self._state
            self._log(lost or "Another process does not see the best weights: they are forgotten.")

    def _order_fingerprint(self, step: int) -> str:
        """Of the epoch that the batches of a step begin in."""
        samples_before = step * self._settings.effective_batch(self._processes.count)
        return fingerprint(map(str, self._order.epoch(samples_before // len(self._order)).tolist()))

    def _one_step(self, loaded: Sequence[LoadedBatch]) -> StepResult:
        state, settings = self._state, self._settings
        for one in loaded:
            for token, faults, impairments in zip(one.batch.tokens, one.faults, one.impairments, strict=True):
                self._missing.add(token, faults, impairments)
        result = self._trained.step(
            [one.batch for one in loaded],
            learning_rate=self._learning_rate(state.step),
            momentum=momentum_at(state.step, self._total_steps, settings.warmup_fraction, settings.schedule),
            generator=seed_step(settings.seed, state.step, self._processes.rank),
            updates=state.updates,
        )
        if result.finite:
            self._losses.append(result.loss)
            self._state = replace(state, step=state.step + 1, updates=state.updates + 1, nonfinite_in_a_row=0)
        else:
            self._skipped += 1
            self._state = replace(state, step=state.step + 1, nonfinite_in_a_row=state.nonfinite_in_a_row + 1)
        if self._trained.scaler is not None:
            self._state = replace(self._state, **scale_of(self._trained.scaler))
        return result

    def _learning_rate(self, step: int) -> float:
        settings = self._settings
        peak = settings.peak_learning_rate(self._processes.count)
        return learning_rate_at(step, self._total_steps, peak, settings.warmup_fraction, settings.schedule)

    def _numbers(self, step: int, result: StepResult) -> dict[str, float]:
        """What metrics.jsonl and TensorBoard get: only finite numbers are JSON."""
        numbers = {
            "epoch": step * self._settings.effective_batch(self._processes.count) / len(self._order),
            "loss": result.loss,
            **{f"loss/{name}": value for name, value in result.parts.items()},
            "gradient_norm": result.gradient_norm,
            "learning_rate": self._learning_rate(step),
            "skipped": float(self._state.step - self._state.updates),
        }
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def _mean_loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    def _suspects(self, loaded: Sequence[LoadedBatch], result: StepResult) -> str:
        """The samples that can be the reason of a step without finite numbers, of all processes."""
        own = ", ".join(token for one in loaded for token in one.batch.tokens)
        return ", ".join(filter(None, self._processes.said(own if result.suspect else "")))

    def _divergence(self, samples: str) -> Diverged | None:
        in_a_row = self._state.nonfinite_in_a_row
        if in_a_row < self._settings.max_nonfinite_steps:
            return None
        return Diverged(
            f"Training diverged: no finite loss or gradient in {in_a_row} steps in a row, last with the samples "
            f"{samples}; lower training.learning_rate in {self._run.config}."
        )

    def _save(self) -> None:
        if self._saved == self._state:
            return
        try:
            state = replace(self._state, order_fingerprint=self._order_fingerprint(self._state.step))
            self._trained.save(self._run.checkpoints, state)
            self._saved = self._state
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


def _skipped_text(step: int, samples: str, result: StepResult) -> str:
    what = "loss" if not math.isfinite(result.loss) else "gradient"
    return f"step {step} skipped: its {what} is not finite; samples {samples}"
