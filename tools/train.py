"""Train a detector on a nuScenes dataset; Ctrl-C saves a checkpoint, --resume goes on from there exactly."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.reader import NuScenesReader
from datasets.reader import LogReader
from datasets.samples.fusion_dataset import FusionDataset
from perception.fusion.build import FusionKind, fusion_config
from perception.temporal import TemporalConfig
from tools.devices import DeviceChoice, limit_threads
from tools.exit_codes import Degraded
from tools.map_scores import map_targets
from tools.open_dataset import DataRoot, open_reader, split_of_reader, tables_root
from tools.presets import preset_or_config
from tools.run_config import RunConfig
from tools.training.held_out import refuse_held_out_objects
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
from tools.training.validation import Validation


@dataclass(frozen=True)
class TrainArguments:
    """What `bevel train` takes."""

    config: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PRESET|CONFIG.JSON")]]
    """A preset (tiny, small, base, large) or a config file (a run's config.json, changed or not)."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say; or a folder or URL of shards."""
    version: str | None = None
    """The tables' folder, if there are several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise mini_train or train."""
    val_split: str | None = None
    """Evaluate on this split at the end."""
    validate_every: int | None = None
    """Steps between validations on that split."""
    output: Path | None = None
    """The run folder, otherwise runs/PRESET."""
    fusion: FusionKind | None = None
    """How the sensors become one, instead of the config's way."""
    frames: int | None = None
    """Frames fused over time, the present one included (1: no memory), instead of the config's."""
    steps: int | None = None
    """Steps, instead of the config's."""
    workers: int | None = None
    """Loader processes, otherwise the config's."""
    no_augmentation: bool = False
    """Samples as recorded: the world is not turned, no sensor dropped."""
    init: StartWeights = ()
    """Start from the parts that these weights have; where two have a part, from the later one's."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    shard: bool = False
    """The processes of torchrun share weights and moments out (FSDP2)."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """If sensor files are missing or broken."""
    strict: bool = False
    """Exit code 4 if sensors were missing."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def train(arguments: TrainArguments) -> Path:
    """Train and return the run folder.

    Raises InputRefused for bad input, Interrupted after Ctrl-C (a checkpoint is saved), Diverged, CommandFailed, and
    with `strict` Degraded where sensors were missing.
    """
    refuse_two_starts(arguments.init, arguments.resume)
    config = training_config(arguments)
    limit_threads(arguments.threads)
    run = RunFolder(arguments.output or Path("runs") / Path(arguments.config).stem)
    with join_processes(arguments.device, config.training.process_timeout, shard=arguments.shard) as processes:
        summary = _train(arguments, config, run, processes)
    refuse_unfinished(summary, resume_command("train", arguments, run))
    if arguments.val_split is not None and processes.first:
        from tools.evaluate import EvaluateArguments, evaluate

        evaluate(
            EvaluateArguments(
                run.path,
                data_root=arguments.data_root,
                version=arguments.version,
                split=arguments.val_split,
                missing_sensors=arguments.missing_sensors,
                device=arguments.device,
                threads=arguments.threads,
            )
        )
    if arguments.strict and summary.missing.broken_count:
        raise Degraded(summary.missing.strict_text(), run.path)
    return run.path


def training_config(arguments: TrainArguments) -> RunConfig:
    """The preset or the config file, with what the command line changes."""
    config = preset_or_config(arguments.config)
    try:
        config = replace(config, training=replace(config.training, objective="detection"))
    except ValueError as error:
        raise InputRefused(f"{arguments.config}: {error}.") from error
    try:
        detector = config.detector
        fusion, temporal = detector.fusion, detector.temporal
        if arguments.fusion is not None and arguments.fusion != fusion.kind:
            fusion = fusion_config(arguments.fusion)
        if arguments.frames is not None:
            temporal = _with_frames(temporal, arguments.frames)
        config = replace(config, detector=replace(detector, fusion=fusion, temporal=temporal))
        if arguments.steps is not None:
            config = replace(config, training=replace(config.training, steps=arguments.steps, epochs=None))
        if arguments.workers is not None:
            config = replace(config, training=replace(config.training, workers=arguments.workers))
        if arguments.validate_every is not None:
            config = replace(config, training=replace(config.training, validate_every=arguments.validate_every))
        if arguments.no_augmentation:
            config = replace(config, training=replace(config.training, augmentation=None, modality_dropout=0.0))
    except ValueError as error:
        raise InputRefused(f"On the command line: {error}.") from error
    return config


def _with_frames(temporal: TemporalConfig | None, frames: int) -> TemporalConfig | None:
    """A memory for so many frames in all. Raises ValueError for less than 1 and more than 5."""
    if not 1 <= frames <= 5:
        raise ValueError(f"--frames must lie between 1 and 5, not {frames}")
    return None if frames == 1 else replace(temporal or TemporalConfig(), earlier_frames=frames - 1)


def _train(arguments: TrainArguments, config: RunConfig, run: RunFolder, processes: Processes) -> TrainingSummary:
    settings = config.training
    if arguments.val_split is not None:
        tables_root(arguments.data_root)
    reader = open_reader(
        arguments.data_root, arguments.version, config.sample, channels=config.sample.channels, merge_lidar=True
    )
    split = arguments.split or split_of_reader(reader, "train")
    tokens = reader.frame_tokens(split)
    dataset = FusionDataset(
        reader,
        tokens,
        config.sample,
        augmentation=settings.augmentation,
        seed=settings.seed,
        maps=map_targets(config.detector, reader, tokens),
        earlier_frames=config.detector.earlier_frames,
    )
    if arguments.val_split is not None and isinstance(reader, NuScenesReader):  # now, not after hours of training
        load_truth(reader.index, reader.version, arguments.val_split, reader.root / reader.version)
    if settings.augmentation is not None and settings.augmentation.paste is not None:
        database = Path(settings.augmentation.paste.database)
        refuse_held_out_objects(database, reader, split, arguments.val_split)
    return train_in_folder(
        config,
        dataset,
        split,
        run,
        processes,
        init=arguments.init,
        resume=arguments.resume,
        missing_sensors=arguments.missing_sensors,
        validation=_validation(arguments, config, reader, run, processes),
    )


def _validation(
    arguments: TrainArguments, config: RunConfig, reader: LogReader, run: RunFolder, processes: Processes
) -> Validation | None:
    """What the config's validate_every validates on. Raises InputRefused where no split is named."""
    if config.training.validate_every is None:
        return None
    if arguments.val_split is None or not isinstance(reader, NuScenesReader):
        raise InputRefused("training.validate_every needs a split to validate on: name it with --val-split.")
    return Validation(config, reader, arguments.val_split, run.validation, processes, arguments.missing_sensors)
