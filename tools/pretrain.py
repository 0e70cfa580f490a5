"""Train the sensor branches from one another, or the camera's from boxes in pictures; bevel train --init goes on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from datasets.faults import InputRefused
from datasets.samples.batch import Modality
from datasets.samples.fusion_dataset import FusionDataset
from perception.cross_modal.alignment import CrossModalConfig, CrossModalKind
from perception.detector import DetectorConfig
from perception.pretraining import check_pretraining
from perception.tasks.perspective import PerspectiveConfig, check_perspective
from tools.devices import DeviceChoice, limit_threads
from tools.exit_codes import Degraded
from tools.open_dataset import DataRoot, open_reader, split_of_reader
from tools.presets import preset_or_config
from tools.run_config import RunConfig
from tools.training.config import TrainingConfig
from tools.training.in_folder import (
    StartWeights,
    refuse_two_starts,
    refuse_unfinished,
    resume_command,
    train_in_folder,
)
from tools.training.loading import MissingSensorsPolicy
from tools.training.loop import TrainingSummary
from tools.training.processes import Processes, join_processes
from tools.training.run_folder import RunFolder

PretrainingLoss = CrossModalKind | Literal["perspective"]


@dataclass(frozen=True)
class PretrainArguments:
    """What `bevel pretrain` takes."""

    config: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PRESET|CONFIG.JSON")]]
    """A preset (tiny, small, base, large) or a config file; its sensor branches are trained."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say; or a folder or URL of shards."""
    version: str | None = None
    """The folder of tables, if several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise mini_train, train or test."""
    output: Path | None = None
    """The run folder, otherwise runs/PRESET-pretrained."""
    loss: PretrainingLoss | None = None
    """The cross-modal loss, else the config's or info_nce; perspective: the camera alone, from annotated boxes."""
    teacher: Modality | None = None
    """The sensor that the others learn from; its branch, from --init, stays."""
    steps: int | None = None
    """Steps, instead of the config's."""
    seed: int | None = None
    """Of first weights, order of samples and compared cells, instead of the config's."""
    workers: int | None = None
    """Loader processes, instead of the config's."""
    no_augmentation: bool = False
    """Samples as recorded: the world is not turned."""
    init: StartWeights = ()
    """Start from the parts that these weights have; where two have a part, from the later one's."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    strict: bool = False
    """Exit code 4 if sensors were missing."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def pretrain(arguments: PretrainArguments) -> Path:
    """Train the branches and return the run folder, which is like that of `bevel train`.

    Raises InputRefused for bad input, Interrupted after Ctrl-C (a checkpoint is saved), Diverged, CommandFailed, and
    with `strict` Degraded where sensors were missing.
    """
    refuse_two_starts(arguments.init, arguments.resume)
    config = pretraining_config(arguments)
    limit_threads(arguments.threads)
    run = RunFolder(arguments.output or Path("runs") / f"{Path(arguments.config).stem}-pretrained")
    with join_processes(arguments.device, config.training.process_timeout) as processes:
        summary = _pretrain(arguments, config, run, processes)
    refuse_unfinished(summary, resume_command("pretrain", arguments, run))
    if arguments.strict and summary.missing.broken_count:
        raise Degraded(summary.missing.strict_text(), run.path)
    return run.path


def pretraining_config(arguments: PretrainArguments) -> RunConfig:
    """The preset or the config file, with what the command line changes and without what plays no part; no modality is
    dropped, for there is one alone or they are compared.

    Raises InputRefused as `check_pretraining` or `check_perspective` has it.
    """
    config = preset_or_config(arguments.config)
    training = replace(config.training, modality_dropout=0.0, validate_every=None, patience=None)
    try:
        if arguments.loss == "perspective":
            if arguments.teacher is not None:
                raise ValueError("--teacher is for cross-modal losses, perspective has the camera branch alone")
            detector, training = _camera_alone(config.detector), replace(training, objective="perspective")
        else:
            check_pretraining(config.detector)
            detector = _compared(config.detector, arguments.loss, arguments.teacher)
            training = _without_annotations(training)
    except ValueError as error:
        raise InputRefused(f"{arguments.config}: {error}.") from error
    try:
        training = replace(
            training,
            augmentation=None if arguments.no_augmentation else training.augmentation,
            steps=training.steps if arguments.steps is None else arguments.steps,
            epochs=training.epochs if arguments.steps is None else None,
            seed=training.seed if arguments.seed is None else arguments.seed,
            workers=training.workers if arguments.workers is None else arguments.workers,
        )
    except ValueError as error:
        raise InputRefused(f"On the command line: {error}.") from error
    return RunConfig(config.sample, detector, training)


def _camera_alone(detector: DetectorConfig) -> DetectorConfig:
    """Nothing else is trained, nor read: but LiDAR points, where the camera branch looks at them."""
    return replace(
        detector,
        lidar=detector.lidar if check_perspective(detector.camera).uses_lidar else None,
        radar=None,
        pose=None,
        temporal=None,
        segmentation=None,
        depth=None,
        cross_modal=None,
        perspective=detector.perspective or PerspectiveConfig(),
    )


def _compared(detector: DetectorConfig, loss: CrossModalKind | None, teacher: Modality | None) -> DetectorConfig:
    given = detector.cross_modal or CrossModalConfig()
    return replace(detector, cross_modal=replace(given, kind=loss or given.kind, teacher=teacher or given.teacher))


def _without_annotations(training: TrainingConfig) -> TrainingConfig:
    """Objects are not pasted and classes not balanced, for both come from annotations."""
    augmentation = training.augmentation
    return replace(
        training,
        objective="cross_modal",
        sampling="plain",
        augmentation=None if augmentation is None else replace(augmentation, paste=None),
    )


def _pretrain(arguments: PretrainArguments, config: RunConfig, run: RunFolder, processes: Processes) -> TrainingSummary:
    settings = config.training
    reader = open_reader(
        arguments.data_root, arguments.version, config.sample, channels=config.sample.channels, merge_lidar=True
    )
    split = arguments.split or split_of_reader(reader, "pretrain")
    tokens = reader.frame_tokens(split)
    dataset = FusionDataset(reader, tokens, config.sample, augmentation=settings.augmentation, seed=settings.seed)
    return train_in_folder(
        config,
        dataset,
        split,
        run,
        processes,
        resume=arguments.resume,
        missing_sensors=arguments.missing_sensors,
        init=arguments.init,
    )
