"""Write a synthetic dataset in nuScenes format."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.synthetic.config import WorldConfig
from datasets.synthetic.simulate import simulate as write_dataset
from tools.progress import Progress


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
    jobs: int = os.cpu_count() or 1
    """How many processes work at it; the result does not depend on it."""


def simulate(arguments: SimulateArguments) -> Path:
    """Write the dataset and return its folder. Raises InputRefused for a folder that is in use and for bad numbers."""
    config = WorldConfig(
        scenes=arguments.scenes,
        keyframes=arguments.keyframes,
        image_width=arguments.image_width,
        seed=arguments.seed,
        camera_sweeps=arguments.camera_sweeps,
    )
    with Progress("simulating keyframes", config.scenes * config.keyframes) as shown:

        def advance(keyframes: int) -> None:
            for _ in range(keyframes):
                shown.advance()

        write_dataset(arguments.directory, config, jobs=arguments.jobs, progress=advance)
    return arguments.directory
