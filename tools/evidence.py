"""Train the variants of a study on the same data and budget, score them on held-out scenes, write the comparison."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.splits import default_split
from datasets.samples.batch import collate
from datasets.samples.make_sample import make_sample
from tools.benchmarks.side_by_side import interleaved, one_thread
from tools.devices import DeviceChoice, limit_threads
from tools.evidence_page import evidence_page
from tools.evidence_rows import Evidence, EvidenceBasis, OtherScenes, Trained, read_evidence, write_evidence
from tools.evidence_studies import STUDIES, Study, Variant, config_digest, possible_studies, trials_in_order, variants
from tools.evidence_training import TrialToMeasure, branches_of, dataset_name, measure_trial, run_of
from tools.exit_codes import Interrupted
from tools.jobs import Job, run_jobs
from tools.open_dataset import DataRoot, instants, open_tables, refuse_shared_scenes, tables_root
from tools.presets import preset_or_config
from tools.progress import duration_text
from tools.run_config import RunConfig
from tools.training.run_folder import load_detector, weights_file


@dataclass(frozen=True)
class EvidenceArguments:
    """What `bevel evidence` takes."""

    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """The folder for everything. What is there is kept: an interrupted study goes on."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    studies: tuple[Study, ...] = STUDIES
    """Which: sensors, temporal (sensors with pose and memory), strategies, subsets, losses, tasks."""
    config: str = "tiny"
    """The preset or config file that all variants are made of."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="RUN|FILE")] = None
    """Every variant that has a sensor branch of these weights starts from them: a camera branch of `bevel pretrain
    --loss perspective`, as published detectors start from backbones that have seen pictures before."""
    steps: int = 600
    """Training steps of each variant."""
    seeds: int = 3
    """Of each variant: 0, 1 ..."""
    no_augmentation: bool = False
    """Neither augmentation nor modality dropout (but where a study asks for it): right where few samples are seen
    twice."""
    version: str | None = None
    """The tables' folder, if there are several."""
    split: str | None = None
    """Trained on, otherwise mini_train or train."""
    val_split: str | None = None
    """Scored, otherwise mini_val or val."""
    also_score: Annotated[Path | None, tyro.conf.arg(metavar="DATAROOT")] = None
    """All scenes of another dataset are scored as well: those of a night, say."""
    device: DeviceChoice = "auto"
    jobs: int | None = None
    """Trainings at once, each in a process of its own; otherwise as many as cores are there for, on CUDA one."""
    threads: int = 1
    """CPU threads of each; with one, figures are the same to the bit, whatever the jobs."""


_Rows = Mapping[Study, tuple[Variant, ...]]


def evidence(arguments: EvidenceArguments) -> Path:
    """Train and score what is not there yet; return evidence.md, with evidence.json beside it.

    Raises InputRefused for bad input, Interrupted after Ctrl-C, and Diverged or CommandFailed with the name of the
    training that failed: what was finished stays.
    """
    if arguments.seeds < 1 or arguments.steps < 1:
        raise InputRefused("--seeds and --steps must be 1 or more.")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise InputRefused(f"{arguments.output} is a file: name a folder.")
    limit_threads(arguments.threads)
    at_once = _jobs_at_once(arguments)
    config = preset_or_config(arguments.config)
    # All have one budget, and scores on the split that is reported choose no weights.
    training = replace(config.training, steps=arguments.steps, epochs=None, validate_every=None, patience=None)
    if arguments.no_augmentation:
        training = replace(training, augmentation=None, modality_dropout=0.0)
    config = replace(config, training=training)
    rows = {study: variants(study, config) for study in arguments.studies}
    reader = open_tables(tables_root(arguments.data_root), arguments.version, config.sample)
    init = None if arguments.init is None else weights_file(arguments.init)
    if init is not None and not branches_of(config, init):
        raise InputRefused(f"--init {init} has no sensor branch of {arguments.config}: every variant would start anew.")
    studies = _Studies(arguments, rows, reader, _basis(arguments, config, reader, init), init, possible_studies(config))
    if arguments.also_score is not None:
        studies.evidence = _with_other_scenes(studies.evidence, arguments.also_score, reader)
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        studies.measure(at_once)
    except (KeyboardInterrupt, Interrupted) as interrupt:
        raise Interrupted(
            f"Interrupted; {studies.file} has {len(studies.evidence.trained)} trainings, the same command goes on."
        ) from interrupt
    return studies.page


