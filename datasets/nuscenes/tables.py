"""Which folder of a nuScenes dataroot holds the JSON tables."""

from pathlib import Path

from datasets.faults import InputRefused


def find_version(root: Path, version: str | None) -> str:
    """The name of the table folder in a dataroot: the one asked for, or with None the only `v1.0-*` there is.

    Raises InputRefused where the root or the folder is missing, or where there are several to choose from.
    """
    if not root.is_dir():
        raise InputRefused(f"{root}: there is no such folder; expected a nuScenes dataroot (with v1.0-* inside).")
    present = sorted(folder.name for folder in root.glob("v1.0-*") if folder.is_dir())
    if version is not None and (root / version).is_dir() and "/" not in version and version not in ("", ".", ".."):
        return version
    if version is None and len(present) == 1:
        return present[0]
    if present:
        problem = f"there is no version {version!r}" if version is not None else "there are several versions"
        raise InputRefused(f"{root}: {problem}; choose one of {', '.join(present)}.")
    deeper = sorted({folder.parent.name for folder in root.glob("*/v1.0-*") if folder.is_dir()})
    hint = f"; did you mean {root / deeper[0]}" if deeper else ""
    raise InputRefused(f"{root}: no nuScenes tables here, expected a folder such as v1.0-mini{hint}.")
