"""The folder of one run, and a detector out of it.

runs/NAME/  config.json          the whole RunConfig
            environment.json     versions, git revision, machine, the command; those of resumed sessions behind it
            metrics.jsonl        one line for each step
            train.log            what was printed
            tensorboard/         the same numbers for TensorBoard
            checkpoints/         see tools/training/checkpoint_files.py
            weights.safetensors  the result: the averaged weights, of a run that validates the best ones
            best.safetensors     the averaged weights of the validation with the best NDS so far
            validation/          detections and figures of the last validation
            report.html          curves, figures, config, versions
"""

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.version import bevel_version
from perception.detector import Detector
from perception.weights import load_weights
from tools.run_config import RunConfig, config_to_json, read_config
from tools.shipped_runs import run_or_shipped
from tools.training.checkpoint_files import newest_checkpoint
from tools.training.network import without_pretrained_weights

_PACKAGES = ("torch", "numpy", "spconv-cu120", "open3d", "opencv-python", "nuscenes-devkit", "transformers")

_HELD: set[IO[str]] = set()
"""The files whose locks this process holds."""


def _let_go() -> None:
    for file in _HELD:
        file.close()
    _HELD.clear()


# A lock is held as long as any process has the file open: a loader process that outlives its training by some seconds,
# or hangs for ever, must not keep the run from being resumed.
os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """The paths of a run, and the lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "train.log"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.weights = path / "weights.safetensors"
        self.best = path / "best.safetensors"
        self.validation = path / "validation"
        self.report = path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder alone. Raises InputRefused where another training holds it; ends with the process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputRefused(f"{self.path} cannot be a run folder: {error}; choose another --output.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputRefused(f"another training is writing to {self.path}: choose another --output.") from error
            _HELD.add(file)
            try:
                yield
            finally:
                _HELD.discard(file)

    def start(self, config: RunConfig) -> None:
        """Write config and environment of a new run. Raises InputRefused where the folder holds a run already."""
        if self.config.exists():
            raise InputRefused(f"{self.path} holds a run already: pass --resume to go on, or another --output.")
        self._write_environment(describe_environment())
        write_atomically(self.config, config_to_json(config).encode())  # last: it makes the folder a run

    def resumed(self, step: int) -> None:
        """Note in what environment the run goes on after so many steps."""
        begun = self.read_environment()
        begun["resumed"] = [*begun.get("resumed", []), {"from_step": step, **describe_environment()}]
        self._write_environment(begun)

    def read_environment(self) -> dict[str, Any]:
        """What environment.json says of the session that began the run, under `resumed` a list of the later ones. Empty
        where it cannot be read: it is a note, and nothing hangs on it.
        """
        try:
            found = json.loads(self.environment.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_environment(self, environment: Mapping[str, Any]) -> None:
        write_atomically(self.environment, (json.dumps(environment, indent=2) + "\n").encode())


def load_detector(run: Path, device: torch.device | None = None) -> tuple[RunConfig, Detector]:
    """The config of a run and its detector in eval mode, on the device (default CPU).

    A run that is not finished gives the averaged weights of its last checkpoint. Raises InputRefused for a folder
    that is no run, and for weights that do not fit its config.
    """
    refuse_no_run(run)
    config = read_config(RunFolder(run).config)
    if config.training.objective != "detection":
        raise InputRefused(
            f"{run} holds pretrained branches and no detector: train one from it with bevel train --init {run}."
        )
    detector = Detector(without_pretrained_weights(config.detector))
    load_weights(detector, weights_of_run(run))
    return config, detector.to(device or torch.device("cpu")).eval()


def weights_of_run(run: Path) -> Path:
    """The file of a run's averaged weights; of a run that is not finished, those of its last checkpoint.

    Raises InputRefused for a folder that is no run or has no weights yet.
    """
    refuse_no_run(run)
    folder = RunFolder(run)
    if folder.weights.is_file():
        return folder.weights
    if not folder.checkpoints.is_dir():
        raise InputRefused(f"{run} holds neither weights.safetensors nor a checkpoint: train it first.")
    return newest_checkpoint(folder.checkpoints) / "weights.safetensors"


def weights_file(run_or_file: Path) -> Path:
    """The weights of a run or a shipped one, or the file itself. Raises InputRefused for a folder that is no run."""
    run_or_file = run_or_shipped(run_or_file)
    return weights_of_run(run_or_file) if run_or_file.is_dir() else run_or_file


def refuse_no_run(run: Path) -> None:
    """Raise InputRefused for a folder that is no run."""
    if not RunFolder(run).config.is_file():
        raise InputRefused(f"{run} is no run folder: it has no config.json (bevel train writes one).")


def describe_environment() -> dict[str, object]:
    """What one needs to know to repeat a run: versions, git revision, machine, threads, the command line."""
    packages = {"bevel": bevel_version()}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "command": sys.argv,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git_revision() -> str | None:
    """The commit of this source tree, with `-modified` behind it where files differ; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=-modified", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
