"""Write a synthetic dataset to disk."""

import shutil
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.rig import CHANNELS
from datasets.synthetic.writing.effort import Effort
from datasets.synthetic.writing.recording import RecordingJob, record
from datasets.synthetic.writing.scene_faults import scene_faults
from datasets.synthetic.writing.scene_files import SceneJob, finish_scene
from datasets.synthetic.writing.table_files import join_table, write_scene_rows
from datasets.synthetic.writing.tables import constant_tables
from datasets.synthetic.writing.unfinished import Unfinished, remove_remains, unfinished_dataset
from datasets.synthetic.writing.workers import work_off

_KEYFRAMES_PER_UNIT = 2
_SIDE_FILES = ("faults",)  # in the dataset's root, not among the tables

# Called with the cost of each job when it is done, the keyframes that it has written among it.
Progress = Callable[[Effort], None]
_Job = RecordingJob | SceneJob


def simulate(
    root: Path,
    config: WorldConfig,
    *,
    jobs: int = 1,
    restart: bool = False,
    resumed: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the dataset of `config` to the folder `root`, with `jobs` processes of one thread each.

    The bytes depend on `config` alone. The dataset appears at `root` only when it is complete; until then it grows
    in a hidden folder beside it. Where the work is interrupted, by whatever, the same call goes on with what is
    there; `restart` throws that away. `resumed` is told once how many keyframes are there.

    Raises InputRefused where `root` exists and is not an empty folder, or cannot be written; where another process
    writes it; and where what is there was begun with other settings or by another version of this program.
    """
    if jobs < 1:
        raise InputRefused(f"jobs must be at least 1, it is {jobs}.")
    root = root.absolute()
    if root.is_symlink() or (root.exists() and not (root.is_dir() and not any(root.iterdir()))):
        remove_remains(root)
        raise InputRefused(f"{root} exists and is not an empty folder: name a new folder, or remove this one.")
    for scene in range(config.scenes if config.faults else 0):
        scene_faults(config, scene)  # refuses faults that exclude one another
    with unfinished_dataset(root, config, restart=restart) as unfinished:
        _make_folders(unfinished.dataset, config)
        queue, recordings, found = _work(unfinished, config)
        if resumed is not None:
            resumed(found)
        _record_all(queue, recordings, jobs, progress)
        _write_tables(unfinished, config)
        if root.exists():
            root.rmdir()
        unfinished.dataset.rename(root)
        shutil.rmtree(unfinished.folder, ignore_errors=True)


def _make_folders(root: Path, config: WorldConfig) -> None:
    for folder in ("samples", "sweeps"):
        for channel in CHANNELS:
            (root / folder / channel).mkdir(parents=True, exist_ok=True)
    for folder in ("maps", "can_bus", f"lidarseg/{config.version}", config.version):
        (root / folder).mkdir(parents=True, exist_ok=True)


def _work(unfinished: Unfinished, config: WorldConfig) -> tuple[deque[_Job], dict[int, int], int]:
    """What is left to do, scene by scene; how many recordings of each scene that is; how many keyframes are there."""
    queue: deque[_Job] = deque()
    recordings: dict[int, int] = {}
    found = 0
    for scene in range(config.scenes):
        if unfinished.rows(scene).is_dir():
            found += config.keyframes
            continue
        missing = []
        for first in _firsts(config):
            last = min(first + _KEYFRAMES_PER_UNIT, config.keyframes) - 1
            if unfinished.unit(scene, first).exists():
                found += last - first + 1
            else:
                missing.append(RecordingJob(unfinished, config, scene, first, last))
        recordings[scene] = len(missing)
        queue.extend(missing or [_scene_job(unfinished, config, scene)])
    return queue, recordings, found


def _firsts(config: WorldConfig) -> range:
    """The first keyframe of each unit of a scene."""
    return range(0, config.keyframes, _KEYFRAMES_PER_UNIT)


def _scene_job(unfinished: Unfinished, config: WorldConfig, scene: int) -> SceneJob:
    return SceneJob(unfinished, config, scene, tuple(unfinished.unit(scene, first) for first in _firsts(config)))


def _record_all(queue: deque[_Job], recordings: dict[int, int], jobs: int, progress: Progress | None) -> None:
    with closing(work_off(queue, _run, jobs, preload=__name__)) as results:
        for job, effort in results:
            if isinstance(job, RecordingJob):
                recordings[job.scene] -= 1
                if recordings[job.scene] == 0:
                    queue.appendleft(_scene_job(job.unfinished, job.config, job.scene))
            if progress is not None:
                progress(effort)


def _run(job: _Job) -> Effort:
    return record(job) if isinstance(job, RecordingJob) else finish_scene(job)


def _write_tables(unfinished: Unfinished, config: WorldConfig) -> None:
    scenes = [unfinished.rows(scene) for scene in range(config.scenes)]
    folder = unfinished.dataset / config.version
    for name in sorted(rows.stem for rows in scenes[0].glob("*.rows")):
        target = unfinished.dataset if name in _SIDE_FILES else folder
        join_table(target / f"{name}.json", name, scenes, unfinished.partial)
    constant = unfinished.partial / "constant"
    tables = constant_tables(config)
    write_scene_rows(constant, tables)
    for name in tables:
        join_table(folder / f"{name}.json", name, [constant], unfinished.partial)
