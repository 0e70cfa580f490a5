"""What the network costs: lift-splat and the LiDAR encoder beside other ways, and each branch's share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.samples.batch import Batch, collate
from datasets.synthetic.config import WorldConfig
from perception.detector import Detector
from perception.lidar_branch import LidarBranch, PillarEncoder, VoxelEncoder
from perception.sparse import SparseHourglass
from tools.benchmarks.branches import PartCost, StepShare, part_costs, step_shares
from tools.benchmarks.lidar_encoder import bench_lidar_encoder
from tools.benchmarks.machine import this_machine
from tools.benchmarks.side_by_side import Comparison, one_thread
from tools.benchmarks.view_transform import PoolingSize, bench_pooling
from tools.exit_codes import CommandFailed
from tools.map_scores import with_map_targets
from tools.open_dataset import open_dataset
from tools.presets import PRESETS, preset_or_config
from tools.run_config import RunConfig

_WORLD = WorldConfig(scenes=1, keyframes=3, image_width=640, seed=7)
# The published measurements' size, in points of the frustum; and the small pictures of `tiny`.
_POOLING = (PoolingSize(), PoolingSize(rows=8, columns=22))


@dataclass(frozen=True)
class ModelBench:
    """Lift-splat beside the cumsum trick, LiDAR encoders beside spconv called directly; what each branch costs.

    One thread; ratios of CPU time. `large` needs 6 GB of memory; name fewer with --presets to leave it out.
    """

    presets: tuple[str, ...] = tuple(PRESETS)
    """Presets or config files of which parameters, operations and memory are counted."""
    steps: tuple[str, ...] = ("tiny",)
    """Presets or config files of which a training step is taken apart; base takes ten minutes."""
    encoders: tuple[str, ...] = ("tiny", "base")
    """Presets or config files whose LiDAR encoder is compared."""
    cumsum: bool = True
    """Compare lift-splat with the cumsum trick."""
    world: Path | None = None
    """An annotated nuScenes dataroot to take a sample from. Default: a synthetic one is written (a minute)."""
    rounds: int = 3
    """How often all ways of a comparison take their turns."""
    repeats: int = 3
    """How often a way runs in each of its turns."""
    output: Path | None = None
    """A JSON file for the figures."""


def bench_model(arguments: ModelBench) -> Path | None:
    """Measure, print tables, and write the figures to `arguments.output`.

    Raises InputRefused for bad settings, and CommandFailed, after all that, where results do not agree with the other
    ways' within their bounds: then the times are of no use.
    """
    if min(arguments.rounds, arguments.repeats) < 1:
        raise InputRefused("--rounds and --repeats must be 1 or more.")
    configs = {name: preset_or_config(name) for name in (*arguments.presets, *arguments.steps, *arguments.encoders)}
    encoders = {name: _encoder(name, configs[name]) for name in arguments.encoders}
    machine = this_machine()
    print(machine.text(), flush=True)
    with TemporaryDirectory() as folder, one_thread():
        world = arguments.world
        if world is None:
            from datasets.synthetic.simulate import simulate  # brings open3d

            world = Path(folder) / "world"
            simulate(world, _WORLD)
        comparisons = _comparisons(arguments, configs, encoders, world)
        shares = {name: _shares(name, configs[name], world) for name in arguments.steps}
        costs = {name: _costs(name, configs[name], world) for name in arguments.presets}
    if arguments.output is not None:
        figures = {
            "machine": asdict(machine),
            "comparisons": [asdict(comparison) for comparison in comparisons],
            "step_shares": {name: {part: asdict(of) for part, of in parts.items()} for name, parts in shares.items()},
            "costs": {name: {part: asdict(of) for part, of in parts.items()} for name, parts in costs.items()},
        }
        write_atomically(arguments.output, (json.dumps(figures, indent=2) + "\n").encode())
    off = [comparison.work for comparison in comparisons if not comparison.agreement.within]
    if off:
        raise CommandFailed(f"the results are not those of the other ways: {'; '.join(off)}.")
    return arguments.output


def _encoder(name: str, config: RunConfig) -> PillarEncoder | VoxelEncoder:
    """A LiDAR encoder with random weights. Raises InputRefused for one that there is nothing to compare with."""
    detector = config.detector
    if detector.lidar is None:
        raise InputRefused(f"{name} has no lidar branch: name another one with --encoders.")
    torch.manual_seed(0)
    encoder = LidarBranch(detector.lidar, detector.grid, detector.channels).encoder
    if any(isinstance(module, SparseHourglass) for module in encoder.modules()):
        raise InputRefused(f"{name} has sparse hourglasses, and spconv has none: name another one with --encoders.")
    return encoder


def _comparisons(
    arguments: ModelBench,
    configs: Mapping[str, RunConfig],
    encoders: Mapping[str, PillarEncoder | VoxelEncoder],
    world: Path,
) -> list[Comparison]:
    comparisons: list[Comparison] = []
    for size in _POOLING if arguments.cumsum else ():
        for comparison in bench_pooling(size, arguments.rounds, arguments.repeats):
            print("\n".join(comparison.lines()), flush=True)
            comparisons.append(comparison)
    for name, encoder in encoders.items():
        points = _sample(configs[name], world).lidar
        comparison = bench_lidar_encoder(encoder, points, arguments.rounds, arguments.repeats)
        print("\n".join(comparison.lines()), flush=True)
        comparisons.append(comparison)
    return comparisons


def _shares(name: str, config: RunConfig, world: Path) -> dict[str, StepShare]:
    torch.manual_seed(0)
    batch = _sample(config, world, to_learn=True)
    shares = step_shares(Detector(config.detector), batch, config.training, steps=5)
    total = sum(share.forward + share.backward for share in shares.values())
    print(f"{name}: a training step of one sample, {total:,.0f} ms of CPU time")
    for part, share in shares.items():
        print(
            f"    {part:<13} {share.share:6.1%}   forward {share.forward:9,.1f} ms, backward {share.backward:9,.1f} ms"
        )
    return shares


def _costs(name: str, config: RunConfig, world: Path) -> dict[str, PartCost]:
    torch.manual_seed(0)
    costs = part_costs(Detector(config.detector), _sample(config, world))
    costs["all"] = PartCost(
        sum(cost.parameters for cost in costs.values()),
        sum(cost.gflop for cost in costs.values()),
        sum(cost.kept_mib for cost in costs.values()),
    )
    print(f"{name}: one sample, forward\n    part     parameters (M)      GFLOP   kept for backward (MiB)")
    for part, cost in costs.items():
        print(f"    {part:<8} {cost.parameters / 1e6:14.3f} {cost.gflop:10.2f} {cost.kept_mib:25,.0f}", flush=True)
    return costs


def _sample(config: RunConfig, world: Path, *, to_learn: bool = False) -> Batch:
    """The last sample of the world, which has the most sweeps, as a batch; `to_learn`: with the map where the config
    asks for it. Raises InputRefused where that is not there.
    """
    dataset = open_dataset(world, None, "all", config.sample, earlier_frames=config.detector.earlier_frames)
    if to_learn:
        dataset = with_map_targets(dataset, config.detector)
    return collate([dataset[len(dataset) - 1]])
