"""Single values out of DGP's JSON files, checked: what does not fit is refused with the file and the field."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from calibration.transforms import Transform, from_quaternion
from datasets.faults import InputRefused, SensorFileError
from datasets.nuscenes.files import path_under
from datasets.nuscenes.values import NAME, QUATERNION, TIME, VECTOR, Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def required_path(root: Path, filename: str) -> Path:
    """The path of a file that a scene cannot do without. Raises InputRefused for every path that is none."""
    try:
        return path_under(root, filename)
    except SensorFileError as error:
        raise InputRefused(f"{root}: {error.detail}.") from None


def pose_of(path: Path, pose: dict[str, Any]) -> Transform:
    """The transform of a pose. Raises InputRefused for no unit quaternion or no finite place."""
    rotation, translation = field_of(path, pose, "rotation", of=dict), field_of(path, pose, "translation", of=dict)
    quaternion: list[Any] = [rotation.get(name) for name in ("qw", "qx", "qy", "qz")]
    position: list[Any] = [translation.get(name) for name in "xyz"]
    for kind, value in ((QUATERNION, quaternion), (VECTOR, position)):
        if not kind.accepts(value):
            raise InputRefused(f"{path}: field pose: expected {kind.expected}, found {value!r:.100}.")
    return from_quaternion(
        [float(q) for q in quaternion if q is not None], [float(p) for p in position if p is not None]
    )


def time_of(path: Path, identity: dict[str, Any], time_scale: float) -> int:
    """The time of an `id`, microseconds since 1970. Raises InputRefused for none, and outside 2000 to 2100."""
    stamp = field_of(path, identity, "timestamp", NAME)
    try:
        microseconds = (datetime.fromisoformat(stamp) - _EPOCH) / timedelta(microseconds=1)
    except (ValueError, TypeError):
        raise InputRefused(f"{path}: field timestamp: expected a date and time, found {stamp!r:.100}.") from None
    timestamp_us = round(microseconds * time_scale)
    if not TIME.accepts(timestamp_us):
        raise InputRefused(
            f"{path}: field timestamp: expected a time in the years 2000 to 2100, found {stamp}; "
            "time_scale=0.1 is for stamps that count tenths of microseconds, as those of DGP's test scene do."
        )
    return timestamp_us


def object_of(path: Path, value: Any) -> dict[str, Any]:
    """The value, which must be an object of JSON. Raises InputRefused."""
    if not isinstance(value, dict):
        raise InputRefused(f"{path}: expected an object with fields, found {type(value).__name__}.")
    return value


def objects_of(path: Path, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """One field of a record, which must be a list of objects. Raises InputRefused."""
    return [object_of(path, value) for value in field_of(path, record, name, of=list)]


def field_of(path: Path, record: dict[str, Any], name: str, kind: Kind | None = None, of: type | None = None) -> Any:
    """One field of a record, which must be of a kind of value, or of a type. Raises InputRefused."""
    if name not in record:
        raise InputRefused(f"{path}: the field {name} is missing.")
    value = record[name]
    if kind is not None and not kind.accepts(value):
        raise InputRefused(f"{path}: field {name}: expected {kind.expected}, found {value!r:.100}.")
    if of is not None and not isinstance(value, of):
        raise InputRefused(f"{path}: field {name}: expected {of.__name__}, found {value!r:.100}.")
    return value