def _jobs_at_once(arguments: EvidenceArguments) -> int:
    """How many trainings run at once. Raises InputRefused for less than one."""
    if arguments.jobs is not None:
        if arguments.jobs < 1:
            raise InputRefused(f"--jobs must be 1 or more, not {arguments.jobs}.")
        return arguments.jobs
    # How many trainings a card has memory for is known to nobody here.
    if arguments.device == "cuda" or (arguments.device == "auto" and torch.cuda.is_available()):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // arguments.threads)


class _Studies:
    """Has trainings measured and remembers them. Only this process writes evidence.json and the page.

    With several jobs it does nothing on CUDA, not even for latencies, which are the CPU's: a context would take some
    hundred megabytes of the card for hours, and its children, which are started and not forked, have their own.
    """

    def __init__(
        self,
        arguments: EvidenceArguments,
        rows: _Rows,
        reader: NuScenesReader,
        basis: EvidenceBasis,
        init: Path | None,
        on_the_page: _Rows,
    ) -> None:
        """`on_the_page`: the rows of all studies, those that an earlier command has measured too."""
        self._arguments, self._rows, self._reader, self._init = arguments, rows, reader, init
        self.file, self.page = arguments.output / "evidence.json", arguments.output / "evidence.md"
        self._on_the_page = on_the_page
        self.evidence: Evidence = read_evidence(self.file, basis)

    def measure(self, at_once: int) -> None:
        """Everything that has not been measured, the first seed of all studies first: early tables have all rows."""
        jobs = self._jobs()
        of_first_seed = [job for job in jobs if job.argument.trial.config.training.seed == 0]
        if "strategies" in self._rows:
            # Latencies are taken of the first seed's weights, while nothing else of ours runs.
            self._run(of_first_seed, at_once, len(jobs))
            self._take_latencies(self._rows["strategies"])
            jobs = jobs[len(of_first_seed) :]
        self._run(jobs, at_once, len(jobs))
        self._write()

    def _jobs(self) -> list[Job[TrialToMeasure]]:
        """What is left to do."""
        arguments = self._arguments
        jobs = []
        for named in trials_in_order(self._rows, arguments.seeds):
            wanted = TrialToMeasure(
                trial=named.trial,
                trained=self.evidence.of(named.trial.digest),
                with_subsets=named.with_subsets,
                also_score=arguments.also_score,
                basis=self.evidence.basis,
                output=arguments.output,
                data_root=tables_root(arguments.data_root),
                init=self._init,
                device=arguments.device,
                threads=arguments.threads,
            )
            if not wanted.known:
                jobs.append(Job(named.name, wanted, arguments.output / "logs" / f"{named.trial.digest}.log"))
        return jobs

    def _run(self, jobs: Sequence[Job[TrialToMeasure]], at_once: int, total: int) -> None:
        """Have jobs done; `total`: with those that come after them."""
        began, at_once = time.monotonic(), min(at_once, len(jobs))
        for done, (job, trained) in enumerate(_measured(jobs, at_once), start=1):
            self.evidence = self.evidence.with_trained(trained)
            self._write()
            left = seconds_left(time.monotonic() - began, done, total, at_once)
            print(
                f"{done}/{total} {job.name}: mAP {trained.mean_ap:.3f}, NDS {trained.nds:.3f}, trained in "
                f"{duration_text(trained.seconds)}; about {duration_text(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def _write(self) -> None:
        write_evidence(self.file, self.evidence)
        write_atomically(self.page, evidence_page(self.evidence, self._on_the_page).encode())

    def _take_latencies(self, rows: Sequence[Variant]) -> None:
        """CPU milliseconds from a batch to boxes, side by side, one thread: the median of the middle frame."""
        trials = [row.trial(0) for row in rows]
        if all(trial.digest in self.evidence.latencies for trial in trials):
            return
        tokens = self._reader.frame_tokens(self.evidence.basis.val_split)
        frame = self._reader.frame(tokens[len(tokens) // 2])
        ways: dict[str, Callable[[], object]] = {}
        for trial in trials:
            config, detector = load_detector(run_of(self._arguments.output, trial).path)
            batch = collate([make_sample(frame, config.sample)])
            ways[trial.digest] = partial(detector.detect, batch)
        with one_thread():
            latencies = interleaved(ways, rounds=5, repeats=3)
        self.evidence = replace(self.evidence, latencies=self.evidence.latencies | latencies)
        self._write()


def _measured(
    jobs: Sequence[Job[TrialToMeasure]], at_once: int
) -> Generator[tuple[Job[TrialToMeasure], Trained], None, None]:
    """In processes of their own, or one after another in this one, with a bar for each training."""
    if at_once > 1:
        yield from run_jobs(measure_trial, jobs, at_once)
        return
    for job in jobs:
        print(job.name, file=sys.stderr, flush=True)
        yield job, measure_trial(job.argument)


def seconds_left(elapsed: float, done: int, total: int, at_once: int) -> float:
    """How long the rest of `total` equal jobs will take: those that run are half done on the average."""
    half_done = min(at_once, total - done) / 2 if at_once > 1 else 0.0
    return elapsed * (total - done - half_done) / (done + half_done)


def _basis(arguments: EvidenceArguments, config: RunConfig, reader: NuScenesReader, init: Path | None) -> EvidenceBasis:
    split = arguments.split or default_split(reader.version, "train")
    val_split = arguments.val_split or default_split(reader.version, "evaluate")
    tokens, val_tokens = reader.frame_tokens(split), reader.frame_tokens(val_split)
    refuse_shared_scenes(reader, split, val_split)
    return EvidenceBasis(
        config=config_digest(config),
        version=reader.version,
        split=split,
        val_split=val_split,
        train_scenes=len(reader.scenes_of(tokens)),
        train_samples=len(tokens),
        val_scenes=len(reader.scenes_of(val_tokens)),
        val_samples=len(val_tokens),
        samples=_digest_of(reader, [*tokens, *val_tokens]),
        steps=arguments.steps,
        init=None if init is None else hashlib.sha256(init.read_bytes()).hexdigest(),
    )


def _digest_of(reader: NuScenesReader, tokens: Sequence[str]) -> str:
    lines = (f"{token} {time}" for token, time in instants(reader, tokens))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _with_other_scenes(evidence: Evidence, root: Path, trained_on: NuScenesReader) -> Evidence:
    """The evidence, knowing this dataset. Raises InputRefused for no dataset, for one with samples that are trained on,
    and where scores of another one with its name are there.
    """
    reader, name = open_tables(tables_root(root), None, None), dataset_name(root)
    tokens = reader.frame_tokens("all")
    if set(tokens) & set(trained_on.frame_tokens("all")):
        raise InputRefused(f"--also-score {root} has samples of --data-root: name a dataset that none is trained on.")
    other = OtherScenes(len(reader.scenes_of(tokens)), len(tokens), _digest_of(reader, tokens))
    if evidence.elsewhere.get(name, other) != other:
        raise InputRefused(
            f"--also-score {root}: there are scores of another dataset that is called {name}: rename the folder."
        )
    return replace(evidence, elsewhere=evidence.elsewhere | {name: other})
