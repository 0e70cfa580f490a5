"""An open index: scenes, and everything that was recorded in a scene, as arrays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from numpy.typing import NDArray

from datasets.arrays import Array
from datasets.nuscenes.index.file import Columns, IndexDamaged, IndexFile, reopen


@dataclass(frozen=True)
class TokenColumn:
    """The tokens of N records: nuScenes' own as bytes (N, 16), others as UTF-8 (N, L) beside their lengths (N)."""

    encoded: UInt8[Array, "N L"]
    lengths: Int32[Array, "N"] | None

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> str:
        encoded: bytes = self.encoded[row].tobytes()
        if self.lengths is None:
            return encoded.hex()
        return encoded[: int(self.lengths[row])].decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class Samples:
    """The N samples of a scene, by time. Rows are those within the scene, -1 for none.

    `keyframes`: the rows in `sample_data` of each channel's keyframe. `reference`: that of the one whose ego pose is
    the sample's, LIDAR_TOP's or, without one, that closest in time. `first_annotation`: a sample's annotations are
    the rows from its own number to the next one.
    """

    token: TokenColumn
    timestamp: Int64[Array, "N"]
    keyframes: Int32[Array, "N channels"]
    reference: Int32[Array, "N"]
    first_annotation: Int64[Array, "N+1"]


@dataclass(frozen=True)
class SampleData:
    """The N sensor records of a scene, channel by channel and by time, with the ego pose of each.

    Names are those of the tables, microseconds, metres, (w, x, y, z). `sample`, `prev` and `next` are rows within the
    scene (-1 for none), `channel` and `calibration` rows of the index.
    """

    token: TokenColumn
    sample: Int32[Array, "N"]
    channel: Int32[Array, "N"]
    calibration: Int32[Array, "N"]
    timestamp: Int64[Array, "N"]
    is_key_frame: Bool[Array, "N"]
    width: Int32[Array, "N"]
    height: Int32[Array, "N"]
    filename: Int32[Array, "N"]
    prev: Int32[Array, "N"]
    next: Int32[Array, "N"]
    pose_timestamp: Int64[Array, "N"]
    pose_rotation: Float64[Array, "N 4"]
    pose_translation: Float64[Array, "N 3"]


@dataclass(frozen=True)
class SampleAnnotations:
    """The N annotations of a scene, sample by sample and by token.

    Names are those of the tables, metres, (w, x, y, z), global. `velocity`: m/s in x and y as the devkit computes it,
    NaN where unknown. `sample`, `prev` and `next` are rows within the scene (-1 for none), `instance`, `visibility`
    and `attributes` (K: the longest list's length) rows of the index, -1 for none. `table_row`: the record's place in
    its table, which nothing depends on but the official figures.
    """

    token: TokenColumn
    sample: Int32[Array, "N"]
    instance: Int32[Array, "N"]
    visibility: Int32[Array, "N"]
    attributes: Int32[Array, "N K"]
    translation: Float64[Array, "N 3"]
    size: Float64[Array, "N 3"]
    rotation: Float64[Array, "N 4"]
    velocity: Float64[Array, "N 2"]
    num_lidar_pts: Int64[Array, "N"]
    num_radar_pts: Int64[Array, "N"]
    table_row: Int32[Array, "N"]
    prev: Int32[Array, "N"]
    next: Int32[Array, "N"]


@dataclass(frozen=True)
class SceneRecords:
    """All that the tables have of one scene."""

    name: str
    token: str
    samples: Samples
    sample_data: SampleData
    annotations: SampleAnnotations


@dataclass(frozen=True)
class Calibrations:
    """The K calibrations: metres, (w, x, y, z), ego_from_sensor; the camera matrix is zero for other sensors."""

    channel: Int32[Array, "K"]
    translation: Float64[Array, "K 3"]
    rotation: Float64[Array, "K 4"]
    camera_intrinsic: Float64[Array, "K 3 3"]


