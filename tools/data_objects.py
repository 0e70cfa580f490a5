"""Cut the annotated objects of a nuScenes dataset out of its sensor data, to be pasted into other frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.object_paste.build import build_object_database
from tools.open_dataset import open_tables
from tools.presets import preset_or_config
from tools.progress import Progress


@dataclass(frozen=True)
class ObjectsArguments:
    """What `bevel data objects` takes."""

    config: Positional[Annotated[str, arg(metavar="PRESET|CONFIG.JSON")]]
    """Whose samples the objects are for: they get its numbers of sweeps."""
    data_root: Positional[Annotated[Path, arg(metavar="DATAROOT")]]
    """The dataroot: the folder that holds v1.0-mini, say."""
    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    """The folder for the database; it must not exist. A config's augmentation names it: `paste.database`."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str = "train"
    """An official split, all, or scene names; never one that is evaluated on."""


def cut_objects(arguments: ObjectsArguments) -> Path:
    """Write the database and return its folder. Raises InputRefused for what cannot be read."""
    config = preset_or_config(arguments.config)
    reader = open_tables(arguments.data_root, arguments.version, config.sample)
    tokens = reader.frame_tokens(arguments.split)
    with Progress("cutting out objects", len(tokens)) as shown:

        def advance(frames: int) -> None:
            shown.advance(steps=frames)

        count = build_object_database(
            reader, tokens, config.sample, arguments.output, version=reader.version, progress=advance
        )
    print(f"{count} objects of {len(tokens)} frames")
    return arguments.output
