"""On which device a command computes."""

from typing import Literal

import torch

from datasets.faults import InputRefused

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice, index: int = 0) -> torch.device:
    """The device; "auto" is CUDA where there is some. Raises InputRefused for "cuda" where there is none."""
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputRefused("--device cuda: torch finds no CUDA device here; use --device cpu, or see bevel doctor.")
    return torch.device("cuda", index)


def limit_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads; None leaves torch its choice. Results are bit-equal with one thread only."""
    if threads is not None:
        if threads < 1:
            raise InputRefused(f"--threads must be at least 1, not {threads}.")
        torch.set_num_threads(threads)
