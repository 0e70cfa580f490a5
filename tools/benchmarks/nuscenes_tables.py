"""nuScenes tables of any size, trainval's included, with nothing behind them: to measure what reads tables.

Written as nuScenes writes them (one field a line, tokens of 32 hexadecimal digits, poses with all their digits), with
whole chains, tracks that begin and end within a scene, and the rates of the real sensors. No sensor file is written.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES, CAMERA_CHANNELS, CLASS_OF_CATEGORY, LIDAR_CHANNEL, RADAR_CHANNELS

_START_US = 1_532_000_000_000_000
_KEYFRAME_PERIOD_US = 500_000
# Sweeps from one keyframe to the next, keyframe included, as nuScenes' sensors run: 12, 20 and 13 Hz.
_SWEEPS = dict.fromkeys(CAMERA_CHANNELS, 6.0) | {LIDAR_CHANNEL: 9.83} | dict.fromkeys(RADAR_CHANNELS, 6.53)
_SUFFIX = dict.fromkeys(CAMERA_CHANNELS, "jpg") | {LIDAR_CHANNEL: "pcd.bin"} | dict.fromkeys(RADAR_CHANNELS, "pcd")
_STREAMED = ("sample", "sample_data", "ego_pose", "instance", "sample_annotation", "calibrated_sensor")
_DRIVEN = 2.5  # metres from keyframe to keyframe, in x as in y
_BESIDE = 40.0  # metres in x and in y from where the vehicle will be or has been, within which objects begin
Row = dict[str, Any]


@dataclass(frozen=True)
class TablesSize:
    """How large the tables are. The default is nuScenes trainval's: 850 scenes, 2.63 million sensor records.

    `sensors`: records of all twelve sensors at their rates; otherwise those of LIDAR_TOP's keyframes alone.
    """

    scenes: int = 850
    keyframes: int = 40  # of a scene; every sixth scene has one more
    annotations: int = 34  # of a sample, on average
    sensors: bool = True


@dataclass(frozen=True)
class RecordCounts:
    """How many records were written."""

    samples: int
    sample_data: int
    annotations: int


def write_tables(root: Path, version: str, size: TablesSize, seed: int = 0) -> RecordCounts:
    """Write all thirteen tables of `root/version`, and an empty map: the devkit opens them, and so does Bevel."""
    folder = root / version
    folder.mkdir(parents=True)
    (root / "maps").mkdir()
    cv2.imwrite(str(root / "maps" / "map.png"), np.zeros((4, 4), np.uint8))
    generator = np.random.default_rng(seed)
    fixed = _fixed_tables(generator, size)
    with ExitStack() as files:
        tables = {name: _Table(files.enter_context((folder / f"{name}.json").open("w"))) for name in _STREAMED}
        fixed["scene"] = [_write_scene(tables, generator, fixed, scene, size) for scene in range(size.scenes)]
        for table in tables.values():
            table.end()
    for name, rows in fixed.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
    return RecordCounts(*(tables[name].count for name in ("sample", "sample_data", "sample_annotation")))


class _Table:
    """A JSON list that is written record by record."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0
        file.write("[")

    def add(self, record: str) -> None:
        self._file.write((",\n{" if self.count else "\n{") + record + "}")
        self.count += 1

    def end(self) -> None:
        self._file.write("\n]")


def _tokens(generator: np.random.Generator, count: int) -> list[str]:
    digits = generator.bytes(16 * count).hex()
    return [digits[start : start + 32] for start in range(0, 32 * count, 32)]


