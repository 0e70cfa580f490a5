"""Which scenes a split name stands for."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

from datasets.faults import InputRefused

Purpose = Literal["train", "pretrain", "evaluate", "predict"]

# The official splits by the last word of the version's name that they belong to.
_OFFICIAL: dict[str, tuple[str, ...]] = {
    "mini": ("mini_train", "mini_val"),
    "trainval": ("train", "val", "train_detect", "train_track"),
    "test": ("test",),
}
OFFICIAL_SPLITS: tuple[str, ...] = tuple(split for splits in _OFFICIAL.values() for split in splits)
_LONGEST_IN_FILE_NAME = 60


def official_splits_of(version: str) -> tuple[str, ...]:
    """The official splits of a version; none for a version that nuScenes does not have."""
    return next((splits for suffix, splits in _OFFICIAL.items() if version.endswith(suffix)), ())


def default_split(version: str, purpose: Purpose) -> str:
    """The split that is meant where none is named: v1.0-mini's or v1.0-trainval's own two, v1.0-test's one.

    Raises InputRefused for training or evaluating on a test set, and for a version without official splits.
    """
    splits = official_splits_of(version)
    if not splits:
        raise InputRefused(f"{version} has no official split: pass --split with 'all' or with scene names.")
    if len(splits) == 1:
        if purpose in ("train", "evaluate"):
            raise InputRefused(f"{version} has no annotations: choose another --version to {purpose} on.")
        return splits[0]
    return splits[0] if purpose in ("train", "pretrain") else splits[1]


def scenes_of_split(split: str, present: Sequence[str], version: str, where: str) -> tuple[str, ...]:
    """The scenes of a split among those `present`: an official split, "all", or scene names separated by commas.

    Scenes come in alphabetical order, named ones in the order they were named. Raises InputRefused, naming `where`
    and what is there, for an unknown name, an official split of another version than this one, or where nothing of
    the split is present.
    """
    there = ", ".join(present[:10]) + (f" and {len(present) - 10} more" if len(present) > 10 else "")
    if split == "all":
        return tuple(present)
    if split in OFFICIAL_SPLITS:
        fitting = official_splits_of(version)
        if fitting and split not in fitting:
            raise InputRefused(
                f"{where}: {split!r} is a split of another version; those of {version} are {', '.join(fitting)}, "
                "and 'all' or scene names."
            )
        official = set(official_scenes(split))
        scenes = tuple(name for name in present if name in official)
        if not scenes:
            raise InputRefused(f"{where}: no scene of the split {split!r} is here; the scenes here are {there}.")
        return scenes
    names = tuple(dict.fromkeys(name.strip() for name in split.split(",")))
    unknown = [name for name in names if name not in present]
    if unknown:
        raise InputRefused(
            f"{where}: {unknown[0]!r} is neither a split ({', '.join(OFFICIAL_SPLITS)}, all) nor a scene here; "
            f"the scenes here are {there}."
        )
    return names


def official_scenes(split: str) -> tuple[str, ...]:
    """All scenes of an official split, whether they are present or not."""
    # Imported here: the devkit takes seconds to import, and only official splits need it.
    from nuscenes.utils.splits import create_splits_scenes

    return tuple(create_splits_scenes()[split])


def split_in_file_name(split: str) -> str:
    """The split as part of a file name: any letters, and a list of a hundred scenes, would not be one."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", split)
    if len(name) <= _LONGEST_IN_FILE_NAME:
        return name
    return f"{name[:40]}-{hashlib.sha256(split.encode()).hexdigest()[:8]}"
