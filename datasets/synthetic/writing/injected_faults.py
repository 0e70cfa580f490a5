"""Faults that a scene's recording is given on purpose: what can be asked for, in Python and as a JSON file.

The tables are those of the same dataset without faults: what the recorder believed. A fault changes what the sensor
files hold, or takes files (and, of lost sweeps, records) away. `datasets.synthetic.writing.scene_faults` applies them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from datasets.faults import InputRefused
from datasets.synthetic.rig import CHANNELS

RANDOM_CHANNEL = "random"
_MAX_ROTATION, _MAX_TRANSLATION, _MAX_OFFSET = 20.0, 2.0, 1.0
_LARGEST_FILE = 1_000_000  # bytes
# An unknown key is refused: a misspelt field must not be ignored in silence.
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class _Fault:
    """What all faults have: a channel, or "random" for one that the seed draws in each scene, and the scenes' names.

    `scenes` None: all scenes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    channel: str
    scenes: tuple[str, ...] | None = None

    def _check(self) -> None:
        if self.channel not in (*CHANNELS, RANDOM_CHANNEL):
            raise InputRefused(
                f'channel must be "{RANDOM_CHANNEL}" or one of {", ".join(CHANNELS)}, it is {self.channel!r}.'
            )

    def _check_range(self, field: str, low: float, high: float) -> None:
        value = float(getattr(self, field))
        if not low <= value <= high:
            raise InputRefused(f"{field} must lie between {low:g} and {high:g}, it is {value:g}.")


@dataclass(frozen=True, kw_only=True)
class ExtrinsicError(_Fault):
    """The sensor hangs otherwise than calibrated_sensor says: turned about an axis and moved in a direction.

    The seed draws axis and direction, in each scene anew; within a scene the sensor stays as it hangs.
    """

    kind: Literal["extrinsic_error"] = "extrinsic_error"
    rotation_degrees: float = 0.0
    translation_metres: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        self._check_range("rotation_degrees", 0.0, _MAX_ROTATION)
        self._check_range("translation_metres", 0.0, _MAX_TRANSLATION)
        if self.rotation_degrees == self.translation_metres == 0.0:
            raise InputRefused("rotation_degrees or translation_metres must be more than 0, both are 0.")


@dataclass(frozen=True, kw_only=True)
class TimeOffset(_Fault):
    """The sensor's clock is wrong: what was measured at time t is stamped t + `seconds`."""

    kind: Literal["time_offset"] = "time_offset"
    seconds: float

    def __post_init__(self) -> None:
        self._check()
        self._check_range("seconds", -_MAX_OFFSET, _MAX_OFFSET)
        if self.seconds == 0.0:
            raise InputRefused("seconds must not be 0.")


@dataclass(frozen=True, kw_only=True)
class DroppedFrames(_Fault):
    """Measurements got lost, each with the probability `share`: sweeps without a record, keyframes without a file."""

    kind: Literal["dropped_frames"] = "dropped_frames"
    share: float

    def __post_init__(self) -> None:
        self._check()
        self._check_range("share", 0.0, 1.0)
        if self.share == 0.0:
            raise InputRefused("share must be more than 0.")


@dataclass(frozen=True, kw_only=True)
class DeadSensor(_Fault):
    """The sensor gives nothing from an instant on (seconds from the first keyframe): its records have no files."""

    kind: Literal["dead_sensor"] = "dead_sensor"
    from_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        self._check_range("from_seconds", 0.0, math.inf)


InjectedFault = ExtrinsicError | TimeOffset | DroppedFrames | DeadSensor

_KINDS = ("extrinsic_error", "time_offset", "dropped_frames", "dead_sensor")
_ONE_FAULT: TypeAdapter[InjectedFault] = TypeAdapter(Annotated[InjectedFault, Field(discriminator="kind")])


def read_faults(path: Path) -> tuple[InjectedFault, ...]:
    """The faults of a JSON file: a list of objects with the fields of the classes here, `kind` says which class.

    Raises InputRefused naming the file, which fault of the list, and the field.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputRefused(f"{path} is too large for a list of faults: more than {_LARGEST_FILE} bytes.")
        items = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"{path} cannot be read as a list of faults: {error}.") from error
    if not isinstance(items, list) or not items:
        raise InputRefused(f"{path}: expected a list of faults, each an object with kind and channel.")
    return tuple(_fault(item, f"{path}: fault number {i + 1}") for i, item in enumerate(items))


def _fault(item: Any, where: str) -> InjectedFault:
    kind = item.get("kind") if isinstance(item, dict) else None
    if kind not in _KINDS:
        raise InputRefused(f"{where}: kind must be one of {', '.join(_KINDS)}, found {str(kind)[:60]!r}.")
    try:
        return _ONE_FAULT.validate_json(json.dumps(item), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "unexpected_keyword_argument":
            raise InputRefused(
                f"{where}: {first['loc'][-1]}: {kind} has no such field; remove or correct it."
            ) from error
        field = ".".join(str(part) for part in first["loc"][1:])
        found = "" if first["type"] == "missing" else f", found {str(first['input'])[:60]!r}"
        raise InputRefused(f"{where}: {field}: {first['msg']}{found}.") from error
    except InputRefused as refusal:
        raise InputRefused(f"{where}: {refusal}") from refusal


def random_fault(duration: float, rng: np.random.Generator) -> InjectedFault:
    """One fault of any kind at a random sensor, large enough to matter and small enough to be overlooked.

    `duration`: of the scene, seconds.
    """
    kind = str(rng.choice(_KINDS))
    if kind == "extrinsic_error":
        turn, shift = round(float(rng.uniform(0.5, 5.0)), 2), round(float(rng.uniform(0.02, 0.3)), 3)
        return ExtrinsicError(channel=RANDOM_CHANNEL, rotation_degrees=turn, translation_metres=shift)
    if kind == "time_offset":
        seconds = round(float(rng.choice([-1.0, 1.0]) * rng.uniform(0.03, 0.3)), 3)
        return TimeOffset(channel=RANDOM_CHANNEL, seconds=seconds)
    if kind == "dropped_frames":
        return DroppedFrames(channel=RANDOM_CHANNEL, share=round(float(rng.uniform(0.1, 0.6)), 2))
    return DeadSensor(channel=RANDOM_CHANNEL, from_seconds=round(float(rng.uniform(0.0, 0.5) * duration), 2))
