"""Which tables and fields Bevel reads of nuScenes' JSON tables, and what each may hold."""

from dataclasses import dataclass
from typing import Any

from datasets.nuscenes.values import (
    ATTRIBUTES,
    COUNT,
    EXTENT,
    FLAG,
    INTRINSIC,
    NAME,
    PATH,
    QUATERNION,
    SIZE,
    TEXT,
    TIME,
    TOKEN,
    VECTOR,
    Kind,
)


@dataclass(frozen=True)
class Field:
    """One field of a table. `table`: its values are tokens of that table. `optional`: or the empty string.

    `default`: what an absent or unfit value, or a token of no record, counts as; None where that is refused.
    """

    name: str
    kind: Kind = NAME
    table: str = ""
    optional: bool = False
    default: Any = None


def _links(table: str) -> tuple[Field, Field]:
    return Field("prev", TEXT, table, optional=True), Field("next", TEXT, table, optional=True)


OWN_TOKEN = Field("token", TOKEN)
# The fields beside the token, as far as possible in the order in which nuScenes writes them: so they are read fastest.
SCHEMA: dict[str, tuple[Field, ...]] = {
    "sensor": (Field("channel"), Field("modality")),
    "calibrated_sensor": (
        Field("sensor_token", table="sensor"),
        Field("translation", VECTOR),
        Field("rotation", QUATERNION),
        Field("camera_intrinsic", INTRINSIC),
    ),
    "ego_pose": (Field("timestamp", TIME), Field("rotation", QUATERNION), Field("translation", VECTOR)),
    "scene": (
        Field("first_sample_token", table="sample"),
        Field("last_sample_token", table="sample"),
        Field("name"),
    ),
    "sample": (Field("timestamp", TIME), *_links("sample"), Field("scene_token", table="scene")),
    "sample_data": (
        Field("sample_token", table="sample"),
        Field("ego_pose_token", table="ego_pose"),
        Field("calibrated_sensor_token", table="calibrated_sensor"),
        Field("timestamp", TIME),
        Field("is_key_frame", FLAG),
        Field("filename", PATH),
        *_links("sample_data"),
    ),
    "category": (Field("name"),),
    "attribute": (Field("name"),),
    "instance": (Field("category_token", table="category"),),
    "sample_annotation": (
        Field("sample_token", table="sample"),
        Field("instance_token", table="instance"),
        Field("attribute_tokens", ATTRIBUTES, table="attribute"),
        Field("translation", VECTOR),
        Field("size", SIZE),
        Field("rotation", QUATERNION),
        *_links("sample_annotation"),
        Field("num_lidar_pts", COUNT),
        Field("num_radar_pts", COUNT),
    ),
}
# What need not be there: only cameras must have a picture's size, and hardly anything asks for the visibility.
LENIENT: dict[str, tuple[Field, ...]] = {
    "sample_data": (Field("height", EXTENT, default=0), Field("width", EXTENT, default=0)),
    "sample_annotation": (Field("visibility_token", TEXT, "visibility", default=""),),
    "visibility": (Field("level", default=""),),
}
# A test split, or a fresh recording, may come without these.
ANNOTATION_TABLES = ("category", "attribute", "instance", "sample_annotation")
MAY_BE_EMPTY = ANNOTATION_TABLES
# A dataset without visibility.json says nothing of it.
MAY_BE_ABSENT = ("visibility",)
# All tables, those that others refer to first where that can be.
TABLES = (*SCHEMA, *MAY_BE_ABSENT)


def fields_of(table: str) -> tuple[Field, ...]:
    """All fields that are read of a table, the token first."""
    return (OWN_TOKEN, *SCHEMA.get(table, ()), *LENIENT.get(table, ()))
