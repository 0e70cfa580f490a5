"""Measure what a run keeps of its score under missing sensors, weather, wrong calibration, late data, wrong poses."""

import hashlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.corruptions.catalogue import Sensors, Series, catalogue
from datasets.corruptions.corruption import Corruption, Together
from datasets.corruptions.reader import CorruptedReader
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.boxes import DetectionTruth
from datasets.nuscenes.detection_metric.detections import read_detections
from datasets.nuscenes.detection_metric.evaluation import match_counted
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, measure
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import write_results
from datasets.nuscenes.splits import default_split, scenes_of_split, split_in_file_name
from datasets.nuscenes.tables import find_version
from datasets.samples.fusion_dataset import FusionDataset
from perception.detector import Detector
from tools.detection import DetectorStream
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.drawing.canvas import png_bytes
from tools.drawing.heat_table import draw_heat_table
from tools.exit_codes import Interrupted
from tools.missing_sensors import MissingSensors
from tools.open_dataset import DataRoot, open_tables, tables_root
from tools.predict import batches_in_order, modalities_of, refuse_loader_options
from tools.progress import Progress
from tools.robustness_page import heat_rows, page, summary_text
from tools.robustness_rows import CLEAN, Basis, Measured, Row, read_rows, row_of, write_rows
from tools.run_config import RunConfig, config_to_json
from tools.shipped_runs import folder_of_outputs, run_or_shipped
from tools.training.loading import MissingSensorsPolicy
from tools.training.run_folder import load_detector, refuse_no_run


