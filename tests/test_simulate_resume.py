"""A dataset that was interrupted, however, never looks whole, and is the same in the end as one that was not."""

import json
import multiprocessing
import os
import resource
import select
import signal
import sys
import tracemalloc
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from datasets import synthetic
from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.simulate import simulate
from datasets.synthetic.writing.effort import Effort
from datasets.synthetic.writing.table_files import join_table, write_scene_rows
from datasets.synthetic.writing.unfinished import can_go_on, program_sources, unfinished_folder
from tools.__main__ import main
from tools.exit_codes import ExitCode

TWO_SCENES = WorldConfig(scenes=2, keyframes=1, image_width=16, seed=3)
TWO_UNITS = WorldConfig(scenes=1, keyframes=3, image_width=16, seed=3)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["datasets.synthetic.simulate"])


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def written_at_once(root: Path, config: WorldConfig) -> dict[str, bytes]:
    simulate(root, config)
    return contents(root)


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written_at_once(tmp_path_factory.mktemp("whole") / "world", TWO_SCENES)


def _killed_at(root: Path, config: WorldConfig, destination: str) -> None:
    """In a process of its own: simulate, and die of SIGKILL just before a file is renamed to this."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(destination):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    simulate(root, config)


def _on_a_full_disk(root: Path, largest_file: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    simulate(root, TWO_SCENES)


def _killed_with_workers(root: Path, pids: Connection) -> None:
    def tell_and_die(effort: Effort) -> None:
        pids.send(effort.process)
        os.kill(os.getpid(), signal.SIGKILL)

    simulate(root, TWO_SCENES, jobs=2, progress=tell_and_die)


def kill_at(root: Path, config: WorldConfig, destination: str) -> None:
    child = _FORKS.Process(target=_killed_at, args=(root, config, destination))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, destination
    assert not root.exists()


def test_killed_again_and_again_it_is_the_same_in_the_end(tmp_path: Path, two_scenes: dict[str, bytes]) -> None:
    root = tmp_path / "world"
    kill_at(root, TWO_SCENES, "state.json")
    kill_at(root, TWO_SCENES, "rows/0000")
    kill_at(root, TWO_SCENES, "units/0001-00000.json")  # all its files are there, but not what says so
    kill_at(root, TWO_SCENES, "v1.0-mini/sample_data.json")
    kill_at(root, TWO_SCENES, str(root))  # all is there but for the last rename
    found: list[int] = []
    simulate(root, TWO_SCENES, resumed=found.append)
    assert found == [2]
    assert contents(root) == two_scenes
    assert list(tmp_path.iterdir()) == [root]


def test_killed_in_the_middle_of_a_scene(tmp_path: Path) -> None:
    root = tmp_path / "world"
    whole = written_at_once(tmp_path / "whole", TWO_UNITS)
    sweeps = sorted(Path(name).name for name in whole if name.startswith("sweeps/LIDAR_TOP"))
    kill_at(root, TWO_UNITS, sweeps[-3])
    found: list[int] = []
    simulate(root, TWO_UNITS, resumed=found.append)
    assert found == [2]
    assert contents(root) == whole


def test_the_command_goes_on_and_says_so(
    tmp_path: Path, two_scenes: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "world"

    def interrupt(effort: Effort) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(root, TWO_SCENES, progress=interrupt)
    words = ["simulate", str(root), "--scenes", "2", "--keyframes", "1", "--image-width", "16", "--jobs", "1"]
    assert main([*words, "--seed", "4"]) == ExitCode.INPUT_REFUSED
    assert "other settings (seed 3)" in capsys.readouterr().err
    assert main([*words, "--seed", "3"]) == ExitCode.FINE
    said = capsys.readouterr()
    assert "1 of 2 keyframes are there from an earlier run" in said.err
    assert "simulating keyframes: 2/2" in said.err
    assert said.out.splitlines()[-1] == str(root)
    assert contents(root) == two_scenes


def test_a_full_disk_costs_only_what_did_not_fit(tmp_path: Path, two_scenes: dict[str, bytes]) -> None:
    root = tmp_path / "world"
    child = _FORKS.Process(target=_on_a_full_disk, args=(root, 100_000))
    child.start()
    child.join()
    assert child.exitcode == 1
    assert not root.exists()
    (half,) = (unfinished_folder(root) / "partial").iterdir()
    assert 0 < half.stat().st_size <= 100_000
    simulate(root, TWO_SCENES)
    assert contents(root) == two_scenes


def test_workers_end_with_their_parent(tmp_path: Path, two_scenes: dict[str, bytes]) -> None:
    root = tmp_path / "world"
    receiving, sending = _FORKS.Pipe(duplex=False)
    child = _FORKS.Process(target=_killed_with_workers, args=(root, sending))
    child.start()
    worker = receiving.recv()
    try:
        descriptor = os.pidfd_open(worker)
    except ProcessLookupError:  # it is gone already
        pass
    else:
        assert select.select([descriptor], [], [], 60)[0]
        os.close(descriptor)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    simulate(root, TWO_SCENES, jobs=2)
    assert contents(root) == two_scenes


def test_one_process_at_a_time_and_only_with_the_same_settings(tmp_path: Path) -> None:
    root = tmp_path / "world"

    def interrupt(found: int) -> None:
        assert found == 0
        with pytest.raises(InputRefused, match="being written by another process"):
            simulate(root, TWO_SCENES, restart=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(root, TWO_SCENES, resumed=interrupt)
    assert not root.exists()
    other = replace(TWO_SCENES, seed=4)
    assert can_go_on(root, TWO_SCENES)
    assert not can_go_on(root, other)
    with pytest.raises(InputRefused, match=r"other settings \(seed 3\).*--restart"):
        simulate(root, other)
    with pytest.raises(KeyboardInterrupt):
        simulate(root, other, restart=True, resumed=interrupt)
    assert can_go_on(root, other)


def test_the_program_is_all_of_the_simulator() -> None:
    names = {path.relative_to(Path(synthetic.__file__).parent).as_posix() for path in program_sources()}
    assert names >= {"world.py", "config.py", "scenery/roads.py", "pictures/shading.py", "writing/unfinished.py"}


def test_an_unfinished_dataset_of_another_program_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "world"

    def interrupt(found: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(root, TWO_SCENES, resumed=interrupt)
    state = unfinished_folder(root) / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"program": "older"}))
    with pytest.raises(InputRefused, match="another version of Bevel"):
        simulate(root, TWO_SCENES)
    state.unlink()
    with pytest.raises(InputRefused, match="in the way"):
        simulate(root, TWO_SCENES, restart=True)


def test_what_a_finished_run_could_not_remove_goes_with_the_next(tmp_path: Path) -> None:
    root = tmp_path / "world"
    (root / "samples").mkdir(parents=True)
    remains = unfinished_folder(root)
    (remains / "rows").mkdir(parents=True)
    (remains / "state.json").write_text("{}")
    with pytest.raises(InputRefused, match="not an empty folder"):
        simulate(root, TWO_SCENES)
    assert list(tmp_path.iterdir()) == [root]


def test_tables_of_any_length_are_joined_piece_by_piece(tmp_path: Path) -> None:
    rows = [[{"token": f"{scene}-{i}", "text": 'a,"[\n' * 50} for i in range(500)] for scene in range(40)]
    rows[3] = rows[39] = []
    folders = [tmp_path / str(scene) for scene in range(40)]
    for folder, own in zip(folders, rows, strict=True):
        write_scene_rows(folder, {"long": own, "empty": []})
    tracemalloc.start()
    for name in ("long", "empty"):
        join_table(tmp_path / f"{name}.json", name, folders, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = (tmp_path / "long.json").read_text()
    expected = [row for own in rows for row in own]
    assert text == json.dumps(expected, indent=0)
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    assert peak < len(text) / 10
