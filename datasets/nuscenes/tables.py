"""The JSON tables of a nuScenes v1.0 dataroot: opened, and checked before anything is computed from them.

Tables that contradict themselves make results wrong in silence, so every problem is an InputRefused that names the
table, the record's token, the field and what was expected. The order of records means nothing, and fields that are
not in the schema below are ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.faults import InputRefused
from datasets.nuscenes.schema import ANNOTATION_TABLES, MAY_BE_EMPTY, SCHEMA, Field
from datasets.nuscenes.values import PIXELS, read_json, refuse_value

Row = dict[str, Any]
# Table name -> token -> record.
Tables = Mapping[str, Mapping[str, Row]]


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


def load_tables(root: Path, version: str) -> Tables:
    """The checked tables of `root/version`, by table and token.

    `sample_annotation` may be absent or empty (a test split); then the annotation tables are all empty.
    Raises InputRefused for the first problem.
    """
    folder = root / version
    annotated = (folder / "sample_annotation.json").exists()
    tables: dict[str, dict[str, Row]] = {}
    for name in SCHEMA:
        unannotated = name in ANNOTATION_TABLES and not annotated
        tables[name] = {} if unannotated else _read_table(folder / f"{name}.json", may_be_empty=name in MAY_BE_EMPTY)
    for name, fields in SCHEMA.items():
        for field in fields:
            _check_field(folder / f"{name}.json", tables[name], field, tables[field.table] if field.table else None)
    _check_cameras(folder, tables)
    _check_scenes(folder, tables)
    _check_keyframes(folder, tables)
    _check_chains(folder, tables)
    return tables


def channel_of(tables: Tables, sample_data: Row) -> str:
    """The channel (LIDAR_TOP ...) of a sample_data record."""
    calibration = tables["calibrated_sensor"][sample_data["calibrated_sensor_token"]]
    return str(tables["sensor"][calibration["sensor_token"]]["channel"])


def category_of(tables: Tables, sample_annotation: Row) -> str:
    """The category (vehicle.car ...) of a sample_annotation record."""
    instance = tables["instance"][sample_annotation["instance_token"]]
    return str(tables["category"][instance["category_token"]]["name"])


def _read_table(path: Path, may_be_empty: bool) -> dict[str, Row]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputRefused(f"{path}: expected a list of records, found {type(rows).__name__}.")
    if not rows and not may_be_empty:
        raise InputRefused(f"{path}: expected at least one record, the list is empty.")
    table: dict[str, Row] = {}
    for position, row in enumerate(rows):
        token = row.get("token") if isinstance(row, dict) else None
        if not isinstance(token, str) or token == "":
            raise InputRefused(f"{path}: record number {position + 1} has no field token (expected text, not empty).")
        if table.setdefault(token, row) is not row and table[token] != row:
            raise InputRefused(f"{path}: record {token!r}, field token: occurs twice with different contents.")
    return table


def _check_field(path: Path, rows: Mapping[str, Row], field: Field, target: Mapping[str, Row] | None) -> None:
    """Refuse the first record whose field is missing, of a wrong kind, or a token that is in no table."""
    name, accepts = field.name, field.kind.accepts
    for token, row in rows.items():
        if not accepts(row.get(name)):
            refuse_value(path, token, name, field.kind.expected, row.get(name, "no such field"))
    if target is None:
        return
    # Sets first: with millions of records and hardly ever a dangling token this is what takes the time.
    dangling = {reference for row in rows.values() for reference in _listed(row[name])} - target.keys()
    if field.optional:
        dangling.discard("")
    if dangling:
        guilty = [(token, row[name]) for token, row in rows.items() if not dangling.isdisjoint(_listed(row[name]))]
        token, reference = guilty[0]
        refuse_value(path, token, name, f"a token of {field.table}.json", reference, others=len(guilty) - 1)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_cameras(folder: Path, tables: Tables) -> None:
    """Cameras need a camera matrix, and their pictures a size."""
    cameras = set()
    for token, row in tables["calibrated_sensor"].items():
        if tables["sensor"][row["sensor_token"]]["modality"] == "camera":
            cameras.add(token)
            if not row["camera_intrinsic"]:
                refuse_value(folder / "calibrated_sensor.json", token, "camera_intrinsic", "a 3 x 3 camera matrix", [])
    for token, row in tables["sample_data"].items():
        if row["calibrated_sensor_token"] in cameras:
            for name in ("width", "height"):
                if not PIXELS.accepts(row.get(name)):
                    refuse_value(folder / "sample_data.json", token, name, PIXELS.expected, row.get(name))


def _check_scenes(folder: Path, tables: Tables) -> None:
    """A scene's name is its own, and it begins and ends with samples of its own."""
    path = folder / "scene.json"
    names: dict[str, str] = {}
    for token, row in tables["scene"].items():
        if names.setdefault(row["name"], token) != token:
            refuse_value(path, token, "name", "a name that no other scene has", row["name"])
        for field in ("first_sample_token", "last_sample_token"):
            if tables["sample"][row[field]]["scene_token"] != token:
                refuse_value(path, token, field, "a sample of this scene", row[field])


def _check_keyframes(folder: Path, tables: Tables) -> None:
    """Each sample has something recorded, and each channel once."""
    path = folder / "sample_data.json"
    seen: dict[tuple[str, str], str] = {}
    for token, row in tables["sample_data"].items():
        if row["is_key_frame"]:
            channel = channel_of(tables, row)
            if seen.setdefault((row["sample_token"], channel), token) != token:
                refuse_value(path, token, "is_key_frame", f"one keyframe of {channel} a sample", row["sample_token"])
    unseen = tables["sample"].keys() - {sample for sample, _ in seen}
    if unseen:
        expected = "a keyframe in sample_data.json that names this sample"
        refuse_value(folder / "sample.json", min(unseen), "token", expected, "none", others=len(unseen) - 1)


def _check_chains(folder: Path, tables: Tables) -> None:
    """`prev` and `next` mirror each other, stay in one track of one scene, and time rises along them: no circles."""
    samples = tables["sample"]

    def sample_chain(row: Row) -> tuple[str, str, int]:
        return row["scene_token"], "", row["timestamp"]

    def sensor_chain(row: Row) -> tuple[str, str, int]:
        return samples[row["sample_token"]]["scene_token"], channel_of(tables, row), row["timestamp"]

    def track_chain(row: Row) -> tuple[str, str, int]:
        sample = samples[row["sample_token"]]
        return sample["scene_token"], row["instance_token"], sample["timestamp"]

    for name, place in (("sample", sample_chain), ("sample_data", sensor_chain), ("sample_annotation", track_chain)):
        path, rows = folder / f"{name}.json", tables[name]
        for token, row in rows.items():
            if row["prev"] and rows[row["prev"]]["next"] != token:
                refuse_value(path, token, "prev", "a record whose next leads back here", row["prev"])
            if not row["next"]:
                continue
            later = rows[row["next"]]
            if later["prev"] != token:
                refuse_value(path, token, "next", "a record whose prev leads back here", row["next"])
            scene, track, time = place(row)
            next_scene, next_track, next_time = place(later)
            if (scene, track) != (next_scene, next_track):
                refuse_value(
                    path, token, "next", "a record of the same scene and the same sensor or track", row["next"]
                )
            if next_time <= time:
                expected = f"a later record (this one is at {time} us, the next at {next_time} us)"
                refuse_value(path, token, "next", expected, row["next"])
