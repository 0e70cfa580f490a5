"""On which device a command computes."""

from typing import Literal

import torch

from datasets.faults import InputRefused

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice, index: int = 0) -> torch.device:
    """The device; "auto" is CUDA where there is some; `index`: which one of this machine.

    Raises InputRefused for "cuda" where there is none, and where there are fewer devices than the index asks for.
    """
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputRefused("--device cuda: torch finds no CUDA device here; use --device cpu, or see bevel doctor.")
    found = torch.cuda.device_count()
    if index >= found:
        raise InputRefused(
            f"Process {index + 1} of this machine has no GPU of its own, for torch finds {found}: start no more than "
            f"that (torchrun --nproc-per-node={found}), or use --device cpu."
        )
    return torch.device("cuda", index)


def out_of_memory_text(error: torch.OutOfMemoryError) -> str:
    """One sentence on what to do where a training does not fit into a GPU's memory."""
    first_line = (str(error).splitlines() or [""])[0]
    return (
        f"The GPU's memory is too small ({first_line:.200}): lower training.batch_size, and raise training.accumulate "
        "as much to keep the step as it is, or set training.checkpoint_activations."
    )


def limit_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads; None leaves torch its choice. Results are bit-equal with one thread only."""
    if threads is not None:
        if threads < 1:
            raise InputRefused(f"--threads must be at least 1, not {threads}.")
        torch.set_num_threads(threads)
