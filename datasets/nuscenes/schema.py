"""Which tables and fields Bevel reads of nuScenes' JSON tables, and what each may hold."""

from dataclasses import dataclass

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
    """One field of a table. `table`: its values are tokens of that table. `optional`: or the empty string."""

    name: str
    kind: Kind = NAME
    table: str = ""
    optional: bool = False


def _links(table: str) -> tuple[Field, Field]:
    return Field("prev", TEXT, table, optional=True), Field("next", TEXT, table, optional=True)


SCHEMA: dict[str, tuple[Field, ...]] = {
    "sensor": (Field("channel"), Field("modality")),
    "calibrated_sensor": (
        Field("sensor_token", table="sensor"),
        Field("translation", VECTOR),
        Field("rotation", QUATERNION),
        Field("camera_intrinsic", INTRINSIC),
    ),
    "ego_pose": (Field("timestamp", TIME), Field("translation", VECTOR), Field("rotation", QUATERNION)),
    "scene": (
        Field("name"),
        Field("first_sample_token", table="sample"),
        Field("last_sample_token", table="sample"),
    ),
    "sample": (Field("timestamp", TIME), Field("scene_token", table="scene"), *_links("sample")),
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
        Field("num_lidar_pts", COUNT),
        Field("num_radar_pts", COUNT),
        *_links("sample_annotation"),
    ),
}
# A test split, or a fresh recording, may come without these.
ANNOTATION_TABLES = ("category", "attribute", "instance", "sample_annotation")
MAY_BE_EMPTY = ANNOTATION_TABLES
