"""What a linear layer reads of objects in the frozen sensor branches of runs, before their training and after it."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from datasets.atomic_file import write_atomically
from datasets.classes import DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.splits import split_in_file_name
from datasets.samples.batch import MODALITIES, Batch
from datasets.samples.fusion_dataset import FusionDataset
from perception.cross_modal.alignment import CrossModalConfig
from perception.linear_probe import LinearProbe, average_precision, drawn_cells, object_cells
from perception.pretraining import BranchPretraining
from perception.weights import load_parts
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.open_dataset import DataRoot, open_reader, split_of_reader
from tools.predict import batches_in_order
from tools.progress import progress
from tools.run_config import RunConfig, read_config
from tools.shipped_runs import folder_of_outputs, run_or_shipped
from tools.training.loading import MissingSensorsPolicy
from tools.training.network import without_pretrained_weights
from tools.training.run_folder import RunFolder, refuse_no_run, weights_of_run

ANY = "any object"
_TARGETS = (*DETECTION_CLASSES, ANY)
_EMPTY_CELLS = 1000  # of each sample, that the probe learns from


@dataclass(frozen=True)
class ProbeArguments:
    """What `bevel probe` takes."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    """Run folders of `bevel pretrain` (or train), or tiny, that differ in their seed: means over them are printed."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say; or a folder or URL of shards."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """The linear layers learn from this split; otherwise mini_train or train, as the version has it."""
    val_split: str | None = None
    """They are scored on this one; otherwise mini_val or val."""
    samples: int = 50
    """At most so many samples of each split, evenly taken from all of it."""
    output: Path | None = None
    """Otherwise probe-SPLIT.json in the first run's folder."""
    workers: int = 0
    """Loader processes."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


Precisions = dict[str, dict[str, float]]
"""Average precision per cell, by sensor and by class (and ANY)."""


@dataclass(frozen=True)
class Probed:
    """A run's branches before their training (the weights of its seed) and after it."""

    seed: int
    before: Precisions
    after: Precisions


def probe(arguments: ProbeArguments) -> Path:
    """Print the average precisions before and after training, and return the JSON file that holds them.

    Raises InputRefused for bad input.
    """
    if not arguments.runs:
        raise InputRefused("name at least one run folder.")
    if arguments.samples < 1:
        raise InputRefused(f"--samples must be at least 1, not {arguments.samples}.")
    limit_threads(arguments.threads)
    arguments = replace(arguments, runs=tuple(map(run_or_shipped, arguments.runs)))
    for run in arguments.runs:
        refuse_no_run(run)
    probed = [_probe_run(arguments, run) for run in arguments.runs]
    print(probe_text(probed))
    _, val_split = _splits(arguments, read_config(RunFolder(arguments.runs[0]).config))
    output = arguments.output or folder_of_outputs(arguments.runs[0]) / f"probe-{split_in_file_name(val_split)}.json"
    rows = [{"run": str(run), **vars(one)} for run, one in zip(arguments.runs, probed, strict=True)]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, (json.dumps(_without_nan(rows), indent=2, allow_nan=False) + "\n").encode())
    return output


def probe_text(probed: Sequence[Probed]) -> str:
    """The means over the runs, with the standard deviation where there are several."""
    seeds = ", ".join(str(one.seed) for one in probed)
    lines = [
        f"average precision per cell of a linear layer on frozen BEVs, seed {seeds}",
        f"{'sensor':<8}{'target':<26}{'random':>18}{'trained':>18}{'gain':>18}",
    ]
    for sensor in probed[0].before:
        for target in _TARGETS:
            before, after = ([getattr(one, when)[sensor][target] for one in probed] for when in ("before", "after"))
            if any(value != value for value in before):
                continue  # no such object in the split
            gains = [b - a for a, b in zip(before, after, strict=True)]
            lines.append(f"{sensor:<8}{target:<26}" + "".join(f"{_spread(v):>18}" for v in (before, after, gains)))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.4f}" if len(values) == 1 else f"{mean:.4f} +- {statistics.stdev(values):.4f}"


