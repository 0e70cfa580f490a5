"""Loader processes that die or hang end the training with one sentence."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.frames import Annotations, LogFrame
from datasets.reader import LogReader
from datasets.samples.fusion_dataset import FusionDataset
from tests.small_run import small_config
from tools.exit_codes import CommandFailed
from tools.open_dataset import open_dataset
from tools.training.loading import LoadedBatch, load_batches
from tools.training.order import EpochIndex


def die() -> None:
    """As where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """As on a disk that is gone: wait for a pipe that nobody writes to."""
    os.read(os.pipe()[0], 1)


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
    with pytest.raises(CommandFailed, match=rf"within 2 s: a sensor file of sample {second} hangs"):
        load_three(nuscenes_root, hang, 2.0)
