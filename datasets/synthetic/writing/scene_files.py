"""What a scene has once: its map mask, its CAN bus files, and its rows of the tables."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.synthetic.can_bus.messages import can_bus_files
from datasets.synthetic.can_bus.positioning import gps_messages
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.schedule import shots_of
from datasets.synthetic.world import World, build_world
from datasets.synthetic.writing.annotations import Annotation
from datasets.synthetic.writing.effort import Effort, Stopwatch
from datasets.synthetic.writing.recording import unit_truth
from datasets.synthetic.writing.scene_faults import scene_faults
from datasets.synthetic.writing.table_files import write_scene_rows
from datasets.synthetic.writing.tables import map_file, scene_tables
from datasets.synthetic.writing.unfinished import Unfinished

_DRIVABLE = (Material.ASPHALT, Material.MARKING_WHITE, Material.MARKING_YELLOW)


@dataclass(frozen=True)
class SceneJob:
    """A scene whose keyframes are all recorded."""

    unfinished: Unfinished
    config: WorldConfig
    scene: int
    units: tuple[Path, ...]
    """The truth of its keyframes, as the recording left it."""


def finish_scene(job: SceneJob) -> Effort:
    """Write what the scene has once; its folder of table rows appears last and says that the scene is done."""
    watch = Stopwatch()
    with watch.timing("tables"):
        world = build_world(job.config, job.scene)
        for name, content in _scene_files(job.config, job.scene, world):
            job.unfinished.write(job.unfinished.dataset / name, content)
        annotations: dict[int, list[Annotation]] = {}
        for unit in job.units:
            annotations |= unit_truth(unit)
        tables = scene_tables(job.config, job.scene, world, annotations)
        if job.config.has_faults:
            row = scene_faults(job.config, job.scene).side_file_row(shots_of(job.config, job.scene))
            tables["faults"] = [row]
        written = job.unfinished.partial / f"{os.getpid()}-rows"
        write_scene_rows(written, tables)
        written.rename(job.unfinished.rows(job.scene))
        for unit in job.units:
            unit.unlink()
    return watch.effort(keyframes=0)


def _scene_files(config: WorldConfig, scene: int, world: World) -> Iterable[tuple[str, bytes]]:
    """Names relative to the dataset's root, and contents."""
    drivable = np.isin(world.plan.surface.cells, _DRIVABLE).astype(np.uint8) * 255
    # Map masks have the north in their first row.
    yield map_file(config, scene), bytes(cv2.imencode(".png", drivable[::-1])[1])
    name = config.scene_names[scene]
    files = {**can_bus_files(config, scene, world), "gps": gps_messages(config, scene, world)}
    for kind, messages in files.items():
        yield f"can_bus/{name}_{kind}.json", json.dumps(messages).encode()
