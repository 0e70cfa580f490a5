"""What of a dataset is on the disk: by channel, by scene and split, and by the archives that nuScenes is loaded as."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.nuscenes.check.raw_tables import NONE
from datasets.nuscenes.check.table_rules import RawTables, scene_of, sensor_of
from datasets.nuscenes.splits import official_scenes, official_splits_of

MODALITIES = ("camera", "lidar", "radar")
# What nuScenes' download page says: each of the ten blob archives of trainval holds the files of 85 scenes.
_SCENES_OF_A_BLOB = 85


@dataclass(frozen=True)
class Count:
    """Files that are there and whole, of those that the tables promise."""

    there: int
    promised: int

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.there == self.promised


@dataclass(frozen=True)
class ChannelFiles:
    """The files of one channel."""

    channel: str
    modality: str
    keyframes: Count
    sweeps: Count


@dataclass(frozen=True)
class SplitFiles:
    """What of a split is there. `keyframes` and `sweeps`: by modality, what the tables have of them.

    `scenes`: those present in the tables; `official`: how many the split has (0 for "all"). `whole_scenes`: the names
    of those with every keyframe file.
    """

    name: str
    scenes: int
    official: int
    samples: int
    whole_scenes: tuple[str, ...]
    keyframes: dict[str, Count]
    sweeps: dict[str, Count]
    annotations: int


@dataclass(frozen=True)
class Archive:
    """One archive of nuScenes' download page (or a family of them) and what of it is here."""

    name: str
    holds: str
    state: str


@dataclass(frozen=True)
class Inventory:
    """Everything counted."""

    channels: tuple[ChannelFiles, ...]
    splits: tuple[SplitFiles, ...]
    archives: tuple[Archive, ...]


def take_inventory(root: Path, version: str, tables: RawTables, lost: NDArray[np.bool_]) -> Inventory:
    """Count. `lost` (rows of sample_data.json): the file is missing or broken."""
    rows = _Rows(tables, lost)
    splits = tuple(
        split for name in ("all", *official_splits_of(version)) if (split := _split(name, tables, rows)) is not None
    )
    return Inventory(_channels(tables, rows), splits, _archives(root, version, tables, rows))


class _Rows:
    """The rows of sample_data.json as columns to count by."""

    def __init__(self, tables: RawTables, lost: NDArray[np.bool_]) -> None:
        table = tables["sample_data"]
        self.sensor = sensor_of(tables)
        self.scene = scene_of(tables)
        modalities = np.array([*tables["sensor"].texts["modality"], ""], dtype=object)
        self.modality = modalities[self.sensor]
        self.is_key = table.numbers["is_key_frame"] == 1
        self.lost = lost

    def count(self, chosen: NDArray[np.bool_]) -> Count:
        """How many of the chosen rows' files are there."""
        promised = int(chosen.sum())
        return Count(promised - int((chosen & self.lost).sum()), promised)


def _channels(tables: RawTables, rows: _Rows) -> tuple[ChannelFiles, ...]:
    sensors = tables["sensor"]
    order = sorted(range(len(sensors)), key=lambda row: (sensors.texts["modality"][row], sensors.texts["channel"][row]))
    return tuple(
        ChannelFiles(
            sensors.texts["channel"][sensor],
            sensors.texts["modality"][sensor],
            rows.count((rows.sensor == sensor) & rows.is_key),
            rows.count((rows.sensor == sensor) & ~rows.is_key),
        )
        for sensor in order
        if (rows.sensor == sensor).any()
    )


def _split(name: str, tables: RawTables, rows: _Rows) -> SplitFiles | None:
    names = tables["scene"].texts["name"]
    official = frozenset(names) if name == "all" else frozenset(official_scenes(name))
    chosen = np.array([scene in official for scene in names], dtype=bool)
    if not chosen.any():
        return None
    of_split = np.append(chosen, False)[rows.scene]
    incomplete = np.unique(rows.scene[rows.lost & rows.is_key])
    sample_scene = tables["sample"].references["scene_token"]
    in_split = np.append(chosen, False)[sample_scene]
    annotated_sample = tables["sample_annotation"].references["sample_token"]
    return SplitFiles(
        name=name,
        scenes=int(chosen.sum()),
        official=0 if name == "all" else len(official),
        samples=int(in_split.sum()),
        whole_scenes=tuple(sorted(names[row] for row in np.flatnonzero(chosen) if row not in incomplete)),
        keyframes={
            modality: rows.count(of_split & rows.is_key & (rows.modality == modality)) for modality in MODALITIES
        },
        sweeps={modality: rows.count(of_split & ~rows.is_key & (rows.modality == modality)) for modality in MODALITIES},
        annotations=int(np.append(in_split, False)[annotated_sample].sum()),
    )


