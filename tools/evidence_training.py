"""One training of a study and its score, whichever process does it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.nuscenes.detection_analysis.analysis import analyse
from datasets.samples.batch import Modality
from perception.weights import parts_of
from tools.devices import DeviceChoice, limit_threads
from tools.evaluate import EvaluateArguments, measure
from tools.evidence_rows import EvidenceBasis, Trained, trained_from
from tools.evidence_studies import Trial, config_digest
from tools.pretrain import PretrainArguments, pretrain
from tools.report import read_training_log, seconds_in_training
from tools.robustness import RobustnessArguments, robustness
from tools.robustness_rows import read_measured
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint_files import checkpoints
from tools.training.run_folder import RunFolder, load_detector


@dataclass(frozen=True)
class TrialToMeasure:
    """A trial, what is known of it already, whether every subset of its sensors is scored, too, and on what dataset
    besides.
    """

    trial: Trial
    trained: Trained | None
    with_subsets: bool
    also_score: Path | None
    basis: EvidenceBasis
    output: Path
    data_root: Path
    init: Path | None
    device: DeviceChoice
    threads: int

    @property
    def run(self) -> RunFolder:
        """The run folder of the training."""
        return run_of(self.output, self.trial)

    @property
    def known(self) -> bool:
        """Whether nothing is left to measure."""
        return self.trained is not None and not self.lacks_subsets(self.trained) and not self.lacks_scenes(self.trained)

    def lacks_subsets(self, trained: Trained) -> bool:
        """Whether the subsets of its sensors are still to be scored."""
        return self.with_subsets and not trained.subsets

    def lacks_scenes(self, trained: Trained) -> bool:
        """Whether the other dataset is still to be scored."""
        return self.also_score is not None and dataset_name(self.also_score) not in trained.elsewhere


def dataset_name(root: Path) -> str:
    """What a dataset is called on the page: as its folder."""
    return root.resolve().name


def run_of(output: Path, trial: Trial) -> RunFolder:
    """Where a trial is trained."""
    return RunFolder(output / "runs" / trial.digest)


def branches_of(config: RunConfig, weights: Path) -> list[Modality]:
    """The detector's sensor branches that a weights file has. Raises InputRefused as `parts_of` does."""
    parts = parts_of(weights)
    return [sensor for sensor in config.detector.sensors if sensor in parts]


def measure_trial(wanted: TrialToMeasure) -> Trained:
    """Train, or go on with the training, and score; what is known is not measured again.

    Raises as `train`, `evaluate` and `robustness` do.
    """
    limit_threads(wanted.threads)
    trained = wanted.trained or _trained(wanted)
    if wanted.lacks_subsets(trained):
        trained = replace(trained, subsets=_subsets(wanted))
    if wanted.also_score is not None and wanted.lacks_scenes(trained):
        name, score = dataset_name(wanted.also_score), _score_elsewhere(wanted, wanted.also_score)
        trained = replace(trained, elsewhere=trained.elsewhere | {name: score})
    return trained


def _trained(wanted: TrialToMeasure) -> Trained:
    trial, run, basis = wanted.trial, wanted.run, wanted.basis
    path = wanted.output / "configs" / f"{config_digest(trial.config)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_config(path, trial.config)
    # What the pretrained branches do not have (the perspective's head, say) is as without pretraining.
    begun = (*_init(wanted), _pretrained(wanted, path)) if trial.pretrained else _init(wanted)
    if not run.weights.is_file():
        resume = _can_resume(run)
        train(
            TrainArguments(
                str(path),
                wanted.data_root,
                version=basis.version,
                split=basis.split,
                output=run.path,
                init=() if resume else begun,
                resume=resume,
                device=wanted.device,
                threads=wanted.threads,
            )
        )
    _, evaluation, _ = measure(
        EvaluateArguments(
            run.path,
            wanted.data_root,
            version=basis.version,
            split=basis.val_split,
            device=wanted.device,
            threads=wanted.threads,
        )
    )
    analysis = analyse(evaluation, wanted.data_root, basis.version, 0)
    _, detector = load_detector(run.path)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    seed, seconds = trial.config.training.seed, seconds_in_training(read_training_log(run.metrics))
    return trained_from(trial.digest, seed, parameters, seconds, evaluation.metrics, analysis)


def _init(wanted: TrialToMeasure) -> tuple[Path, ...]:
    """What all trainings begin with, for those that have a sensor branch of it."""
    init = wanted.init
    return () if init is None or not branches_of(wanted.trial.config, init) else (init,)


def _pretrained(wanted: TrialToMeasure, config: Path) -> Path:
    """The branches of a config after `bevel pretrain`, for as many steps as the detector is trained.

    A branch that has learnt before teaches the others: it would only forget what it was given for.

    The digest of a pretrained trial is that of its config, seed included: no other trial begins with the same branches,
    so none does this at the same time.
    """
    run = RunFolder(wanted.output / "pretrained" / config.stem)
    if not run.weights.is_file():
        resume, init = _can_resume(run), _init(wanted)
        taught = [sensor for path in init for sensor in branches_of(wanted.trial.config, path)]
        pretrain(
            PretrainArguments(
                str(config),
                wanted.data_root,
                version=wanted.basis.version,
                split=wanted.basis.split,
                output=run.path,
                init=() if resume else init,
                teacher=taught[0] if len(taught) == 1 else None,
                resume=resume,
                device=wanted.device,
                threads=wanted.threads,
            )
        )
    return run.path


def _subsets(wanted: TrialToMeasure) -> dict[str, tuple[float, float]]:
    """One checkpoint with every proper subset of its sensors, by `bevel robustness`."""
    folder = robustness(
        RobustnessArguments(
            wanted.run.path,
            wanted.data_root,
            version=wanted.basis.version,
            split=wanted.basis.val_split,
            corruptions=("sensor_subset",),
            device=wanted.device,
            threads=wanted.threads,
        )
    )
    return {row.label or "all": (row.mean_ap, row.nds) for row in read_measured(folder / "robustness.json").rows}


def _score_elsewhere(wanted: TrialToMeasure, root: Path) -> tuple[float, float]:
    """mAP and NDS of all scenes of another dataset."""
    _, evaluation, _ = measure(
        EvaluateArguments(
            wanted.run.path,
            root,
            split="all",
            output=wanted.run.path / f"evaluation-of-{dataset_name(root)}",
            device=wanted.device,
            threads=wanted.threads,
        )
    )
    return evaluation.metrics.mean_ap, evaluation.metrics.nds


def _can_resume(run: RunFolder) -> bool:
    """Whether a training was interrupted there; what was killed before its first checkpoint is cleared away."""
    if run.config.is_file() and checkpoints(run.checkpoints):
        return True
    shutil.rmtree(run.path, ignore_errors=True)
    return False
