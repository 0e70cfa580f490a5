"""From JSON tables to the columns of an index.

Rows are put in an order of their own, which does not depend on that of the records: scenes by name, samples by time,
sensor records by channel and time, annotations by token. So all that belongs to a scene lies together, a sample's
annotations lie together, and what refers to another record of the scene does so by its row within the scene.
"""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.classes import LIDAR_CHANNEL
from datasets.faults import InputRefused
from datasets.nuscenes.index.checks import (
    Links,
    Rows,
    check_cameras,
    check_chain,
    check_keyframes,
    check_pictures,
    check_scenes,
    check_unique,
    listed_references,
    references,
)
from datasets.nuscenes.index.columns import Tokens
from datasets.nuscenes.index.file import Columns, IndexContent
from datasets.nuscenes.index.keys import packed
from datasets.nuscenes.index.table import Progress, Table, no_table, read_table
from datasets.nuscenes.schema import ANNOTATION_TABLES, MAY_BE_ABSENT, MAY_BE_EMPTY, TABLES, fields_of

_MAX_TIME_DIFFERENCE = 1.5


def build(folder: Path, progress: Progress) -> IndexContent:
    """Read and check all tables of a version. Raises InputRefused for the first problem, no OSError among them."""
    collecting = gc.isenabled()
    gc.disable()  # millions of records without one circle among them: looking for circles takes a fifth of the time
    try:
        return _Builder(folder, progress).content()
    except OSError as error:
        raise InputRefused(f"{folder}: the tables cannot be read: {error}.") from None
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class _Calibrations:
    """What sensor records must know of the calibrations, by their row in the file (K): the channel, whether it is a
    camera's; `rows`: the row in the index.
    """

    table: Table
    channel: Rows
    is_camera: NDArray[np.bool_]
    rows: Rows


@dataclass(frozen=True)
class _Samples:
    """What the big tables must know of the samples, by their row in the file: scene and time (N); `rows`: the row in
    the index of each row in the file.
    """

    table: Table
    scene: Rows
    times_us: NDArray[np.int64]
    rows: Rows