def what_works(split: SplitFiles) -> str:
    """One sentence on what can be done with the files of a split."""
    promised = [modality for modality in MODALITIES if split.keyframes[modality].promised]
    usable = [modality for modality in promised if split.keyframes[modality].whole]
    partial = [
        f"{modality} {split.keyframes[modality].there} of {split.keyframes[modality].promised} keyframes"
        for modality in promised
        if modality not in usable
    ]
    never = [modality for modality in MODALITIES if modality not in promised]
    if not usable:
        sentence = "no sensor is complete"
    else:
        work = "training and evaluation" if split.annotations else "prediction (there are no annotations)"
        sentence = f"{work} with {' + '.join(usable)}"
    if partial:
        sentence += f"; with --missing-sensors allow also {', '.join(partial)}"
    if never:
        sentence += f"; never recorded: {', '.join(never)}"
    for modality in usable:
        sweeps = split.sweeps[modality]
        if not sweeps.whole:
            use = "temporal camera" if modality == "camera" else "accumulated sweeps"
            without = "without" if sweeps.there == 0 else f"only in part ({sweeps.there} of {sweeps.promised})"
            sentence += f"; {modality} {without} sweeps: {without.split(' (')[0]} {use}"
    return sentence


def _archives(root: Path, version: str, tables: RawTables, rows: _Rows) -> tuple[Archive, ...]:
    scenes = tables["scene"].texts["name"]
    kind = version.rpartition("-")[2]
    files = _blob_state(scenes, rows)
    archives: list[Archive] = []
    if kind == "mini":
        archives.append(Archive("v1.0-mini.tgz", "tables, maps, files of 10 scenes", files))
    elif kind == "trainval":
        parts = "v1.0-trainval01_blobs.tgz … trainval10_blobs.tgz"
        holds = f"files of {_SCENES_OF_A_BLOB} scenes each"
        archives += [Archive("v1.0-trainval_meta.tgz", "tables, maps", "tables are here"), Archive(parts, holds, files)]
        archives.append(
            Archive("…_keyframes.tgz, …_blobs_camera/lidar/radar.tgz", "parts of these", _parts_state(rows))
        )
    elif kind == "test":
        archives.append(Archive("v1.0-test_meta.tgz", "tables, maps", "tables are here"))
        archives.append(Archive("v1.0-test_blobs.tgz", "files of 150 scenes", files))
    else:
        archives.append(Archive(version, "no archive of nuScenes is called so", files))
    can_bus = sum((root / "can_bus" / f"{name}_pose.json").is_file() for name in scenes)
    archives.append(Archive("can_bus.zip", "vehicle motion (optional)", f"{can_bus} of {len(scenes)} scenes"))
    maps = len(list((root / "maps" / "expansion").glob("*.json")))
    archives.append(
        Archive("nuScenes-map-expansion-v1.3.zip", "vector maps (optional)", f"{maps} maps" if maps else "not here")
    )
    name = "nuScenes-lidarseg-mini-v1.0.tar.bz2" if kind == "mini" else "nuScenes-lidarseg-all-v1.0.tar.bz2"
    labelled = (root / version / "lidarseg.json").is_file() and (root / "lidarseg" / version).is_dir()
    archives.append(Archive(name, "labels of LiDAR points (optional)", "here" if labelled else "not here"))
    return tuple(archives)


def _blob_state(scenes: Sequence[str], rows: _Rows) -> str:
    """Scenes by how much of their files is there: which archive a scene is in, the tables do not say."""
    known = rows.scene != NONE
    promised = np.bincount(rows.scene[known], minlength=len(scenes))
    lost = np.bincount(rows.scene[known & rows.lost], minlength=len(scenes))
    whole, empty = int((lost == 0).sum()), int(((lost == promised) & (promised > 0)).sum())
    if whole == len(scenes):
        return f"all {whole} scenes whole"
    partly = len(scenes) - whole - empty
    return f"{whole} of {len(scenes)} scenes whole, {partly} in part, {empty} not here"


def _parts_state(rows: _Rows) -> str:
    """Which of the smaller archives would fill the gaps."""
    parts = [("keyframes", rows.is_key)] + [(modality, rows.modality == modality) for modality in MODALITIES]
    counts = [(name, rows.count(chosen)) for name, chosen in parts]
    gaps = [f"{name} {count.there} of {count.promised}" for name, count in counts if not count.whole]
    return ", ".join(gaps) if gaps else "all here"
