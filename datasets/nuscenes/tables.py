"""The JSON tables of a nuScenes v1.0 dataroot: which folder holds them, and what their fields are.

Fields that are not in the schema are ignored, and the order of records means nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.faults import InputRefused
from datasets.nuscenes.values import (
    ATTRIBUTES,
    COUNT,
    FLAG,
    INTRINSIC,
    NAME,
    PATH,
    QUATERNION,
    SIZE,
    TEXT,
    TIME,
    VECTOR,
    Kind,
)


@dataclass(frozen=True)
class Field:
    """One field of a table. `table`: its values are tokens of that table; TEXT may be empty there, NAME may not.

    `default`: what an absent or unfit value counts as; None where that is refused, as a dangling token is.
    """

    name: str
    kind: Kind = NAME
    table: str = ""
    default: Any = None


def _links(table: str) -> tuple[Field, Field]:
    return Field("prev", TEXT, table), Field("next", TEXT, table)


# In the order in which nuScenes writes the fields: so they are read fastest. Tables come behind those they refer to,
# save for scenes (and for the links within a table).
TABLES: dict[str, tuple[Field, ...]] = {
    "sensor": (Field("token"), Field("channel"), Field("modality")),
    "calibrated_sensor": (
        Field("token"),
        Field("sensor_token", table="sensor"),
        Field("translation", VECTOR),
        Field("rotation", QUATERNION),
        Field("camera_intrinsic", INTRINSIC),
    ),
    "scene": (
        Field("token"),
        Field("first_sample_token", table="sample"),
        Field("last_sample_token", table="sample"),
        Field("name"),
    ),
    "sample": (Field("token"), Field("timestamp", TIME), *_links("sample"), Field("scene_token", table="scene")),
    "category": (Field("token"), Field("name")),
    "attribute": (Field("token"), Field("name")),
    "visibility": (Field("token"), Field("level", default="")),
    "instance": (Field("token"), Field("category_token", table="category")),
    "sample_annotation": (
        Field("token"),
        Field("sample_token", table="sample"),
        Field("instance_token", table="instance"),
        Field("visibility_token", TEXT, table="visibility", default=""),
        Field("attribute_tokens", ATTRIBUTES, table="attribute"),
        Field("translation", VECTOR),
        Field("size", SIZE),
        Field("rotation", QUATERNION),
        *_links("sample_annotation"),
        Field("num_lidar_pts", COUNT),
        Field("num_radar_pts", COUNT),
    ),
    "ego_pose": (
        Field("token"),
        Field("timestamp", TIME),
        Field("rotation", QUATERNION),
        Field("translation", VECTOR),
    ),
    "sample_data": (
        Field("token"),
        Field("sample_token", table="sample"),
        Field("ego_pose_token", table="ego_pose"),
        Field("calibrated_sensor_token", table="calibrated_sensor"),
        Field("timestamp", TIME),
        Field("is_key_frame", FLAG),
        # Cameras must have a size; what others have here says nothing.
        Field("height", COUNT, default=0),
        Field("width", COUNT, default=0),
        Field("filename", PATH),
        *_links("sample_data"),
    ),
}
# A test split, or a fresh recording, may come without these, or with empty ones.
ANNOTATION_TABLES = ("category", "attribute", "instance", "sample_annotation")
OPTIONAL_TABLES = ("visibility",)


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
