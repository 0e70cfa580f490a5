"""A LogFrame as a handful of files, and back, without losing a bit: JSON, `.npy`, and the pictures as they are.

Nothing here can carry code: no pickle, no object arrays. Small tensors stand in the JSON, as numbers that read back to
the same bits; the larger ones are `.npy` files. What the frame is made of is read from the dataclasses themselves, so
that a field that is added to one of them is packed, too.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from datasets.frames import Annotations, LogFrame
from datasets.sensors.npy_file import read_npy

_FRAME = "frame.json"
_ANNOTATIONS = "annotations"  # the field of a LogFrame, and how the names of its files begin
_FORMAT = 1
_MADE_WHILE_READ = "merged_lidar"  # the field that frames of raw sweeps do not have: only those are packed
_INLINE_NUMBERS = 16
_PNG_START = b"\x89PNG"
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}


class BadShard(Exception):
    """The files of a packed frame are not what they should be: one sentence, without the shard's name."""


def files_of_frame(frame: LogFrame) -> dict[str, bytes]:
    """File names (`frame.json`, `images.CAM_FRONT.jpg` ...) and contents; JSON first.

    Raises ValueError where a LiDAR's sweeps are merged.
    """
    frame.refuse_merged_lidar()
    files: dict[str, bytes] = {}
    content = {"format": _FORMAT, "frame": _packed(frame, "", files)}
    return {_FRAME: json.dumps(content, allow_nan=False).encode()} | files


def frame_of_files(files: Mapping[str, bytes]) -> LogFrame:
    """The frame of `files_of_frame`. Raises BadShard for anything else."""
    with _told_as_bad_shard():
        frame = _unpacked(_frame_content(files), LogFrame, files)
    if not isinstance(frame, LogFrame):
        raise BadShard(f"{_FRAME}: holds no frame")
    return frame


def tells_annotations(file: str) -> bool:
    """Whether `annotations_of_files` needs this one of a frame's files."""
    return file == _FRAME or file.startswith(f"{_ANNOTATIONS}.")


def annotations_of_files(files: Mapping[str, bytes]) -> tuple[str, Annotations | None]:
    """The frame's token and its annotations. Raises BadShard for anything else than what `files_of_frame` wrote."""
    with _told_as_bad_shard():
        content = _frame_content(files)
        annotations = _unpacked(content[_ANNOTATIONS], get_type_hints(LogFrame)[_ANNOTATIONS], files)
        token: str = _expected(content["token"], str)
    if annotations is not None and not isinstance(annotations, Annotations):
        raise BadShard(f"{_FRAME}: holds no annotations")
    return token, annotations


@contextmanager
def _told_as_bad_shard() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise BadShard(f"there is no {error}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise BadShard(f"{_FRAME}: not as packed: {error}") from None


def _frame_content(files: Mapping[str, bytes]) -> dict[str, Any]:
    content = json.loads(files[_FRAME])
    if content["format"] != _FORMAT:
        raise BadShard(f"{_FRAME}: expected format {_FORMAT}, found {content['format']!r:.20}")
    frame: dict[str, Any] = _expected(content["frame"], dict)
    return frame


def _packed(value: Any, name: str, files: dict[str, bytes]) -> Any:
    """A value as JSON has it; what is large goes into `files`, under the name of its place in the frame."""
    if dataclasses.is_dataclass(value):
        fields = {name: getattr(value, name) for name in _packed_fields(type(value))}
        return {key: _packed(item, _joined(name, key), files) for key, item in fields.items()}
    if isinstance(value, Mapping):
        return {key: _packed(item, _joined(name, key), files) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_packed(item, _joined(name, str(index)), files) for index, item in enumerate(value)]
    if isinstance(value, Tensor):
        return _packed_tensor(value, name, files)
    if isinstance(value, bytes):
        file = name.removesuffix(".encoded") + (".png" if value.startswith(_PNG_START) else ".jpg")
        files[file] = value
        return {"file": file}
    return value.value if isinstance(value, Enum) else value


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _packed_tensor(tensor: Tensor, name: str, files: dict[str, bytes]) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise TypeError(f"{name}: tensors of {dtype} are not packed")
    if tensor.numel() <= _INLINE_NUMBERS and bool(tensor.isfinite().all()):
        return {"dtype": dtype, "shape": list(tensor.shape), "numbers": tensor.flatten().tolist()}
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(tensor.numpy()), allow_pickle=False)
    file = f"{name.removesuffix('.points')}.npy"
    files[file] = content.getvalue()
    return {"file": file}


def _unpacked(value: Any, kind: Any, files: Mapping[str, bytes]) -> Any:
    """A value of `kind` (a type as the dataclasses' annotations have it). Raises ValueError, TypeError, KeyError."""
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    if dataclasses.is_dataclass(kind):
        return _unpacked_dataclass(value, kind, files)
    if get_origin(kind) is dict:
        item_kind = get_args(kind)[1]
        return {key: _unpacked(item, item_kind, files) for key, item in _expected(value, dict).items()}
    if get_origin(kind) is tuple:
        item_kind = get_args(kind)[0]
        return tuple(_unpacked(item, item_kind, files) for item in _expected(value, list))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is bytes:
        return files[_expected(value, dict)["file"]]
    if kind in (str, int, float):
        return float(value) if kind is float and type(value) is int else _expected(value, kind)
    return _unpacked_tensor(_expected(value, dict), files)


def _unpacked_dataclass(value: Any, kind: Any, files: Mapping[str, bytes]) -> Any:
    hints = get_type_hints(kind)
    content = _expected(value, dict)
    return kind(**{name: _unpacked(content[name], hints[name], files) for name in _packed_fields(kind)})


def _packed_fields(kind: Any) -> list[str]:
    unpacked = _MADE_WHILE_READ if kind is LogFrame else None
    return [field.name for field in dataclasses.fields(kind) if field.name != unpacked]


def _expected(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {value!r:.100}")
    return value


def _unpacked_tensor(value: dict[str, Any], files: Mapping[str, bytes]) -> Tensor:
    if "file" in value:
        return torch.from_numpy(read_npy(files[value["file"]], _DTYPES))
    shape = [_expected(side, int) for side in _expected(value["shape"], list)]
    return torch.tensor(_expected(value["numbers"], list), dtype=_DTYPES[value["dtype"]]).reshape(shape)
