"""A packed database of recorded objects: their points, radar returns and pictures, to be pasted into other frames.

A folder of three files, however many objects: `database.json` says what is in it, `objects.npy` holds one record for
each object, `data.bin` their points and pictures one after another. The latter two are mapped into memory, so that
opening takes no time and loader processes share the pages. Nothing in it is code.
"""

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.samples.sample import LIDAR_POINT_FIELDS
from datasets.sensors.sweeps import RADAR_RETURN_FIELDS

FORMAT_VERSION = 3
_TOKEN_BYTES = 64
_RECORD = np.dtype(
    [
        ("token", f"S{_TOKEN_BYTES}"),
        ("scene", "<i4"),  # its place in the scenes of database.json
        ("center", "<f4", 3),
        ("size_wlh", "<f4", 3),
        ("yaw", "<f4"),
        ("velocity", "<f4", 2),
        ("label", "<i4"),
        ("attribute", "<i4"),
        ("start", "<i8"),  # in data.bin: LiDAR points, radar returns, picture, one behind the other
        ("lidar_points", "<i4"),
        ("radar_returns", "<i4"),
        ("picture_bytes", "<i4"),
        ("picture_corner", "<i4", 2),
        ("outline", "<f4", 4),
        ("crc32", "<u4"),  # of the object's bytes in data.bin
    ]
)
_POINT_BYTES, _RETURN_BYTES = 4 * len(LIDAR_POINT_FIELDS), 4 * len(RADAR_RETURN_FIELDS)


@dataclass(frozen=True)
class ObjectPicture:
    """The region of a recorded picture that an object's box projects to.

    `encoded`: a JPEG or PNG whose top left pixel is (left, top) of the recorded picture. `outline`: left, top, right
    and bottom of the whole projected box in that picture, in pixels; it may reach over the picture's edge.
    """

    encoded: bytes
    left: int
    top: int
    outline: tuple[float, float, float, float]


@dataclass(frozen=True)
class RecordedObject:
    """One object at one keyframe of a scene: its `box` (a set of one, in ego), and what the sensors saw of it.

    `lidar_points` (LIDAR_POINT_FIELDS) and `radar_returns` (RADAR_RETURN_FIELDS) in the box's own frame: origin in its
    middle, x along its length; both velocities in the box's axes: (vx, vy) as the radar measured it, relative to the
    recording vehicle, and (vx_comp, vy_comp) over ground.
    """

    token: str
    scene: str
    box: Boxes3D
    lidar_points: Float32[Tensor, "P 5"]
    radar_returns: Float32[Tensor, "R 19"]
    picture: ObjectPicture | None