@dataclass(frozen=True)
class RobustnessArguments:
    """What `bevel robustness` takes."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder of `bevel train`; tiny: the checkpoint that comes with Bevel."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise mini_val or val, as the version has it."""
    scenes: int | None = None
    """Only so many scenes of the split, spread evenly."""
    corruptions: tuple[str, ...] = ()
    """By name (docs/robustness.md), otherwise all that concern the run's sensors."""
    severities: tuple[int, ...] = ()
    """1 is the weakest; otherwise all. Cases, such as sensor subsets, have none and are all measured."""
    seed: int = 0
    """Which points are dropped, which way a sensor is turned ..."""
    output: Path | None = None
    """Otherwise RUN/robustness-SPLIT. Rows that are there are kept: an interrupted run goes on."""
    batch_size: int = 1
    workers: int = 0
    """Loader processes."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


@dataclass(frozen=True)
class _Cell:
    """One thing to measure."""

    name: str
    severity: int
    label: str
    graded: bool
    source: str
    corruption: Corruption


@dataclass(frozen=True)
class _Trial:
    """What is measured, and on what."""

    split: str
    config: RunConfig
    detector: Detector
    reader: NuScenesReader
    tokens: tuple[str, ...]
    truth: DetectionTruth


def robustness(arguments: RobustnessArguments) -> Path:
    """Measure the run clean and under each corruption; return the folder of robustness.json, .md and .png.

    Raises InputRefused for bad input, Interrupted after Ctrl-C: rows that were finished stay.
    """
    arguments = replace(arguments, run=run_or_shipped(arguments.run))
    limit_threads(arguments.threads)
    refuse_no_run(arguments.run)
    refuse_loader_options(arguments.batch_size, arguments.workers)
    root = tables_root(arguments.data_root)
    version = find_version(root, arguments.version)
    split = arguments.split or default_split(version, "evaluate")
    output = arguments.output or folder_of_outputs(arguments.run) / f"robustness-{split_in_file_name(split)}"
    if output.exists() and not output.is_dir():
        raise InputRefused(f"{output} is a file: name a folder with --output.")
    config, detector = load_detector(arguments.run, choose_device(arguments.device))
    cells = _cells(config, arguments)
    reader = open_tables(root, version, config.sample, channels=config.sample.channels)
    split = ",".join(_some_scenes(reader, split, arguments.scenes))
    truth = load_truth(reader.index, version, split, root / version)
    tokens = reader.frame_tokens(split)
    output.mkdir(parents=True, exist_ok=True)
    trial = _Trial(split, config, detector, reader, tokens, truth)
    rows = output / "robustness.json"
    measured, missing = _measure_all(trial, cells, rows, arguments)
    title = f"Robustness of {arguments.run.resolve().name}"
    write_atomically(output / "robustness.md", page(title, measured, len(tokens)).encode())
    write_atomically(output / "robustness.png", png_bytes(draw_heat_table(title, heat_rows(measured))))
    print(summary_text(measured))
    print(missing.table())
    return output


def _cells(config: RunConfig, arguments: RobustnessArguments) -> list[_Cell]:
    """What was asked for, the clean run first. Raises InputRefused for names and severities that do not exist."""
    sample = config.sample
    sensors = Sensors(
        sample.camera_channels, sample.lidar_channel, sample.radar_channels, config.detector.pose is not None
    )
    known = {series.name: series for series in catalogue(sensors)}
    for name in arguments.corruptions:
        if name not in known:
            raise InputRefused(
                f"--corruptions: {name!r} is none of those for this run's sensors ({', '.join(sensors.modalities)}): "
                f"{', '.join(known)}."
            )
    chosen = [series for name, series in known.items() if not arguments.corruptions or name in arguments.corruptions]
    most = max((len(series.levels) for series in chosen if series.graded), default=0)
    if any(not 1 <= severity <= max(most, 1) for severity in arguments.severities):
        raise InputRefused(f"--severities must lie between 1 and {most} for these corruptions.")
    clean = _Cell(CLEAN, 0, "", False, "", Together(()))
    return [clean, *(cell for series in chosen for cell in _cells_of(series, arguments.severities))]


def _cells_of(series: Series, severities: tuple[int, ...]) -> list[_Cell]:
    return [
        _Cell(series.name, severity, level.label, series.graded, series.source, level.corruption)
        for severity, level in enumerate(series.levels, start=1)
        if not series.graded or not severities or severity in severities
    ]


def _some_scenes(reader: NuScenesReader, split: str, count: int | None) -> tuple[str, ...]:
    where = str(reader.root / reader.version)
    scenes = scenes_of_split(split, reader.scene_names, reader.version, where=where)
    if count is None:
        return scenes
    if not 1 <= count <= len(scenes):
        raise InputRefused(f"--scenes must lie between 1 and {len(scenes)}, the scenes of {split} that are here.")
    places = np.linspace(0, len(scenes) - 1, count).round().astype(int)
    return tuple(scenes[place] for place in places)


def _measure_all(
    trial: _Trial, cells: list[_Cell], rows: Path, arguments: RobustnessArguments
) -> tuple[Measured, MissingSensors]:
    """Every cell that has no row yet; the file is written after each."""
    measured = read_rows(rows, _basis(trial, arguments))
    left = [cell for cell in cells if not _is_measured(cell, measured)]
    print(
        f"{len(trial.tokens)} samples of {trial.split} of {trial.reader.version}, seed {arguments.seed}: "
        f"{len(left)} of {len(cells)} rows are to be measured",
        file=sys.stderr,
        flush=True,
    )
    missing = MissingSensors()
    try:
        with Progress("detecting, all rows", len(left) * len(trial.tokens)) as shown:
            for cell in left:
                metrics = _measure(trial, cell, rows.parent, arguments, missing, shown)
                row = row_of(
                    (cell.name, cell.severity), cell.label, cell.graded, cell.source, repr(cell.corruption), metrics
                )
                measured = measured.with_row(row)
                write_rows(rows, measured)
                shown.write(_line(row, measured))
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"Interrupted; {len(measured.rows)} rows are in {rows}, and the same command goes on."
        ) from interrupt
    return measured, missing


def _is_measured(cell: _Cell, measured: Measured) -> bool:
    row = measured.of(cell.name, cell.severity)
    return row is not None and row.definition == repr(cell.corruption)


def _measure(
    trial: _Trial,
    cell: _Cell,
    output: Path,
    arguments: RobustnessArguments,
    missing: MissingSensors,
    shown: Progress,
) -> DetectionMetrics:
    """Detect in every corrupted sample and score; the detections themselves are not kept."""
    reader = CorruptedReader(trial.reader, cell.corruption, trial.tokens, arguments.seed)
    dataset = FusionDataset(reader, trial.tokens, trial.config.sample)
    boxes_global: dict[str, Boxes3D] = {}
    stream = DetectorStream(trial.detector)
    for loaded in batches_in_order(dataset, arguments.batch_size, arguments.workers, arguments.missing_sensors):
        for token, faults, impairments in zip(loaded.batch.tokens, loaded.faults, loaded.impairments, strict=True):
            missing.add(token, faults, impairments)
        boxes_global |= stream.detect_global(loaded.batch)
        shown.advance(f"{cell.name} {cell.label}".strip(), steps=len(loaded.batch.tokens))
    return _scored(trial, boxes_global, output)


def _scored(trial: _Trial, boxes_global: dict[str, Boxes3D], output: Path) -> DetectionMetrics:
    """As `bevel evaluate` scores them, by way of a results file: rounding and the best 500 of a sample included."""
    truth = trial.truth
    with tempfile.TemporaryDirectory(dir=output, prefix=".row-") as folder:
        results = Path(folder) / "results.json"
        write_results(results, boxes_global, modalities_of(trial.config.detector))
        detections = read_detections(results, truth.samples, trial.split, others_allowed=False).boxes
    return measure(match_counted(truth, detections))


def _line(row: Row, measured: Measured) -> str:
    severity = f" {row.severity}" if row.graded else ""
    label = f" ({row.label})" if row.label else ""
    share = measured.kept(row, "nds")
    kept = "" if row.corruption == CLEAN or share is None else f", {share:.0%} of the NDS kept"
    return f"{row.corruption}{severity}{label}: NDS {row.nds:.4f}, mAP {row.mean_ap:.4f}{kept}"


def _basis(trial: _Trial, arguments: RobustnessArguments) -> Basis:
    weights = hashlib.sha256()
    for name, tensor in sorted(trial.detector.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Basis(
        weights=weights.hexdigest(),
        config=hashlib.sha256(config_to_json(trial.config).encode()).hexdigest(),
        version=trial.reader.version,
        scenes=tuple(trial.split.split(",")),
        samples=hashlib.sha256("\n".join(trial.tokens).encode()).hexdigest(),
        seed=arguments.seed,
        missing_sensors=arguments.missing_sensors,
    )