def _probe_run(arguments: ProbeArguments, run: Path) -> Probed:
    config = read_config(RunFolder(run).config)
    device = choose_device(arguments.device)
    detector = without_pretrained_weights(config.detector)
    try:
        detector = replace(detector, cross_modal=detector.cross_modal or CrossModalConfig())
        torch.manual_seed(config.training.seed)
        before, after = BranchPretraining(detector), BranchPretraining(detector)
    except ValueError as error:
        raise InputRefused(f"{run}: {error}.") from error
    load_parts(after, weights_of_run(run))
    networks = {"before": before.to(device).eval(), "after": after.to(device).eval()}
    split, val_split = _splits(arguments, config)
    probes = _fitted(networks, config, arguments, split)
    return Probed(config.training.seed, **_scored(networks, probes, config, arguments, val_split))


def _splits(arguments: ProbeArguments, config: RunConfig) -> tuple[str, str]:
    reader = open_reader(arguments.data_root, arguments.version, config.sample, channels=())
    return (
        arguments.split or split_of_reader(reader, "train"),
        arguments.val_split or split_of_reader(reader, "evaluate"),
    )


def _cells(
    networks: Mapping[str, BranchPretraining], config: RunConfig, arguments: ProbeArguments, split: str
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Sample by sample: what stands in each of its N cells (N, L), and each network's features there (N, 3, C)."""
    reader = open_reader(
        arguments.data_root, arguments.version, config.sample, channels=config.sample.channels, merge_lidar=True
    )
    tokens = reader.frame_tokens(split)
    step = max(1, -(-len(tokens) // arguments.samples))
    dataset = FusionDataset(reader, tokens[::step], config.sample)
    device = choose_device(arguments.device)
    batches = batches_in_order(dataset, 1, arguments.workers, arguments.missing_sensors)
    for loaded in progress(batches, f"looking at {split:.30}", len(dataset)):
        batch: Batch = loaded.batch
        if batch.boxes is None:
            raise InputRefused(f"sample {batch.tokens[0]} has no annotations: probe with splits that have some.")
        objects = object_cells(batch.boxes[0], config.detector.grid).flatten(1).T
        found = {}
        for name, network in networks.items():
            with torch.no_grad():
                bevs = network(batch.to(device)).modality_bevs[0].cpu()
            found[name] = bevs.flatten(2).permute(2, 0, 1)
        yield torch.cat([objects, objects.any(dim=1, keepdim=True)], dim=1), found


def _fitted(
    networks: Mapping[str, BranchPretraining], config: RunConfig, arguments: ProbeArguments, split: str
) -> dict[tuple[str, int], LinearProbe]:
    """A probe for each network and sensor, all from the same cells."""
    generator = torch.Generator().manual_seed(0)
    targets, weights = [], []
    features: dict[str, list[Tensor]] = {name: [] for name in networks}
    for objects, found in _cells(networks, config, arguments, split):
        chosen, weight = drawn_cells(objects[:, -1], _EMPTY_CELLS, generator)
        targets.append(objects[chosen])
        weights.append(weight)
        for name, cells in found.items():
            features[name].append(cells[chosen])
    sensors = [MODALITIES.index(sensor) for sensor in config.detector.sensors]
    return {
        (name, sensor): LinearProbe(torch.cat(parts)[:, sensor], torch.cat(targets), torch.cat(weights))
        for name, parts in features.items()
        for sensor in sensors
    }


def _scored(
    networks: Mapping[str, BranchPretraining],
    probes: Mapping[tuple[str, int], LinearProbe],
    config: RunConfig,
    arguments: ProbeArguments,
    split: str,
) -> dict[str, Precisions]:
    truth: list[Tensor] = []
    scores: dict[tuple[str, int], list[Tensor]] = {key: [] for key in probes}
    for objects, found in _cells(networks, config, arguments, split):
        truth.append(objects)
        for (name, sensor), fitted in probes.items():
            scores[name, sensor].append(fitted(found[name][:, sensor]))
    everything = torch.cat(truth)
    out: dict[str, Precisions] = {name: {} for name in networks}
    for (name, sensor), parts in scores.items():
        all_scores = torch.cat(parts)
        out[name][MODALITIES[sensor]] = {
            target: average_precision(all_scores[:, index], everything[:, index])
            for index, target in enumerate(_TARGETS)
        }
    return out


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if value != value else value
