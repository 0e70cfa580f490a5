"""A run folder with a small untrained detector: for tests of the commands that take a run."""

from pathlib import Path

import torch

from perception.detector import Detector
from perception.weights import save_weights
from tests.small_run import small_config
from tools.run_config import config_to_json
from tools.training.run_folder import RunFolder


def write_untrained_run(path: Path) -> None:
    """Write config and weights of a detector that was not trained; the same ones at each call."""
    config = small_config(1)
    torch.manual_seed(0)
    run = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(config_to_json(config))
    save_weights(Detector(config.detector), run.weights, config_to_json(config))