def write_object_database(
    folder: Path, objects: Iterable[RecordedObject], *, version: str, lidar_sweeps: int, radar_sweeps: int
) -> int:
    """Write the objects, one at a time, and return how many there were. The folder appears when it is complete.

    Raises InputRefused where it exists already, and for a token of more than 64 bytes. `version`: the version of the
    dataset that they are cut out of; `lidar_sweeps`, `radar_sweeps`: how many the objects were made of.
    """
    if folder.exists():
        raise InputRefused(f"{folder} exists: name a new folder for the database, or remove this one.")
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: what a killed process left must not stand in the way, whatever its number was.
    growing = Path(tempfile.mkdtemp(prefix=f".{folder.name}.unfinished-", dir=parent))
    growing.chmod(0o777 & ~_umask())
    try:
        records: list[NDArray[Any]] = []
        scenes: dict[str, int] = {}
        with (growing / "data.bin").open("wb") as file:
            for recorded in objects:
                data = recorded.lidar_points.numpy().astype("<f4").tobytes()
                data += recorded.radar_returns.numpy().astype("<f4").tobytes()
                data += recorded.picture.encoded if recorded.picture is not None else b""
                scene = scenes.setdefault(recorded.scene, len(scenes))
                records.append(_record(recorded, scene, file.tell(), zlib.crc32(data)))
                file.write(data)
            size = file.tell()
            # A file of no bytes cannot be mapped.
            file.write(b"\0" if size == 0 else b"")
        np.save(growing / "objects.npy", np.stack(records) if records else np.zeros(0, _RECORD), allow_pickle=False)
        described = {
            "format": FORMAT_VERSION,
            "version": version,
            "scenes": list(scenes),
            "objects": len(records),
            "data_bytes": size,
            "lidar_fields": LIDAR_POINT_FIELDS,
            "radar_fields": RADAR_RETURN_FIELDS,
            "lidar_sweeps": lidar_sweeps,
            "radar_sweeps": radar_sweeps,
        }
        (growing / "database.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        growing.rename(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return len(records)


def _umask() -> int:
    """What the user's new folders must not allow; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _record(recorded: RecordedObject, scene: int, start: int, crc32: int) -> NDArray[Any]:
    record = np.zeros((), _RECORD)
    box, picture = recorded.box, recorded.picture
    token = recorded.token.encode("utf-8", "surrogatepass")
    # NumPy would cut it, and takes trailing zeros for padding.
    if len(token) > _TOKEN_BYTES or token.endswith(b"\0"):
        raise InputRefused(
            f"The annotation's token {recorded.token!r:.200} has {len(token)} bytes, or ends in a zero: a database of "
            f"objects holds tokens of up to {_TOKEN_BYTES} bytes; give the annotations shorter ones."
        )
    record["token"], record["scene"] = token, scene
    record["center"], record["size_wlh"] = box.centers[0].numpy(), box.sizes_wlh[0].numpy()
    record["yaw"], record["velocity"] = float(box.yaws[0]), box.velocities[0].numpy()
    record["label"], record["attribute"] = int(box.labels[0]), int(box.attributes[0])
    record["start"], record["crc32"] = start, crc32
    record["lidar_points"], record["radar_returns"] = len(recorded.lidar_points), len(recorded.radar_returns)
    if picture is not None:
        record["picture_bytes"] = len(picture.encoded)
        record["picture_corner"], record["outline"] = (picture.left, picture.top), picture.outline
    return record


class ObjectDatabase:
    """The objects of a folder that `write_object_database` wrote, read when they are asked for. `version` and `scenes`
    say what they were cut out of.

    Raises InputRefused for a folder that is no such database, is of another version, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = _described(folder)
        self.version: str = described["version"]
        self.scenes: tuple[str, ...] = tuple(described["scenes"])
        self.lidar_sweeps = int(described["lidar_sweeps"])
        self.radar_sweeps = int(described["radar_sweeps"])
        try:
            records = np.load(folder / "objects.npy", mmap_mode="r", allow_pickle=False)
            self._data: NDArray[np.uint8] = np.memmap(folder / "data.bin", np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise InputRefused(f"{folder} cannot be read as a database of objects: {error}.") from error
        if records.dtype != _RECORD or records.shape != (described["objects"],):
            raise InputRefused(
                f"{folder}/objects.npy does not hold the {described['objects']} records of its database."
            )
        self._records: NDArray[Any] = records
        sizes = (
            records["lidar_points"] * np.int64(_POINT_BYTES)
            + records["radar_returns"] * np.int64(_RETURN_BYTES)
            + records["picture_bytes"]
        )
        ends = np.concatenate([[0], np.cumsum(sizes)])
        whole = np.array_equal(records["start"], ends[:-1]) and ends[-1] == described["data_bytes"] <= len(self._data)
        names = len(DETECTION_CLASSES), len(ATTRIBUTES), len(self.scenes)
        known = [
            ((records[field] >= low) & (records[field] < high)).all()
            for field, low, high in (("label", 0, names[0]), ("attribute", -1, names[1]), ("scene", 0, names[2]))
        ]
        counted = all((records[field] >= 0).all() for field in ("lidar_points", "radar_returns", "picture_bytes"))
        finite = all(np.isfinite(records[field]).all() for field in ("center", "size_wlh", "yaw", "outline"))
        # A velocity may be unknown: not a number.
        solid = bool((records["size_wlh"] > 0).all()) and not np.isinf(records["velocity"]).any()
        if not (whole and all(known) and counted and finite and solid):
            raise InputRefused(
                f"{folder} is damaged: its records and its data.bin do not fit; build the database again."
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> RecordedObject:
        """One object with all that was recorded of it. Raises InputRefused where its bytes have changed."""
        record = self._records[row]
        lidar_start = int(record["start"])
        radar_start = lidar_start + int(record["lidar_points"]) * _POINT_BYTES
        picture_start = radar_start + int(record["radar_returns"]) * _RETURN_BYTES
        end = picture_start + int(record["picture_bytes"])
        if zlib.crc32(self._data[lidar_start:end].tobytes()) != int(record["crc32"]):
            raise InputRefused(
                f"{self.folder}/data.bin is damaged: the bytes of object {row} are not those that were written; "
                "build the database again."
            )
        picture = None
        if record["picture_bytes"]:
            encoded = self._data[picture_start:end].tobytes()
            left, top = (int(value) for value in record["picture_corner"])
            outline = tuple(float(value) for value in record["outline"])
            picture = ObjectPicture(encoded, left, top, (outline[0], outline[1], outline[2], outline[3]))
        return RecordedObject(
            token=bytes(record["token"]).decode("utf-8", "surrogatepass"),
            scene=self.scenes[int(record["scene"])],
            box=self.boxes(np.array([row])),
            lidar_points=self._floats(lidar_start, radar_start, len(LIDAR_POINT_FIELDS)),
            radar_returns=self._floats(radar_start, picture_start, len(RADAR_RETURN_FIELDS)),
            picture=picture,
        )

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each object: indices into DETECTION_CLASSES."""
        return np.asarray(self._records["label"])

    @property
    def lidar_counts(self) -> NDArray[np.int32]:
        """How many LiDAR points each object has."""
        return np.asarray(self._records["lidar_points"])

    @property
    def pictured(self) -> NDArray[np.bool_]:
        """Which objects have a picture."""
        return np.asarray(self._records["picture_bytes"] > 0)

    def boxes(self, rows: NDArray[np.int64]) -> Boxes3D:
        """The boxes of some objects, each in the ego frame that it was recorded in; float32."""
        records = self._records[rows]

        def tensor(field: str, dtype: type) -> Tensor:
            return torch.from_numpy(records[field].astype(dtype))

        return Boxes3D(
            centers=tensor("center", np.float32),
            sizes_wlh=tensor("size_wlh", np.float32),
            yaws=tensor("yaw", np.float32),
            velocities=tensor("velocity", np.float32),
            labels=tensor("label", np.int64),
            scores=torch.ones(len(rows)),
            attributes=tensor("attribute", np.int64),
        )

    def _floats(self, start: int, end: int, columns: int) -> Float32[Tensor, "_ C"]:
        values = np.frombuffer(self._data[start:end].tobytes(), "<f4").reshape(-1, columns)
        return torch.from_numpy(values.astype(np.float32))


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "database.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT_VERSION:
            raise InputRefused(f"{path} describes another format than this version writes: build the database again.")
        fields = (tuple(described["lidar_fields"]), tuple(described["radar_fields"]))
        counts = [described[name] for name in ("objects", "data_bytes", "lidar_sweeps", "radar_sweeps")]
        names = [described["version"], *described["scenes"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputRefused(f"{folder} holds no database of objects: {path.name}: {error!r:.200}.") from error
    if fields != (LIDAR_POINT_FIELDS, RADAR_RETURN_FIELDS):
        raise InputRefused(f"{path} describes other columns than this version writes: build the database again.")
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise InputRefused(f"{path}: its counts must be whole numbers that are not negative.")
    if not isinstance(described["scenes"], list) or not all(isinstance(name, str) for name in names):
        raise InputRefused(f"{path}: its version and its scenes must be names.")
    return dict(described)
