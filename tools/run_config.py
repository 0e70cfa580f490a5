"""The whole configuration of a run in one frozen dataclass, and its JSON file."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.samples.make_sample import SampleConfig
from perception.detector import DetectorConfig
from perception.fusion.early import EarlyFusionConfig
from tools.training.config import TrainingConfig

_LARGEST_FILE = 1_000_000  # bytes; a config has a few kilobytes


@dataclass(frozen=True)
class RunConfig:
    """What a sample is made of, the network, and how it is trained.

    Channels of sensors that the detector has no branch for are taken out of `sample`: they need not be read. What a
    sample says of radar returns is what the detector's radar branch takes; ValueError where `sample` says otherwise,
    and for `cross_modal` beside detection between sensors that are not apart: with lidar_depth, or early fusion.
    """

    sample: SampleConfig
    detector: DetectorConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        sample, detector = self.sample, self.detector
        taken = sample.radar_fields if detector.radar is None else detector.radar.fields
        if sample.radar_fields not in (None, taken):
            raise ValueError(
                f"the radar branch takes {taken} radar fields and samples are to have {sample.radar_fields}: leave "
                "sample.radar_fields out, it follows detector.radar.fields"
            )
        used = replace(
            sample,
            camera_channels=sample.camera_channels if detector.camera is not None else (),
            lidar_channel=sample.lidar_channel if detector.lidar is not None else None,
            radar_channels=sample.radar_channels if detector.radar is not None else (),
            radar_fields=taken,
        )
        object.__setattr__(self, "sample", used)
        augmentation = self.training.augmentation
        if detector.temporal is not None and augmentation is not None and augmentation.paste is not None:
            raise ValueError(
                "training.augmentation.paste puts objects into single frames, and detector.temporal looks for what "
                "moves between them: leave one of them out"
            )
        # bevel pretrain shows the camera no LiDAR, and takes no early fusion.
        if self.training.objective == "detection":
            _refuse_sensors_compared_with_themselves(detector)


def _refuse_sensors_compared_with_themselves(detector: DetectorConfig) -> None:
    camera = detector.camera
    if detector.cross_modal is None or camera is None:
        return
    if camera.uses_lidar:
        raise ValueError(
            "detector.cross_modal compares what the sensors see, and with lidar_depth the camera's BEV is made of "
            "LiDAR points as well: leave one of them out"
        )
    if isinstance(detector.fusion, EarlyFusionConfig):
        raise ValueError(
            "detector.cross_modal compares what the sensors see, and early fusion paints the pictures' features on the "
            "points: take another fusion, or leave cross_modal out"
        )


# Built once, and only where a config is read or written: that takes longer than all that it does.
_adapter = cache(lambda: TypeAdapter(RunConfig))


def config_to_json(config: RunConfig) -> str:
    """The config as indented JSON, every field written out."""
    return _adapter().dump_json(config, indent=2).decode() + "\n"


def config_from_json(text: str, source: str) -> RunConfig:
    """The config in a JSON text. Fields that are left out take their defaults.

    Raises InputRefused naming `source`, the field and the expected type for anything that does not fit, an unknown
    field included: a misspelt option must not be ignored in silence.
    """
    try:
        given = _with_view(json.loads(text, parse_constant=_refuse_constant))
        config = _adapter().validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = _path_in_file(given, first["loc"], first["type"] == "missing") or "the whole file"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        found = "" if first["type"] == "missing" else f", found {str(first['input'])[:60]!r}"
        raise InputRefused(f"{source}: {field}: {first['msg']}{found}{more}.") from error
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{source} is not valid JSON: {error}.") from error
    unknown = _unknown_field(given, _adapter().dump_python(config, mode="json"))
    if unknown is not None:
        raise InputRefused(f"{source}: {unknown}: there is no such field; remove it or correct its name.")
    return config


def read_config(path: Path) -> RunConfig:
    """Read a config file. Raises InputRefused as `config_from_json` does."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputRefused(f"{path} is too large for a config: more than {_LARGEST_FILE} bytes.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"{path} cannot be read as a config: {error}.") from error
    return config_from_json(text, str(path))


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config file, atomically."""
    write_atomically(path, config_to_json(config).encode())


def _with_view(given: Any) -> Any:
    """A config from before there was a choice of view transforms has the camera's under `lift_splat`, without a kind.

    Its run is still read.
    """
    match given:
        case {"detector": {"camera": {"lift_splat": dict(lift_splat), **camera}, **detector}, **rest} if (
            "view" not in camera
        ):
            view = {"kind": "lift_splat", **lift_splat}
            return {**rest, "detector": {**detector, "camera": {**camera, "view": view}}}
    return given


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _path_in_file(given: Any, location: tuple[int | str, ...], missing: bool) -> str:
    """Where in the file pydantic found an error. It also names the member of a union that it tried; the file does not.

    With `missing` the last name of the location is what should have been there.
    """
    named: list[str] = []
    for part in location[: len(location) - missing]:
        known = part in given if isinstance(given, dict) else isinstance(given, list) and isinstance(part, int)
        if known:
            named.append(str(part))
            given = given[part]
    return ".".join([*named, *(str(part) for part in location[len(location) - missing :])])


def _unknown_field(given: Any, complete: Any, prefix: str = "") -> str | None:
    """The first key of `given` that the complete config does not have."""
    if not isinstance(given, dict) or not isinstance(complete, dict):
        return None
    for key, value in given.items():
        if key not in complete:
            return prefix + str(key)
        found = _unknown_field(value, complete[key], f"{prefix}{key}.")
        if found is not None:
            return found
    return None