class _Builder:
    """Tables are read one after another; the big ones are made into columns and freed before the next is read."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._annotated = (folder / "sample_annotation.json").exists()
        self._digests: dict[str, str | None] = {}
        self._names: dict[str, list[str]] = {}
        self._columns: Columns = {}

    def content(self) -> IndexContent:
        calibrations, samples = self._calibrations(), self._scenes_and_samples()
        self._annotations(samples)
        self._sample_data(samples, calibrations)
        return IndexContent({name: self._digests[name] for name in TABLES}, self._names, self._columns)

    def _read(self, name: str) -> Table:
        path = self._folder / f"{name}.json"
        needed = self._annotated or name not in (*ANNOTATION_TABLES, *MAY_BE_ABSENT)
        if needed and (name not in MAY_BE_ABSENT or path.exists()):
            may_be_empty = name in (*MAY_BE_EMPTY, *MAY_BE_ABSENT)
            table = read_table(path, fields_of(name), may_be_empty=may_be_empty, progress=self._progress)
        else:
            table = no_table(path, fields_of(name))
        self._digests[name] = table.digest
        return table

    def _keep(self, table: str, order: NDArray[np.int64], **columns: NDArray[Any]) -> None:
        for name, column in columns.items():
            self._columns[f"{table}.{name}"] = column[order]

    def _keep_tokens(self, name: str, table: Table, order: NDArray[np.int64]) -> None:
        """Tokens as bytes (N, 16); texts that are not nuScenes' as UTF-8 (N, longest) beside their lengths (N)."""
        tokens = table.tokens()
        if tokens.texts is None:
            self._keep(name, order, token=packed(tokens.keys))
            return
        encoded = [text.encode(errors="surrogatepass") for text in tokens.texts]
        lengths = np.array(list(map(len, encoded)), dtype=np.int32)
        padded = np.array(encoded, dtype=f"S{max(lengths.max(initial=0), 1)}")
        self._keep(name, order, token=padded.view(np.uint8).reshape(len(padded), -1), token_length=lengths)

    def _calibrations(self) -> _Calibrations:
        sensor, calibration = self._read("sensor"), self._read("calibrated_sensor")
        check_unique(sensor, "channel", "sensor")
        channels = sorted(sensor.texts("channel"))
        channel_of_sensor = np.array([channels.index(name) for name in sensor.texts("channel")], dtype=np.int32)
        of_camera = np.array([modality == "camera" for modality in sensor.texts("modality")], dtype=np.bool_)
        sensor_of = references(calibration, "sensor_token", sensor)
        is_camera = of_camera[sensor_of]
        check_cameras(calibration, is_camera)
        self._names["channels"] = channels
        rows, order = _ranked(calibration.tokens())
        self._keep(
            "calibration",
            order,
            channel=channel_of_sensor[sensor_of],
            translation=calibration.values("translation"),
            rotation=calibration.values("rotation"),
            camera_intrinsic=calibration.values("camera_intrinsic"),
        )
        return _Calibrations(calibration, channel_of_sensor[sensor_of], is_camera, rows)

    def _scenes_and_samples(self) -> _Samples:
        scene, sample = self._read("scene"), self._read("sample")
        scene_in_file = references(sample, "scene_token", scene)
        check_scenes(scene, sample, scene_in_file)
        times_us = sample.values("timestamp")
        check_chain(sample, scene_in_file, np.zeros_like(scene_in_file), times_us)
        names = scene.texts("name")
        scene_order = np.array(sorted(range(len(scene)), key=names.__getitem__))
        self._names["scenes"] = [names[row] for row in scene_order]
        scene_of = _inverse(scene_order)[scene_in_file]
        order = np.lexsort((*_sort_keys(sample.tokens()), times_us, scene_of))
        self._keep_tokens("scene", scene, scene_order)
        self._keep_tokens("sample", sample, order)
        self._keep("sample", order, timestamp=times_us)
        by_token = np.lexsort(_sort_keys(sample.tokens()))
        self._columns["sample.by_token"] = _inverse(order)[by_token]
        self._columns["scene.first_sample"] = _starts(scene_of[order], len(scene))
        return _Samples(sample, scene_of, times_us, _inverse(order))

    def _annotations(self, samples: _Samples) -> None:
        category, attribute, visibility = (self._read(name) for name in ("category", "attribute", "visibility"))
        instance, annotation = self._read("instance"), self._read("sample_annotation")
        # In the order of their tokens, as the tables' own order must not matter.
        category, attribute, visibility = (
            table.take(_ranked(table.tokens())[1]) for table in (category, attribute, visibility)
        )
        self._names |= {
            "categories": category.texts("name"),
            "attributes": attribute.texts("name"),
            "visibilities": visibility.texts("level"),
        }
        instance_rows, instance_order = _ranked(instance.tokens())
        self._keep_tokens("instance", instance, instance_order)
        self._keep("instance", instance_order, category=references(instance, "category_token", category))
        instance_of = references(annotation, "instance_token", instance)
        sample_of = references(annotation, "sample_token", samples.table)
        scene_of, times_us = samples.scene[sample_of], samples.times_us[sample_of]
        links = check_chain(annotation, scene_of, instance_of, times_us)
        order = np.lexsort((*_sort_keys(annotation.tokens()), samples.rows[sample_of]))
        scene_start = self._keep_starts("annotation", scene_of[order])
        sample_start = self._columns["scene.first_sample"][scene_of]
        self._keep_tokens("annotation", annotation, order)
        self._keep(
            "annotation",
            order,
            sample=(samples.rows[sample_of] - sample_start).astype(np.int32),
            instance=instance_rows[instance_of],
            visibility=visibility.rows_of(annotation.tokens("visibility_token").keys).astype(np.int32),
            attributes=listed_references(annotation, "attribute_tokens", attribute),
            velocity=velocities(annotation.values("translation"), times_us, links),
            table_row=np.arange(len(sample_of), dtype=np.int32),
            **{
                name: annotation.values(name)
                for name in ("translation", "size", "rotation", "num_lidar_pts", "num_radar_pts")
            },
        )
        self._keep_links("annotation", links, order, scene_start[scene_of])
        self._columns["sample.first_annotation"] = _starts(samples.rows[sample_of][order], len(samples.rows))

    def _sample_data(self, samples: _Samples, calibrations: _Calibrations) -> None:
        pose, data = self._read("ego_pose"), self._read("sample_data")
        calibration_of = references(data, "calibrated_sensor_token", calibrations.table)
        pose_of = references(data, "ego_pose_token", pose)
        sample_of = references(data, "sample_token", samples.table)
        data.drop("calibrated_sensor_token", "ego_pose_token", "sample_token")
        pose.drop("token")
        check_pictures(data, calibrations.is_camera[calibration_of])
        channel_of, scene_of = calibrations.channel[calibration_of], samples.scene[sample_of]
        check_keyframes(samples.table, data, sample_of, channel_of, tuple(self._names["channels"]))
        times_us = data.values("timestamp")
        links = check_chain(data, scene_of, channel_of, times_us)
        data.drop("prev", "next")
        order = np.lexsort((*_sort_keys(data.tokens()), times_us, channel_of, scene_of))
        scene_start = self._keep_starts("sample_data", scene_of[order])
        self._keep_links("sample_data", links, order, scene_start[scene_of])
        self._keep_tokens("sample_data", data, order)
        names = data.file_names("filename")
        sample_rows = samples.rows[sample_of]
        self._keep(
            "sample_data",
            order,
            sample=(sample_rows - self._columns["scene.first_sample"][scene_of]).astype(np.int32),
            channel=channel_of.astype(np.int32),
            calibration=calibrations.rows[calibration_of],
            timestamp=times_us,
            is_key_frame=data.values("is_key_frame"),
            width=data.values("width"),
            height=data.values("height"),
            filename=names.template,
        )
        self._keep_texts("template", names.templates)
        for name in ("timestamp", "rotation", "translation"):
            self._columns[f"sample_data.pose_{name}"] = pose.values(name)[pose_of[order]]
        in_scene = np.arange(len(data), dtype=np.int32) - scene_start[scene_of[order]].astype(np.int32)
        self._keep_keyframes(sample_rows[order], in_scene, len(samples.rows))

    def _keep_starts(self, table: str, scene_of_row: Rows) -> NDArray[np.int64]:
        starts = _starts(scene_of_row, len(self._names["scenes"]))
        self._columns[f"scene.first_{table}"] = starts
        return starts

    def _keep_links(self, table: str, links: Links, order: NDArray[np.int64], start: NDArray[np.int64]) -> None:
        """Links as rows within the scene; `start` (N): the first row of the scene of each record."""
        rows = np.append(_inverse(order), -1)  # what is -1 stays so
        for name, target in (("prev", links.previous), ("next", links.following)):
            local = np.where(target < 0, -1, rows[target] - start)
            self._columns[f"{table}.{name}"] = local[order].astype(np.int32)

    def _keep_texts(self, name: str, texts: list[str]) -> None:
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        self._columns[f"{name}.text"] = np.frombuffer(b"".join(encoded), np.uint8)
        self._columns[f"{name}.end"] = np.cumsum(list(map(len, encoded)), dtype=np.int64)

    def _keep_keyframes(self, sample_rows: Rows, in_scene: Rows, samples: int) -> None:
        """For each sample the row of each channel's keyframe, and that of the one whose ego pose is the frame's."""
        channels = self._names["channels"]
        rows = np.flatnonzero(self._columns["sample_data.is_key_frame"])
        sample, channel = sample_rows[rows], self._columns["sample_data.channel"][rows]
        keyframes = np.full((samples, len(channels)), -1, dtype=np.int32)
        keyframes[sample, channel] = in_scene[rows]
        # LIDAR_TOP's, otherwise the one closest in time; of two as close the one whose token comes first.
        distance = np.abs(self._columns["sample_data.timestamp"][rows] - self._columns["sample.timestamp"][sample])
        if LIDAR_CHANNEL in channels:
            distance[channel == channels.index(LIDAR_CHANNEL)] = -1
        tokens = self._columns["sample_data.token"][rows]
        token_rank = _inverse(np.lexsort(tokens.T[::-1]))
        by_distance = np.lexsort((token_rank, distance, sample))
        first = by_distance[_starts(sample[by_distance], samples)[:-1]]
        self._columns["sample.keyframes"] = keyframes
        self._columns["sample.reference"] = in_scene[rows][first]


