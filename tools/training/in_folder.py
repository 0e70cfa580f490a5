"""A training in its run folder, from the first line of its log to the page at the end: whatever is trained."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import Field, fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import tyro
from tqdm import tqdm

from datasets.faults import InputRefused
from datasets.samples.fusion_dataset import FusionDataset
from tools.exit_codes import CommandFailed, Diverged, Interrupted
from tools.progress import duration_text
from tools.run_config import RunConfig, read_config
from tools.training.loading import MissingSensorsPolicy
from tools.training.loop import TrainingLoop, TrainingSummary
from tools.training.network import network_from
from tools.training.processes import Processes
from tools.training.run_folder import RunFolder, weights_file
from tools.training.run_report import write_run_report
from tools.training.sharding import refuse_unshardable
from tools.training.validation import Validation

# Said in the command that resumes in a way of their own, or not said again.
_NOT_REPEATED = ("config", "data_root", "output", "init", "resume")


StartWeights = tyro.conf.UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN|FILE")]]
"""What `--init` is to the verbs that train: it can be given several times."""


@runtime_checkable
class TrainingArguments(Protocol):
    """What the verbs that train take: a dataclass with these and other options."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def config(self) -> str:
        """A preset or a config file."""

    @property
    def data_root(self) -> Path | str:
        """The dataroot, or a URL of shards."""


def refuse_two_starts(init: Sequence[Path], resume: bool) -> None:
    """Raise InputRefused where a run is to begin with some weights and to go on with its own."""
    if init and resume:
        raise InputRefused("--init starts a run, and --resume goes on with what it has learnt: leave out one of them.")


def train_in_folder(
    config: RunConfig,
    dataset: FusionDataset,
    split: str,
    run: RunFolder,
    processes: Processes,
    *,
    init: Sequence[Path] = (),
    resume: bool,
    missing_sensors: MissingSensorsPolicy,
    validation: Validation | None = None,
) -> TrainingSummary:
    """Train on the samples of a split, alone in the run's folder, and say there and on stdout what happens.

    init: runs, shipped ones or weights files to start from. Raises as `train` does.
    """
    if processes.sharded:
        refuse_unshardable(config.training)
    init = [weights_file(one) for one in init]
    # What torchrun starts again goes on; a run that it found there, and did not begin, is refused as ever.
    (resume,) = processes.any_of(resume or (processes.first and processes.began(run.path)))
    # Tried before there is a run that would have to be removed.
    found = network_from(config, init)[1] if init else []
    loop = partial(TrainingLoop, config, dataset, run, processes, resume=resume, init=init, validation=validation)
    if not processes.first:
        return loop(log=_say_nothing).run(missing_sensors=missing_sensors)
    with run.locked():
        if resume:
            refuse_other_config(run, config)
        else:
            run.start(config)
            processes.note_begun(run.path)
        with _log_of(run) as log:
            log(f"{'resuming' if resume else 'starting'}: {shlex.join(sys.argv)}")
            training = loop(log=log)
            if resume:
                run.resumed(training.state.step)
            if training.state.step == 0:
                for path, parts in zip(init, found, strict=True):
                    log(parts.text(path))
            log(f"{len(dataset)} samples of {split}, {_start_text(training, processes)}")
            log(config.training.learning_rate_text(processes.count))
            with _page_of(run):
                summary = training.run(missing_sensors=missing_sensors)
                log(summary_text(summary))
            return summary


def resume_command(verb: str, arguments: TrainingArguments, run: RunFolder) -> str:
    """The command that goes on with this run: as it was given, but for what only a new run takes."""
    words = [*_started_by(), verb, arguments.config, "--data-root", str(arguments.data_root), "--output", str(run.path)]
    for option in fields(arguments):
        value = getattr(arguments, option.name)
        if option.name not in _NOT_REPEATED and value != option.default:
            name = f"--{option.name.replace('_', '-')}"
            words += [name] if value is True else [name, str(value)]
    return shlex.join([*words, "--resume"])


def _started_by() -> list[str]:
    """The words before the verb: torchrun starts several processes again."""
    count, nodes = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if count is None:
        return ["bevel"]
    return ["torchrun", *([] if nodes == "1" else [f"--nnodes={nodes}"]), f"--nproc-per-node={count}", sys.argv[0]]


def refuse_unfinished(summary: TrainingSummary, command: str) -> None:
    """Raise Interrupted where a training was stopped; `command` goes on with it."""
    if not summary.finished:
        raise Interrupted(
            f"Stopped after step {summary.steps} of {summary.total_steps}, checkpoint saved; go on with: {command}"
        )


def refuse_other_config(run: RunFolder, config: RunConfig) -> None:
    """Raise InputRefused unless the run folder holds this config: another network or schedule is another run.

    The number of loader processes may differ, and how long one waits for them and for other processes: it changes
    nothing.
    """
    if not run.config.is_file():
        raise InputRefused(f"{run.path} holds no run to resume: it has no config.json.")
    saved, given = read_config(run.config), config.training
    free = {name: getattr(given, name) for name in ("workers", "loader_timeout", "process_timeout")}
    if replace(saved, training=replace(saved.training, **free)) != config:
        raise InputRefused(
            f"{run.config} is another config than the one given: to resume, name that file as the config and give the "
            "--steps of the first part."
        )


def summary_text(summary: TrainingSummary) -> str:
    """What is printed at the end of a training."""
    skipped = f", {summary.skipped_steps} skipped (not finite)" if summary.skipped_steps else ""
    return (
        f"{summary.steps} of {summary.total_steps} steps{skipped}, loss {summary.loss:.4f}, "
        f"{duration_text(summary.seconds)}\n{summary.missing.table()}"
    )


def _start_text(training: TrainingLoop, processes: Processes) -> str:
    parameters = sum(parameter.numel() for parameter in training.detector.parameters())
    return f"{parameters / 1e6:.1f} M parameters, device {processes.device}, from step {training.state.step}"


@contextmanager
def _log_of(run: RunFolder) -> Iterator[Callable[[str], None]]:
    """What says a sentence in train.log and on stdout. The last one in the log says what failed, if something does."""
    # Each line at once, for a killed process writes nothing more. Without a buffer, which a full disk would leave full:
    # closing the file would then fail, in the place of what is to be told.
    with run.log.open("ab", buffering=0) as file:

        def write(text: str) -> None:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n".encode())

        def log(text: str) -> None:
            write(text)
            tqdm.write(text)  # on stdout, without breaking the bar on stderr
            sys.stdout.flush()

        try:
            yield log
        except Exception as error:
            with suppress(OSError):  # a full disk must not hide what filled it
                write(_failure_text(error))
            raise


@contextmanager
def _page_of(run: RunFolder) -> Iterator[None]:
    """Write report.html however the training ends that is done meanwhile."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # the page must not hide the failure that it is to tell
            write_run_report(run, _failure_text(error))
        raise
    write_run_report(run)


def _failure_text(error: Exception) -> str:
    """A failure in one sentence; one that is a bug has its traceback on stderr."""
    explained = isinstance(error, InputRefused | CommandFailed | Diverged)
    return str(error) if explained else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _say_nothing(text: str) -> None:
    pass
