"""Training killed at any instant goes on from the newest whole checkpoint and ends in the same bits.

BEVEL_KILLS=50 in the environment kills that often, otherwise it is a few times. When a process dies is drawn from a
seed: it is an instant of its CPU time, or, where a file is written, a call of a function.
"""

import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from safetensors.torch import load_file

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from tests.small_run import small_config
from tests.test_checkpoint import state_of, stepped
from tools.run_config import write_config
from tools.train import TrainArguments, train
from tools.training.checkpoint import load_checkpoint, save_checkpoint
from tools.training.checkpoint_files import whole_checkpoints
from tools.training.run_folder import RunFolder

KILLS = int(os.environ.get("BEVEL_KILLS", "4"))
_FORK = multiprocessing.get_context("fork")


def die_after(cpu_seconds: float) -> None:
    """Let this process die of SIGKILL when it has computed for so long: the same wherever others compute as well."""
    signal.signal(signal.SIGPROF, lambda number, frame: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def die_at_call(number: int) -> None:
    """Let this process die of SIGKILL at so manieth call of a function from now on, Python's or C's."""
    calls = itertools.count(1)

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call") and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def survives(work: Callable[[], object]) -> bool:
    """Do the work in a process of its own; whether it came to its end, or died of SIGKILL."""
    child = _FORK.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def rows(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def assert_same_run(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    last = RunFolder(whole).checkpoints / "step_00000004"
    for file in last.iterdir():
        same = RunFolder(run).checkpoints / last.name / file.name
        if file.suffix == ".json" and file.name == "state.json":
            assert same.read_text() == file.read_text()
        elif file.suffix == ".safetensors":
            expected, found = load_file(file), load_file(same)
            assert expected.keys() == found.keys()
            assert all(expected[name].equal(found[name]) for name in expected), file.name
    expected, found = load_file(whole / "weights.safetensors"), load_file(run / "weights.safetensors")
    assert all(expected[name].equal(found[name]) for name in expected)


def test_killed_at_any_call_it_ends_in_the_same_bits(nuscenes_root: Path, tmp_path: Path) -> None:
    config = small_config(4, checkpoint_interval=1, modality_dropout=0.5)
    augmentation = Augmentation(bev=BevAugmentation())
    config = replace(config, training=replace(config.training, batch_size=1, augmentation=augmentation))
    write_config(tmp_path / "config.json", config)

    def arguments(name: str) -> TrainArguments:
        return TrainArguments(
            str(tmp_path / "config.json"), nuscenes_root, output=tmp_path / name, device="cpu", threads=1
        )

    began = time.process_time()
    train(arguments("whole"))
    cpu_seconds = time.process_time() - began
    generator = random.Random(7)
    kills = runs = 0
    while kills < KILLS:
        given = arguments(f"run {runs}")
        run = RunFolder(tmp_path / f"run {runs}")
        finished = False
        while not finished:
            # Any number of loader processes makes the same samples.
            given = replace(given, resume=run.config.is_file(), workers=generator.randrange(3))
            instant = generator.uniform(0.0, 0.6 * cpu_seconds) if kills < KILLS else math.inf

            def work(given: TrainArguments = given, instant: float = instant) -> None:
                if math.isfinite(instant):
                    die_after(instant)
                train(given)

            finished = survives(work)
            kills += not finished
        assert_same_run(run.path, tmp_path / "whole")
        runs += 1


def test_the_log_has_all_that_was_said_before_the_kill(nuscenes_root: Path, tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", small_config(3, checkpoint_interval=1))
    given = TrainArguments(
        str(tmp_path / "config.json"), nuscenes_root, output=tmp_path / "run", device="cpu", threads=1
    )

    def die(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith("step_00000003"):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        sys.addaudithook(die)
        train(given)

    assert not survives(work)
    said = [line.partition(" ")[2] for line in (tmp_path / "run" / "train.log").read_text().splitlines()]
    assert said[0].startswith("starting: ")
    assert said[-2].startswith("step 1: loss ")
    assert said[-1].startswith("step 2: loss ")


def test_killed_while_it_saves_the_last_but_one_is_whole(tmp_path: Path) -> None:
    saved, other = stepped(0), stepped(1)
    before = tmp_path / "before"
    for step in (1, 2):
        save_checkpoint(before, state_of(step), *saved, config_json="{}")

    def save(folder: Path) -> None:
        save_checkpoint(folder, state_of(3), *other, config_json="{}")

    # Calls of one saving: of all of it, and of what comes after the rename.
    calls, after = 0, 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, after
        calls += event in ("call", "c_call")
        after += event in ("call", "c_call") and (tmp_path / "counted" / "step_00000003").exists()

    shutil.copytree(before, tmp_path / "counted")
    sys.setprofile(count)
    save(tmp_path / "counted")
    sys.setprofile(None)
    generator = random.Random(3)
    newest = set()
    for trial in range(max(KILLS, 12)):
        folder = shutil.copytree(before, tmp_path / f"trial {trial}")
        instant = generator.randrange(1, calls) if trial % 2 else calls - generator.randrange(5, after)

        def work(folder: Path = folder, instant: int = instant) -> None:
            die_at_call(instant)
            save(folder)

        assert not survives(work)
        whole, damage = whole_checkpoints(folder)
        assert damage == []
        assert folder / "step_00000002" in whole
        newest.add(load_checkpoint(whole[-1], *stepped(1)).step)
        save(folder)  # what was left behind is no obstacle, and is cleared away
        assert sorted(path.name for path in folder.iterdir()) == ["step_00000002", "step_00000003"]
    assert newest == {2, 3}
