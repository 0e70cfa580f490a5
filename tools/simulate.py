"""Write a synthetic dataset in nuScenes format."""

import os
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.synthetic.conditions import SceneConditions
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.simulate import simulate as write_dataset
from datasets.synthetic.writing.effort import Effort
from datasets.synthetic.writing.injected_faults import read_faults
from tools.exit_codes import CommandFailed, Interrupted
from tools.progress import Progress

_GO_ON = "the same command goes on with the keyframes that are there"

_MEMORY_PER_JOB = 2**30  # bytes; with pictures of 1600 x 900 a process holds about that


def default_jobs() -> int:
    """As many processes as there are CPU cores at hand, and memory for."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _MEMORY_PER_JOB))


@dataclass(frozen=True)
class SimulateArguments:
    """What `bevel simulate` takes."""

    directory: Positional[Annotated[Path, arg(metavar="DIR")]]
    """The folder to write the dataset to; it must not exist, or be empty."""
    scenes: int = 10
    """How many scenes; up to 10 are written as v1.0-mini with its official split, more as v1.0-trainval."""
    keyframes: int = 20
    """Annotated keyframes of each scene, half a second apart."""
    image_width: int = 800
    """Width of the pictures in pixels, a multiple of 16; nuScenes has 1600."""
    seed: int = 0
    """The same seed and settings give the same bytes."""
    camera_sweeps: bool = False
    """Also render the pictures between keyframes (12 Hz in all)."""
    conditions: SceneConditions = "mixed"
    """Light and weather of all scenes; mixed: half of them by day, the others at dusk, night, in rain or fog."""
    faults: Path | None = None
    """A JSON list of faults to inject (docs/synthetic-world.md)."""
    fault_scenes: float = 0.0
    """The share of scenes (0 to 1) that get one random fault each."""
    jobs: int = field(default_factory=default_jobs)
    """How many processes work at it; the result does not depend on it."""
    restart: bool = False
    """Throw an unfinished run away instead of going on with it."""


def simulate(arguments: SimulateArguments) -> Path:
    """Write the dataset and return its folder. Raises InputRefused for a folder that is in use and for bad numbers.

    Raises Interrupted after Ctrl-C and CommandFailed where a disk or a worker process failed: what has been written is
    kept, and the same command goes on.
    """
    config = WorldConfig(
        scenes=arguments.scenes,
        keyframes=arguments.keyframes,
        image_width=arguments.image_width,
        seed=arguments.seed,
        camera_sweeps=arguments.camera_sweeps,
        conditions=arguments.conditions,
        faults=read_faults(arguments.faults) if arguments.faults is not None else (),
        fault_scenes=arguments.fault_scenes,
    )
    total = config.scenes * config.keyframes
    with Progress("simulating keyframes", total) as shown:

        def resume(keyframes: int) -> None:
            if keyframes:
                shown.write(f"{keyframes} of {total} keyframes are there from an earlier run: going on.")
                shown.begin_at(keyframes)

        def advance(effort: Effort) -> None:
            shown.advance(steps=effort.keyframes)

        try:
            write_dataset(
                arguments.directory,
                config,
                jobs=arguments.jobs,
                restart=arguments.restart,
                resumed=resume,
                progress=advance,
            )
        except KeyboardInterrupt as interrupt:
            raise Interrupted(f"Interrupted; {_GO_ON}.") from interrupt
        except BrokenProcessPool as error:
            raise CommandFailed(
                f"a worker process was killed, perhaps for want of memory: try fewer --jobs; {_GO_ON}."
            ) from error
        except OSError as error:
            raise CommandFailed(f"{error}; {_GO_ON}.") from error
    return arguments.directory
