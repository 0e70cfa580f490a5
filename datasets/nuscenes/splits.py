"""Which scenes a split name stands for."""

from collections.abc import Sequence

from datasets.faults import InputRefused

OFFICIAL_SPLITS: tuple[str, ...] = ("train", "val", "test", "mini_train", "mini_val", "train_detect", "train_track")


def scenes_of_split(split: str, present: Sequence[str], where: str) -> tuple[str, ...]:
    """The scenes of a split among those `present`: an official split, "all", or scene names separated by commas.

    Scenes come in alphabetical order, named ones in the order they were named. Raises InputRefused, naming `where`
    and what is there, for an unknown name or where nothing of the split is present.
    """
    there = ", ".join(present[:10]) + (f" and {len(present) - 10} more" if len(present) > 10 else "")
    if split == "all":
        return tuple(present)
    if split in OFFICIAL_SPLITS:
        # Imported here: the devkit takes seconds to import, and only official splits need it.
        from nuscenes.utils.splits import create_splits_scenes

        official = set(create_splits_scenes()[split])
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
