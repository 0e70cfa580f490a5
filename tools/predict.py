"""Run a trained detector over a split and write its detections as a nuScenes results file."""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.nuscenes.results import write_results
from datasets.nuscenes.splits import split_in_file_name
from datasets.samples.batch import MODALITIES, Modality
from datasets.samples.fusion_dataset import FusionDataset
from perception.detector import DetectorConfig
from tools.detection import DetectorStream
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.exit_codes import Degraded
from tools.map_scores import MapScorer
from tools.missing_sensors import MissingSensors
from tools.open_dataset import DataRoot, open_dataset, version_and_split
from tools.progress import progress
from tools.shipped_runs import folder_of_outputs, run_or_shipped
from tools.training.config import TrainingConfig
from tools.training.loading import LoadedBatch, MissingSensorsPolicy, load_batches
from tools.training.order import EpochIndex
from tools.training.run_folder import load_detector, refuse_no_run


@dataclass(frozen=True)
class PredictArguments:
    """What `bevel predict` takes."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder of `bevel train`; tiny: the checkpoint that comes with Bevel."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say; or a folder or URL of shards."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise mini_val, val or test, as the version has it."""
    output: Path | None = None
    """Otherwise RUN/results-SPLIT.json."""
    batch_size: int = 1
    workers: int = 0
    """Loader processes."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    strict: bool = False
    """Exit code 4 if sensors were missing."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def predict(arguments: PredictArguments) -> Path:
    """Detect in every frame of the split, write the results file, return its path.

    Raises InputRefused for bad input, and with `strict` Degraded where sensors were missing.
    """
    arguments = replace(arguments, run=run_or_shipped(arguments.run))
    limit_threads(arguments.threads)
    refuse_no_run(arguments.run)
    version, split = version_and_split(arguments.data_root, arguments.version, arguments.split, "predict")
    output = arguments.output or folder_of_outputs(arguments.run) / f"results-{split_in_file_name(split)}.json"
    missing = predict_to_file(arguments, version, split, output)
    print(missing.table())
    if arguments.strict and missing.broken_count:
        raise Degraded(missing.strict_text(), output)
    return output


def predict_to_file(
    arguments: PredictArguments, version: str, split: str, output: Path, maps: MapScorer | None = None
) -> MissingSensors:
    """As `predict`, of this version and split and into this file; returns which sensors were missing.

    `maps` looks at the map that is segmented on the way.
    """
    refuse_loader_options(arguments.batch_size, arguments.workers)
    if output.is_dir():
        raise InputRefused(f"{output} is a folder: name a file for the results with --output.")
    config, detector = load_detector(arguments.run, choose_device(arguments.device))
    dataset = open_dataset(arguments.data_root, version, split, config.sample)
    if maps is not None:
        dataset = maps.with_map(dataset, config.detector)
    refuse_unwritable(output)
    print(f"{len(dataset)} samples of the split {split} of {version}", file=sys.stderr, flush=True)
    missing = MissingSensors()
    boxes_global: dict[str, Boxes3D] = {}
    stream = DetectorStream(detector)
    batches = -(-len(dataset) // arguments.batch_size)
    loaded_batches = batches_in_order(dataset, arguments.batch_size, arguments.workers, arguments.missing_sensors)
    for loaded in progress(loaded_batches, "detecting", batches):
        for token, faults, impairments in zip(loaded.batch.tokens, loaded.faults, loaded.impairments, strict=True):
            missing.add(token, faults, impairments)
        boxes_global |= stream.detect_global(loaded.batch, None if maps is None else maps.add)
    write_results(output, boxes_global, modalities_of(config.detector))
    return missing


def refuse_unwritable(output: Path) -> None:
    """Make the file's folder and try whether a file can be written there: now, not after hours of work.

    Raises OSError where it cannot.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", suffix=".tmp").close()


def refuse_loader_options(batch_size: int, workers: int) -> None:
    """Raise InputRefused for a batch without samples or a negative number of loader processes."""
    if batch_size < 1:
        raise InputRefused(f"--batch-size must be at least 1, not {batch_size}.")
    if workers < 0:
        raise InputRefused(f"--workers must be 0 (no loader processes) or more, not {workers}.")


def batches_in_order(
    dataset: FusionDataset,
    batch_size: int,
    workers: int,
    missing_sensors: MissingSensorsPolicy,
    timeout_seconds: float = TrainingConfig.loader_timeout,
) -> Iterator[LoadedBatch]:
    """Every sample once, in the order of the data set."""
    order = [
        [EpochIndex(0, index) for index in range(start, min(start + batch_size, len(dataset)))]
        for start in range(0, len(dataset), batch_size)
    ]
    return load_batches(
        dataset, order, workers=workers, missing_sensors=missing_sensors, timeout_seconds=timeout_seconds
    )


def modalities_of(config: DetectorConfig) -> tuple[Modality, ...]:
    """What the network was built to look at."""
    built = (config.camera, config.lidar, config.radar, config.pose)
    return tuple(name for name, branch in zip(MODALITIES, built, strict=True) if branch is not None)
