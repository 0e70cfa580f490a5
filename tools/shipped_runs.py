"""Checkpoints that come with Bevel: what takes a run folder takes their names, too."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "shipped"


def shipped_names() -> tuple[str, ...]:
    """The names of the checkpoints that are here."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/weights.safetensors")))


def run_or_shipped(run: Path) -> Path:
    """The run folder (or file) itself; for a name that a shipped checkpoint alone has, that one's folder."""
    return run if run.exists() or str(run) not in shipped_names() else _FOLDER / run


def folder_of_outputs(run: Path) -> Path:
    """Where to put what is made of a run, unless told otherwise: with it, but nothing into Bevel's own folder."""
    return Path("runs") / run.name if run.parent == _FOLDER else run
