"""Checkpoints that come with Bevel: what takes a run folder takes their names, too."""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "shipped"


def shipped_names() -> tuple[str, ...]:
    """The names of the checkpoints that are here."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/weights.safetensors")))


def run_or_shipped(run: Path) -> Path:
    """The run folder (or file) itself; for the name of a shipped checkpoint that one's folder.

    A run of that name, or a file, goes first. Another folder of it (a data set, say) is not in the way; that is said.
    """
    if run.is_file() or (run / "config.json").is_file() or str(run) not in shipped_names():
        return run
    if run.exists():
        print(f"the folder {run} holds no run: taking the checkpoint that comes with Bevel", file=sys.stderr)
    return _FOLDER / run


def folder_of_outputs(run: Path) -> Path:
    """Where to put what is made of a run, unless told otherwise: with it; of a shipped one, neither into Bevel's own
    folder nor among the user's runs of that preset.
    """
    return Path("runs") / f"shipped-{run.name}" if run.parent == _FOLDER else run
