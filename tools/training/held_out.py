"""What is evaluated must stay unseen: no object of it may be pasted into a training (`bevel data objects`)."""

from pathlib import Path

from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes, official_splits_of, scenes_of_split
from datasets.object_paste.database import ObjectDatabase
from datasets.shards.reader import ShardReader


def refuse_held_out_objects(
    database: Path, reader: NuScenesReader | ShardReader, split: str, val_split: str | None
) -> None:
    """Raise InputRefused where the database has objects of scenes that are evaluated and not trained on.

    Evaluated is `val_split`, or where none is named the official one of the dataset's version (mini_val, val).
    Scenes go by their names, which are nuScenes' own in every version.
    """
    official = official_splits_of(reader.version)
    evaluated = val_split or (official[1] if len(official) > 1 else None)
    if evaluated is None:
        return
    cut_from = ObjectDatabase(database)
    leaked = sorted(set(cut_from.scenes) & (_scenes(evaluated, reader) - _scenes(split, reader)))
    if leaked:
        names = ", ".join(leaked[:3]) + (f" and {len(leaked) - 3} more" if len(leaked) > 3 else "")
        raise InputRefused(
            f"{database} (cut out of {cut_from.version}) holds objects of {names}, which {evaluated} evaluates and "
            f"{split} does not train on: make a database of the training split alone (bevel data objects --split)."
        )


def _scenes(split: str, reader: NuScenesReader | ShardReader) -> frozenset[str]:
    """The scenes of a split; of an official one all, whether they are here or not."""
    if split in OFFICIAL_SPLITS:
        return frozenset(official_scenes(split))
    return frozenset(scenes_of_split(split, reader.scene_names, reader.version, where="--split"))