def velocities(translations: NDArray[np.float64], times_us: NDArray[np.int64], links: Links) -> NDArray[np.float64]:
    """Velocities over ground (N, 2; m/s) in global x and y, NaN where unknown: nuscenes-devkit's
    `NuScenes.box_velocity`, to the last bit.

    The difference between the neighbours in the track, or to the one neighbour there is; unknown where they are
    more than 3 s (two neighbours) or 1.5 s (one) apart. `translations` (N, 3), `times_us` (N): those of the samples.
    """
    own = np.arange(len(translations))
    first = np.where(links.previous >= 0, links.previous, own)
    last = np.where(links.following >= 0, links.following, own)
    # Seconds as the devkit rounds them.
    seconds = 1e-6 * times_us[last] - 1e-6 * times_us[first]
    between = (links.previous >= 0) & (links.following >= 0)
    limit = np.where(between, 2 * _MAX_TIME_DIFFERENCE, _MAX_TIME_DIFFERENCE)
    known = (first != last) & (seconds <= limit)
    velocity = np.full((len(translations), 2), np.nan)
    moved = translations[last[known], :2] - translations[first[known], :2]
    velocity[known] = moved / seconds[known, None]
    return velocity


def _sort_keys(tokens: Tokens) -> tuple[NDArray[Any], ...]:
    """Keys for np.lexsort, the least important first, that put tokens in the order of their texts."""
    if tokens.texts is None:
        return tokens.keys[:, 1], tokens.keys[:, 0]
    return (_inverse(np.array(sorted(range(len(tokens.texts)), key=tokens.texts.__getitem__), dtype=np.int64)),)


def _ranked(tokens: Tokens) -> tuple[Rows, NDArray[np.int64]]:
    """The row of each record where they stand in the order of their tokens, and that order."""
    order = np.lexsort(_sort_keys(tokens))
    return _inverse(order), order


def _inverse(order: NDArray[np.int64]) -> Rows:
    rows = np.empty(len(order), dtype=np.int32)
    rows[order] = np.arange(len(order), dtype=np.int32)
    return rows


def _starts(sorted_groups: NDArray[Any], groups: int) -> NDArray[np.int64]:
    """Where each of `groups` begins among rows in the order of their group, and the end: (groups + 1)."""
    return np.searchsorted(sorted_groups, np.arange(groups + 1)).astype(np.int64)
