"""Train the variants of a study on the same data and budget, score them on held-out scenes, write the comparison."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import analyse
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.splits import default_split
from datasets.samples.batch import collate
from datasets.samples.make_sample import make_sample
from tools.benchmarks.side_by_side import interleaved, one_thread
from tools.devices import DeviceChoice, limit_threads
from tools.evaluate import EvaluateArguments, measure
from tools.evidence_page import evidence_page
from tools.evidence_rows import Evidence, EvidenceBasis, Trained, read_evidence, trained_from, write_evidence
from tools.evidence_studies import STUDIES, Study, Trial, Variant, config_digest, variants
from tools.exit_codes import Interrupted
from tools.open_dataset import DataRoot, open_tables, tables_root
from tools.presets import preset_or_config
from tools.pretrain import PretrainArguments, pretrain
from tools.report import read_training_log
from tools.robustness import RobustnessArguments, robustness
from tools.robustness_rows import read_measured
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint import checkpoints
from tools.training.run_folder import RunFolder, load_detector


@dataclass(frozen=True)
class EvidenceArguments:
    """What `bevel evidence` takes."""

    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """The folder for everything. What is there is kept: an interrupted study goes on."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    studies: tuple[Study, ...] = STUDIES
    """Which: sensors, strategies, subsets, losses, tasks."""
    config: str = "tiny"
    """The preset or config file that all variants are made of."""
    steps: int = 600
    """Training steps of each variant."""
    seeds: int = 3
    """Each variant is trained with the seeds 0, 1 ..."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """What is trained on, otherwise mini_train or train."""
    val_split: str | None = None
    """What is scored, otherwise mini_val or val."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def evidence(arguments: EvidenceArguments) -> Path:
    """Train and score what is not there yet; return evidence.md, with evidence.json beside it.

    Raises InputRefused for bad input, Interrupted after Ctrl-C: what was finished stays.
    """
    if arguments.seeds < 1 or arguments.steps < 1:
        raise InputRefused("--seeds and --steps must be 1 or more.")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise InputRefused(f"{arguments.output} is a file: name a folder.")
    limit_threads(arguments.threads)
    config = preset_or_config(arguments.config)
    # All have one budget, and scores on the split that is reported choose no weights.
    training = replace(config.training, steps=arguments.steps, epochs=None, validate_every=None, patience=None)
    config = replace(config, training=training)
    rows = {study: variants(study, config) for study in arguments.studies}
    reader = open_tables(tables_root(arguments.data_root), arguments.version, config.sample)
    studies = _Studies(arguments, reader, _basis(arguments, config, reader))
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        for study, of_study in rows.items():
            studies.measure(study, of_study)
            write_atomically(studies.page, evidence_page(studies.evidence, rows, arguments.seeds).encode())
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"Interrupted; {studies.file} has {len(studies.evidence.trained)} trainings, the same command goes on."
        ) from interrupt
    return studies.page


