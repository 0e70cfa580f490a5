"""Loader processes that die or hang end the training with one sentence; a signal to all stops it as Ctrl-C does."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.frames import Annotations, LogFrame
from datasets.reader import LogReader
from datasets.samples.fusion_dataset import FusionDataset
from tests.small_run import small_config
from tools.exit_codes import CommandFailed, ExitCode
from tools.open_dataset import open_dataset
from tools.run_config import write_config
from tools.training.checkpoint_files import checkpoints
from tools.training.loading import LoadedBatch, load_batches
from tools.training.order import EpochIndex

ROOT = Path(__file__).resolve().parents[1]


def die() -> None:
    """As where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """As on a disk that is gone: wait for a pipe that nobody writes to."""
    os.read(os.pipe()[0], 1)


def mistake() -> None:
    """As by a bug."""
    _ = 1 / 0


class FaultyReader:
    """The frames of another reader; a fault befalls the loader process that reads the second one."""

    def __init__(self, reader: LogReader, fault: Callable[[], None]) -> None:
        self._reader, self._fault, self._main = reader, fault, os.getpid()

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        return self._reader.frame_tokens(split)

    def frame(self, token: str) -> LogFrame:
        if token == self.frame_tokens("all")[1] and os.getpid() != self._main:
            self._fault()
        return self._reader.frame(token)

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        return self._reader.earlier_tokens(token, count)

    def annotations(self, token: str) -> Annotations | None:
        return self._reader.annotations(token)


def load_three(root: Path, fault: Callable[[], None], timeout_seconds: float) -> list[LoadedBatch]:
    whole = open_dataset(root, None, "all", small_config(1).sample)
    dataset = FusionDataset(FaultyReader(whole.reader, fault), whole.tokens, whole.config)
    order = [[EpochIndex(0, index)] for index in range(3)]
    return list(load_batches(dataset, order, workers=1, missing_sensors="refuse", timeout_seconds=timeout_seconds))


def test_a_killed_loader_process_is_told_in_one_sentence(nuscenes_root: Path) -> None:
    with pytest.raises(CommandFailed, match=r"A loader process died \(DataLoader worker \(pid.*\d+.*out of memory"):
        load_three(nuscenes_root, die, 30.0)


def test_a_file_that_hangs_is_named_by_its_sample(nuscenes_root: Path) -> None:
    # (A pipe in the place of a file does not come so far: it is refused as no file.)
    second = open_dataset(nuscenes_root, None, "all", small_config(1).sample).tokens[1]
    try:
        load_three(nuscenes_root, hang, 2.0)
    except CommandFailed as failure:
        said = str(failure)
    assert f"within 2 s: a sensor file of sample {second} hangs" in said
    assert not multiprocessing.active_children()  # it does not listen to SIGTERM, and is ended all the same


def test_a_bug_that_a_sample_brings_to_light_names_the_sample(nuscenes_root: Path) -> None:
    second = open_dataset(nuscenes_root, None, "all", small_config(1).sample).tokens[1]
    with pytest.raises(ZeroDivisionError, match=rf"while sample {second} was made"):
        load_three(nuscenes_root, mistake, 30.0)


def test_a_signal_to_all_processes_lets_the_step_end_and_saves(nuscenes_root: Path, tmp_path: Path) -> None:
    """As torchrun and schedulers send it: the loader process gets it, too."""
    write_config(tmp_path / "c.json", small_config(1_000_000, workers=1))
    words = ["-m", "tools", "train", str(tmp_path / "c.json"), "--data-root", str(nuscenes_root)]
    words += ["--output", str(tmp_path / "run"), "--device", "cpu", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as training:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while training.poll() is None and not (metrics.is_file() and metrics.read_text()):
            time.sleep(0.1)
        os.killpg(training.pid, signal.SIGTERM)
        said = training.communicate()[1]
    assert training.returncode == ExitCode.INTERRUPTED, said
    assert "checkpoint saved; go on with: bevel train" in said.splitlines()[-1]
    assert len(checkpoints(tmp_path / "run" / "checkpoints")) == 1
