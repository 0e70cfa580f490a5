"""Write a synthetic dataset to disk."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
import torch

from datasets.faults import InputRefused
from datasets.synthetic.annotations import Annotation
from datasets.synthetic.can_bus import can_bus_files
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.materials import Material
from datasets.synthetic.positioning import gps_messages
from datasets.synthetic.recording import RecordingJob, record
from datasets.synthetic.rig import CHANNELS
from datasets.synthetic.tables import Row, constant_tables, map_file, scene_tables
from datasets.synthetic.world import World, build_world

_KEYFRAMES_PER_JOB = 2
_DRIVABLE = (Material.ASPHALT, Material.MARKING_WHITE, Material.MARKING_YELLOW)

# Called with the number of keyframes that have just been written.
Progress = Callable[[int], None]


def simulate(root: Path, config: WorldConfig, *, jobs: int = 1, progress: Progress | None = None) -> None:
    """Write the dataset of `config` to the folder `root`, with `jobs` processes of one thread each.

    The bytes depend on `config` alone. The dataset appears at `root` only when it is complete; until then it grows
    in a hidden folder beside it, which is removed when the work is interrupted. Raises InputRefused where `root`
    exists and is not an empty folder, or cannot be written.
    """
    if jobs < 1:
        raise InputRefused(f"jobs must be at least 1, it is {jobs}.")
    root = root.absolute()
    if root.is_symlink() or (root.exists() and not (root.is_dir() and not any(root.iterdir()))):
        raise InputRefused(f"{root} exists and is not an empty folder: name a new folder, or remove this one.")
    growing = root.parent / f".{root.name}.unfinished-{os.getpid()}"
    try:
        growing.mkdir(parents=True)
    except OSError as error:
        raise InputRefused(f"{root.parent} cannot be written ({error.strerror}): name another folder.") from error
    try:
        _write(growing, config, jobs, progress)
        if root.exists():
            root.rmdir()
        growing.rename(root)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def _write(root: Path, config: WorldConfig, jobs: int, progress: Progress | None) -> None:
    for folder in ("samples", "sweeps"):
        for channel in CHANNELS:
            (root / folder / channel).mkdir(parents=True)
    for folder in ("maps", "can_bus", config.version):
        (root / folder).mkdir()
    annotations: dict[int, dict[int, list[Annotation]]] = {scene: {} for scene in range(config.scenes)}
    rows_of_scene: dict[int, dict[str, list[Row]]] = {}
    for job, truth in _record_all(root, config, jobs):
        annotations[job.scene].update(truth)
        if len(annotations[job.scene]) == config.keyframes:
            world = build_world(config, job.scene)
            _write_scene_files(root, config, job.scene, world)
            rows_of_scene[job.scene] = scene_tables(config, job.scene, world, annotations.pop(job.scene))
        if progress is not None:
            progress(len(truth))
    tables: dict[str, list[Row]] = constant_tables(config)
    for scene in range(config.scenes):
        for name, rows in rows_of_scene[scene].items():
            tables.setdefault(name, []).extend(rows)
    for name, rows in tables.items():
        (root / config.version / f"{name}.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")


def _record_all(
    root: Path, config: WorldConfig, jobs: int
) -> Iterator[tuple[RecordingJob, dict[int, list[Annotation]]]]:
    last = config.keyframes - 1
    work = [
        RecordingJob(root, config, scene, first, min(first + _KEYFRAMES_PER_JOB - 1, last))
        for scene in range(config.scenes)
        for first in range(0, config.keyframes, _KEYFRAMES_PER_JOB)
    ]
    if jobs == 1:
        for job in work:
            yield job, record(job)
        return
    # Children of this process would inherit the threads of torch and Embree half alive. The fork server is a clean
    # process that has imported what they need once and has run none of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datasets.synthetic.recording"])
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_use_one_thread)
    try:
        running = {pool.submit(record, job): job for job in work}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _write_scene_files(root: Path, config: WorldConfig, scene: int, world: World) -> None:
    drivable = np.isin(world.plan.surface.cells, _DRIVABLE).astype(np.uint8) * 255
    # Map masks have the north in their first row.
    encoded = cv2.imencode(".png", drivable[::-1])[1]
    (root / map_file(config, scene)).write_bytes(bytes(encoded))
    name = config.scene_names[scene]
    files = {**can_bus_files(config, scene, world), "gps": gps_messages(config, scene, world)}
    for kind, messages in files.items():
        (root / "can_bus" / f"{name}_{kind}.json").write_text(json.dumps(messages), encoding="utf-8")