class _Studies:
    """Trains, scores and remembers."""

    def __init__(self, arguments: EvidenceArguments, reader: NuScenesReader, basis: EvidenceBasis) -> None:
        self._arguments, self._reader = arguments, reader
        self.file, self.page = arguments.output / "evidence.json", arguments.output / "evidence.md"
        self.evidence: Evidence = read_evidence(self.file, basis)

    def measure(self, study: Study, rows: tuple[Variant, ...]) -> None:
        """Every training of a study that has not been measured, seed by seed: early tables have all rows."""
        for seed in range(self._arguments.seeds):
            for row in rows:
                trial = row.trial(seed)
                trained = self.evidence.of(trial.digest)
                if trained is None:
                    print(f"{study}: {row.name}, seed {seed}", file=sys.stderr, flush=True)
                    trained = self._trained(trial)
                if study == "subsets" and not trained.subsets:
                    trained = replace(trained, subsets=self._subsets(trial))
                self._keep(self.evidence.with_trained(trained))
        if study == "strategies":
            self._keep(replace(self.evidence, latencies=self.evidence.latencies | self._latencies(rows)))

    def _keep(self, evidence: Evidence) -> None:
        self.evidence = evidence
        write_evidence(self.file, evidence)

    def _run(self, trial: Trial) -> RunFolder:
        return RunFolder(self._arguments.output / "runs" / trial.digest)

    def _trained(self, trial: Trial) -> Trained:
        arguments, folder, basis = self._arguments, self._run(trial), self.evidence.basis
        path = arguments.output / "configs" / f"{config_digest(trial.config)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_config(path, trial.config)
        begun = None
        if trial.pretrained:
            begun = self._pretrained(path)
        if not folder.weights.is_file():
            resume = _can_resume(folder)
            train(
                TrainArguments(
                    str(path),
                    arguments.data_root,
                    version=basis.version,
                    split=basis.split,
                    output=folder.path,
                    init=None if resume else begun,
                    resume=resume,
                    device=arguments.device,
                )
            )
        _, evaluation, _ = measure(
            EvaluateArguments(
                folder.path,
                arguments.data_root,
                version=basis.version,
                split=basis.val_split,
                device=arguments.device,
            )
        )
        analysis = analyse(evaluation, self._reader.root, basis.version, 0)
        _, detector = load_detector(folder.path)
        parameters = sum(parameter.numel() for parameter in detector.parameters())
        seconds = read_training_log(folder.metrics)[-1]["seconds"]
        seed = trial.config.training.seed
        return trained_from(trial.digest, seed, parameters, seconds, evaluation.metrics, analysis)

    def _pretrained(self, config: Path) -> Path:
        """The branches of a config after `bevel pretrain`, for as many steps as the detector is trained."""
        folder = RunFolder(self._arguments.output / "pretrained" / config.stem)
        if not folder.weights.is_file():
            pretrain(
                PretrainArguments(
                    str(config),
                    self._arguments.data_root,
                    version=self.evidence.basis.version,
                    split=self.evidence.basis.split,
                    output=folder.path,
                    resume=_can_resume(folder),
                    device=self._arguments.device,
                )
            )
        return folder.path

    def _subsets(self, trial: Trial) -> dict[str, tuple[float, float]]:
        """One checkpoint with every proper subset of its sensors, by `bevel robustness`."""
        folder = robustness(
            RobustnessArguments(
                self._run(trial).path,
                self._arguments.data_root,
                version=self.evidence.basis.version,
                split=self.evidence.basis.val_split,
                corruptions=("sensor_subset",),
                device=self._arguments.device,
            )
        )
        return {row.label or "all": (row.mean_ap, row.nds) for row in read_measured(folder / "robustness.json").rows}

    def _latencies(self, rows: tuple[Variant, ...]) -> dict[str, float]:
        """CPU milliseconds from a batch to boxes, side by side, one thread: the median of the middle frame."""
        tokens = self._reader.frame_tokens(self.evidence.basis.val_split)
        frame = self._reader.frame(tokens[len(tokens) // 2])
        ways: dict[str, Callable[[], object]] = {}
        for row in rows:
            config, detector = load_detector(self._run(row.trial(0)).path)
            batch = collate([make_sample(frame, config.sample)])
            ways[row.trial(0).digest] = partial(detector.detect, batch)
        with one_thread():
            return interleaved(ways, rounds=5, repeats=3)


def _can_resume(folder: RunFolder) -> bool:
    """Whether a training was interrupted there; what was killed before its first checkpoint is cleared away."""
    if folder.config.is_file() and checkpoints(folder.checkpoints):
        return True
    shutil.rmtree(folder.path, ignore_errors=True)
    return False


def _basis(arguments: EvidenceArguments, config: RunConfig, reader: NuScenesReader) -> EvidenceBasis:
    split = arguments.split or default_split(reader.version, "train")
    val_split = arguments.val_split or default_split(reader.version, "evaluate")
    tokens, val_tokens = reader.frame_tokens(split), reader.frame_tokens(val_split)
    scenes, val_scenes = reader.scenes_of(tokens), reader.scenes_of(val_tokens)
    both = sorted(scenes & val_scenes)
    if both:
        raise InputRefused(f"{split} and {val_split} share scenes ({', '.join(both[:3])}): nothing would be held out.")
    return EvidenceBasis(
        config=config_digest(config),
        version=reader.version,
        split=split,
        val_split=val_split,
        train_scenes=len(scenes),
        train_samples=len(tokens),
        val_scenes=len(val_scenes),
        val_samples=len(val_tokens),
        samples=hashlib.sha256("\n".join((*tokens, *val_tokens)).encode()).hexdigest(),
        steps=arguments.steps,
    )