class NuScenesIndex:
    """The tables of a nuScenes version as columns. `open_index` (datasets.nuscenes.index.opening) makes one.

    `channels`, `scene_names`, `categories`, `attributes`, `visibilities`: the names of rows, scenes in alphabetical
    order. It can be sent to other processes: they map the same file. `mend`: called with a file that proved to be
    damaged, returns a new one of the same tables.
    """

    def __init__(self, file: IndexFile, mend: Callable[[IndexFile], IndexFile]) -> None:
        self._file = file
        self._mend = mend
        self._scenes: dict[int, SceneRecords] = {}
        self._take(file)

    def _take(self, file: IndexFile) -> None:
        columns, names = file.columns, file.names
        self._file = file
        self._tokens = _tokens(columns, "sample", slice(None))
        self.channels = tuple(names["channels"])
        self.scene_names = tuple(names["scenes"])
        self.categories = tuple(names["categories"])
        self.attributes = tuple(names["attributes"])
        self.visibilities = tuple(names["visibilities"])
        self.calibrations = Calibrations(
            *(columns[f"calibration.{name}"] for name in ("channel", "translation", "rotation", "camera_intrinsic"))
        )
        self.instance_tokens = _tokens(columns, "instance", slice(None))
        self.category_of_instance: NDArray[np.int32] = columns["instance.category"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._file.path, self._file.digests, self._mend)

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def annotated(self) -> bool:
        """Whether the tables have any annotation at all."""
        return int(self._file.columns["scene.first_annotation"][-1]) > 0

    def find(self, token: str) -> tuple[int, int]:
        """The scene of a sample, and the sample's row within it. Raises KeyError for a token that is no sample."""
        by_token = self._file.columns["sample.by_token"]
        low, high = 0, len(by_token)
        while low < high:
            middle = (low + high) // 2
            if self._tokens[int(by_token[middle])] < token:
                low = middle + 1
            else:
                high = middle
        if low == len(by_token) or self._tokens[int(by_token[low])] != token:
            raise KeyError(token)
        row = int(by_token[low])
        first = self._file.columns["scene.first_sample"]
        scene = int(np.searchsorted(first, row, side="right")) - 1
        return scene, row - int(first[scene])

    def sample_tokens(self, scene: int) -> list[str]:
        """The samples of a scene in the order of time."""
        first = self._file.columns["scene.first_sample"]
        return [self._tokens[row] for row in range(int(first[scene]), int(first[scene + 1]))]

    def scene(self, scene: int) -> SceneRecords:
        """The records of a scene (a row of `scene_names`), checked against what was written."""
        if scene not in self._scenes:
            try:
                self._file.check_scene(scene)
            except IndexDamaged:
                self._take(self._mend(self._file))
                self._file.check_scene(scene)
            self._scenes[scene] = _scene_records(self._file, scene)
        return self._scenes[scene]

    def scenes(self) -> Iterator[SceneRecords]:
        """All scenes, by name."""
        return map(self.scene, range(len(self.scene_names)))

    def filename(self, records: SampleData, row: int) -> str:
        """The path of a sensor record's file, relative to the dataroot."""
        ends, number = self._file.columns["template.end"], int(records.filename[row])
        start = int(ends[number - 1]) if number else 0
        encoded = self._file.columns["template.text"][start : int(ends[number])].tobytes()
        return _decoded(encoded).replace("\0", str(records.timestamp[row]), 1)


def _decoded(encoded: bytes) -> str:
    return encoded.decode(errors="surrogatepass")


def _reopened(path: Path, digests: dict[str, str | None], mend: Callable[[IndexFile], IndexFile]) -> NuScenesIndex:
    return NuScenesIndex(reopen(path, digests), mend)


def _tokens(columns: Columns, table: str, rows: slice) -> TokenColumn:
    lengths = columns.get(f"{table}.token_length")
    return TokenColumn(columns[f"{table}.token"][rows], None if lengths is None else lengths[rows])


def _scene_records(file: IndexFile, scene: int) -> SceneRecords:
    columns = file.columns

    def rows_of(table: str) -> slice:
        start, stop = columns[f"scene.first_{table}"][scene : scene + 2].tolist()
        return slice(start, stop)

    def slices(table: str, kind: type[SampleData | SampleAnnotations]) -> dict[str, Any]:
        rows = rows_of(table)
        names = [field.name for field in fields(kind) if field.name != "token"]
        return {"token": _tokens(columns, table, rows)} | {name: columns[f"{table}.{name}"][rows] for name in names}

    samples, first = rows_of("sample"), rows_of("annotation").start
    return SceneRecords(
        name=file.names["scenes"][scene],
        token=_tokens(columns, "scene", slice(None))[scene],
        samples=Samples(
            token=_tokens(columns, "sample", samples),
            timestamp=columns["sample.timestamp"][samples],
            keyframes=columns["sample.keyframes"][samples],
            reference=columns["sample.reference"][samples],
            first_annotation=columns["sample.first_annotation"][samples.start : samples.stop + 1] - first,
        ),
        sample_data=SampleData(**slices("sample_data", SampleData)),
        annotations=SampleAnnotations(**slices("annotation", SampleAnnotations)),
    )
