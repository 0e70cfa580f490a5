"""What reading data costs: opening tables, and the steps from sensor files to a training sample."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from tools.benchmarks.index import bench_index
from tools.benchmarks.machine import this_machine
from tools.benchmarks.nuscenes_tables import TablesSize
from tools.benchmarks.samples import bench_samples
from tools.exit_codes import CommandFailed


@dataclass(frozen=True)
class DataBench:
    """Opening the tables beside the devkit, then sweeps, points in boxes, pictures and voxels beside other ways.

    Trainval's size needs 3 GB on the disk, 8 GB of memory for the devkit, and some minutes.
    """

    scenes: int = 850
    """Scenes of the tables that are generated; trainval has 850."""
    scratch: Path | None = None
    """A folder for the generated tables; they are removed. Default: the system's for temporary files."""
    world: Path | None = None
    """A dataroot with pictures of 1600 x 900 to make samples from. Default: a synthetic one is written first."""
    devkit: bool = True
    """Open the tables with the devkit, too."""
    check: bool = True
    """Let bevel data check find every sensor file missing, too: nine minutes at trainval's size."""
    rounds: int = 5
    """How often the index is opened, and all ways of a comparison take their turns: more of them steady the medians."""
    output: Path | None = None
    """A JSON file for the figures."""


def bench_data(arguments: DataBench) -> Path | None:
    """Measure, print tables, and write the figures to `arguments.output`.

    Raises InputRefused for bad settings, and CommandFailed, after all that, where results do not agree with the other
    ways' within their bounds: then the times are of no use.
    """
    for name in ("scenes", "rounds"):
        if getattr(arguments, name) < 1:
            raise InputRefused(f"--{name} must be 1 or more, not {getattr(arguments, name)}.")
    scratch = Path(tempfile.gettempdir()) if arguments.scratch is None else arguments.scratch
    if not scratch.is_dir():
        raise InputRefused(f"{scratch} is no folder: name one for the generated tables with --scratch.")
    machine = this_machine()
    print(machine.text(), flush=True)
    size = TablesSize(scenes=arguments.scenes)
    index = bench_index(scratch, size, devkit=arguments.devkit, check=arguments.check, openings=arguments.rounds)
    print("\n".join(index.lines()), flush=True)
    samples = bench_samples(rounds=arguments.rounds, world=arguments.world)
    print(samples.table())
    if arguments.output is not None:
        figures = {"machine": asdict(machine), "index": asdict(index), "samples": asdict(samples)}
        write_atomically(arguments.output, (json.dumps(figures, indent=2) + "\n").encode())
    if samples.out_of_bounds():
        raise CommandFailed(f"the results are not those of the other ways: {'; '.join(samples.out_of_bounds())}.")
    return arguments.output
