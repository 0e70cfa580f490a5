"""Run a trained detector over a split and write its detections as a nuScenes results file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from calibration.transforms import Transform
from datasets.batch import MODALITIES, Modality
from datasets.boxes import Boxes3D
from datasets.fusion_dataset import FusionDataset
from datasets.nuscenes.results import write_results
from perception.detector import Detector, DetectorConfig
from tools.detection import in_global
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.exit_codes import Degraded
from tools.missing_sensors import MissingSensors
from tools.open_dataset import open_dataset
from tools.progress import progress
from tools.training.loading import LoadedBatch, MissingSensorsPolicy, load_batches
from tools.training.run_folder import load_detector


@dataclass(frozen=True)
class PredictArguments:
    """What `bevel predict` takes."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder of `bevel train`."""
    data_root: Path
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str = "mini_val"
    """An official split, all, or scene names."""
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
    limit_threads(arguments.threads)
    output = arguments.output or arguments.run / f"results-{arguments.split.replace(',', '-')}.json"
    missing = predict_to_file(arguments, output)
    print(missing.table())
    if arguments.strict and missing.broken_count:
        raise Degraded(missing.strict_text(), output)
    return output


def predict_to_file(arguments: PredictArguments, output: Path) -> MissingSensors:
    """As `predict`, without a word; returns which sensors were missing."""
    config, detector = load_detector(arguments.run, choose_device(arguments.device))
    dataset = open_dataset(arguments.data_root, arguments.version, arguments.split, config.sample)
    missing = MissingSensors()
    boxes_global: dict[str, Boxes3D] = {}
    batches = -(-len(dataset) // arguments.batch_size)
    loaded_batches = batches_in_order(dataset, arguments.batch_size, arguments.workers, arguments.missing_sensors)
    for loaded in progress(loaded_batches, "detecting", batches):
        for token, faults, impairments in zip(loaded.batch.tokens, loaded.faults, loaded.impairments, strict=True):
            missing.add(token, faults, impairments)
        boxes_global |= detect_global(detector, loaded)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_results(output, boxes_global, modalities_of(config.detector))
    return missing


def batches_in_order(
    dataset: FusionDataset, batch_size: int, workers: int, missing_sensors: MissingSensorsPolicy
) -> Iterator[LoadedBatch]:
    """Every sample once, in the order of the data set."""
    order = [
        [(0, index) for index in range(start, min(start + batch_size, len(dataset)))]
        for start in range(0, len(dataset), batch_size)
    ]
    return load_batches(dataset, order, workers=workers, missing_sensors=missing_sensors)


def detect_global(detector: Detector, loaded: LoadedBatch) -> dict[str, Boxes3D]:
    """The detections of a batch by token, in global, float64, on the CPU."""
    device = next(detector.parameters()).device
    found = detector.detect(loaded.batch.to(device))
    poses: list[Transform] = list(loaded.batch.global_from_ego)
    return {
        token: in_global(boxes, global_from_ego)
        for token, boxes, global_from_ego in zip(loaded.batch.tokens, found, poses, strict=True)
    }


def modalities_of(config: DetectorConfig) -> tuple[Modality, ...]:
    """What the network was built to look at."""
    built = (config.camera, config.lidar, config.radar, config.pose)
    return tuple(name for name, branch in zip(MODALITIES, built, strict=True) if branch is not None)