def _fixed_tables(generator: np.random.Generator, size: TablesSize) -> dict[str, list[Row]]:
    modality = dict.fromkeys(CAMERA_CHANNELS, "camera") | {LIDAR_CHANNEL: "lidar"}
    channels = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS) if size.sensors else (LIDAR_CHANNEL,)
    categories = (*CLASS_OF_CATEGORY, "animal", "static_object.bicycle_rack")
    logs = [
        {
            "token": token,
            "logfile": f"n{8 + 7 * (number % 2):03d}-2018-07-{1 + number % 28:02d}-{number // 28:02d}-00-00+0800",
            "vehicle": f"n{8 + 7 * (number % 2):03d}",
            "date_captured": f"2018-07-{1 + number % 28:02d}",
            "location": "singapore-onenorth",
        }
        for number, token in enumerate(_tokens(generator, -(-size.scenes // 12)))
    ]
    named = {"category": categories, "attribute": ATTRIBUTES}
    tables: dict[str, list[Row]] = {
        table: [
            {"token": token, "name": name, "description": ""}
            for name, token in zip(names, _tokens(generator, len(names)), strict=True)
        ]
        for table, names in named.items()
    }
    return tables | {
        "sensor": [
            {"token": token, "channel": channel, "modality": modality.get(channel, "radar")}
            for channel, token in zip(channels, _tokens(generator, len(channels)), strict=True)
        ],
        "visibility": [{"token": str(level), "level": f"level {level}", "description": ""} for level in range(1, 5)],
        "log": logs,
        "map": [
            {
                "token": _tokens(generator, 1)[0],
                "category": "semantic_prior",
                "filename": "maps/map.png",
                "log_tokens": [log["token"] for log in logs],
            }
        ],
    }


def _write_scene(
    tables: dict[str, _Table],
    generator: np.random.Generator,
    fixed: dict[str, list[Row]],
    number: int,
    size: TablesSize,
) -> Row:
    keyframes = size.keyframes + (number % 6 == 5)
    (scene,) = _tokens(generator, 1)
    samples = _tokens(generator, keyframes)
    start_us = _START_US + number * 30_000_000
    for index, (token, previous, following) in enumerate(_chain(samples)):
        tables["sample"].add(
            f'\n"token": "{token}",\n"timestamp": {start_us + index * _KEYFRAME_PERIOD_US},\n"prev": "{previous}",'
            f'\n"next": "{following}",\n"scene_token": "{scene}"\n'
        )
    log = fixed["log"][number // 12]
    for sensor in fixed["sensor"]:
        rate = _SWEEPS[sensor["channel"]] if size.sensors else 1.0
        _write_channel(tables, generator, sensor, str(log["logfile"]), samples, start_us, rate)
    _write_tracks(tables, generator, fixed, samples, size.annotations)
    return {
        "token": scene,
        "log_token": log["token"],
        "nbr_samples": keyframes,
        "first_sample_token": samples[0],
        "last_sample_token": samples[-1],
        "name": f"scene-{number + 1:04d}",
        "description": "nothing but tables",
    }


def _chain(tokens: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each token with its prev and its next."""
    return zip(tokens, ["", *tokens[:-1]], [*tokens[1:], ""], strict=True)


def _write_channel(
    tables: dict[str, _Table],
    generator: np.random.Generator,
    sensor: Row,
    log: str,
    samples: list[str],
    start_us: int,
    sweeps: float,
) -> None:
    """One channel of one scene: a calibration, and a record and a pose for each sweep and keyframe.

    `sweeps`: records from one keyframe to the next.
    """
    channel, camera = str(sensor["channel"]), sensor["modality"] == "camera"
    (calibration,) = _tokens(generator, 1)
    intrinsics = [[1266.417203046554, 0.0, 816.2670197447984], [0.0, 1266.417203046554, 491.50706579294757], [0, 0, 1]]
    tables["calibrated_sensor"].add(
        f'\n"token": "{calibration}",\n"sensor_token": "{sensor["token"]}",'
        f'\n"translation": {_numbers(generator.normal(size=3))},\n"rotation": {_numbers(_rotations(generator, 1)[0])},'
        f'\n"camera_intrinsic": {json.dumps(intrinsics if camera else [], indent=0)}\n'
    )
    count = round((len(samples) - 1) * sweeps) + 1
    # The keyframe is the first record at or behind the sample's share of the recording.
    keyframe_at = {-(-index * (count - 1) // max(len(samples) - 1, 1)): index for index in range(len(samples))}
    tokens = _tokens(generator, count)
    times = start_us + np.linspace(0, (len(samples) - 1) * _KEYFRAME_PERIOD_US, count).astype(np.int64)
    steps = generator.uniform(0, 2 * _DRIVEN * len(samples) / count, (count, 2))
    positions = 1000.0 + np.concatenate([np.cumsum(steps, axis=0), np.zeros((count, 1))], axis=1)
    rotations = _rotations(generator, count)
    height, width = (900, 1600) if camera else (0, 0)
    sample = 0
    for index, (token, previous, following) in enumerate(_chain(tokens)):
        is_keyframe = index in keyframe_at
        sample = keyframe_at.get(index, sample)
        folder = "samples" if is_keyframe else "sweeps"
        tables["sample_data"].add(
            f'\n"token": "{token}",\n"sample_token": "{samples[sample]}",\n"ego_pose_token": "{token}",'
            f'\n"calibrated_sensor_token": "{calibration}",\n"timestamp": {times[index]},'
            f'\n"fileformat": "{_SUFFIX[channel].rpartition(".")[2]}",\n"is_key_frame": {str(is_keyframe).lower()},'
            f'\n"height": {height},\n"width": {width},'
            f'\n"filename": "{folder}/{channel}/{log}__{channel}__{times[index]}.{_SUFFIX[channel]}",'
            f'\n"prev": "{previous}",\n"next": "{following}"\n'
        )
        tables["ego_pose"].add(
            f'\n"token": "{token}",\n"timestamp": {times[index]},\n"rotation": {_numbers(rotations[index])},'
            f'\n"translation": {_numbers(positions[index])}\n'
        )


def _write_tracks(
    tables: dict[str, _Table],
    generator: np.random.Generator,
    fixed: dict[str, list[Row]],
    samples: list[str],
    annotations: int,
) -> None:
    """Objects of one scene, each seen in a run of keyframes, until there are as many annotations as wanted."""
    missing = generator.poisson(annotations * len(samples))
    while missing > 0:
        length = int(min(generator.integers(1, len(samples) + 1), missing))
        missing -= length
        first = int(generator.integers(len(samples) - length + 1))
        (instance,) = _tokens(generator, 1)
        tokens = _tokens(generator, length)
        category = fixed["category"][generator.integers(len(fixed["category"]))]
        attribute = fixed["attribute"][generator.integers(len(fixed["attribute"]))]
        attributes = f'[\n"{attribute["token"]}"\n]' if generator.random() < 0.9 else "[]"
        tables["instance"].add(
            f'\n"token": "{instance}",\n"category_token": "{category["token"]}",\n"nbr_annotations": {length},'
            f'\n"first_annotation_token": "{tokens[0]}",\n"last_annotation_token": "{tokens[-1]}"\n'
        )
        sizes = _numbers(np.round(generator.uniform(0.4, 5.0, 3), 3))
        start = 1000 + generator.uniform(0, _DRIVEN * len(samples)) + generator.uniform(-_BESIDE, _BESIDE, 3)
        positions = np.round(start + np.cumsum(generator.normal(size=(length, 3)), axis=0), 3)
        rotations = _rotations(generator, length)
        points = generator.integers(0, 300, length)
        for index, (token, previous, following) in enumerate(_chain(tokens)):
            tables["sample_annotation"].add(
                f'\n"token": "{token}",\n"sample_token": "{samples[first + index]}",\n"instance_token": "{instance}",'
                f'\n"visibility_token": "{1 + points[index] % 4}",\n"attribute_tokens": {attributes},'
                f'\n"translation": {_numbers(positions[index])},\n"size": {sizes},'
                f'\n"rotation": {_numbers(rotations[index])},\n"prev": "{previous}",\n"next": "{following}",'
                f'\n"num_lidar_pts": {points[index]},\n"num_radar_pts": {points[index] // 100}\n'
            )


def _rotations(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Turns about z as unit quaternions (count, 4), w x y z."""
    half = generator.uniform(-np.pi, np.pi, count) / 2
    return np.stack([np.cos(half), np.zeros(count), np.zeros(count), np.sin(half)], axis=1)


def _numbers(values: NDArray[np.float64]) -> str:
    return "[\n" + ",\n".join(map(repr, values.tolist())) + "\n]"
