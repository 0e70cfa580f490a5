"""A tiny but complete nuScenes dataset, written to disk for tests.

The vehicle drives a gentle left curve at constant speed; around it stand or move ten objects, one of each detection
class, each with exactly five LiDAR points inside its box in every sweep. Everything is computed here with plain NumPy,
independently of the code under test.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SPEED, YAW_RATE = 5.0, 0.1
KEYFRAME_PERIOD_US, SWEEP_PERIOD_US = 500_000, 100_000
WIDTH, HEIGHT = 160, 90
START_US = 1_533_000_000_000_000
_RADAR_TYPES = (
    [(name, "<f4") for name in ("x", "y", "z")]
    + [("dyn_prop", "i1"), ("id", "<i2")]
    + [(name, "<f4") for name in ("rcs", "vx", "vy", "vx_comp", "vy_comp")]
    + [
        (name, "i1")
        for name in (
            "is_quality_valid", "ambig_state", "x_rms", "y_rms", "invalid_state", "pdh0", "vx_rms", "vy_rms",
        )
    ]
)  # fmt: skip

RADAR_HEADER_FIELDS = " ".join(name for name, _ in _RADAR_TYPES)

# Channel -> mounting: yaw (degrees), position in ego (metres), delay of its stamps behind the keyframe (us).
_CAMERAS = {
    "CAM_FRONT": (0, (1.7, 0.0, 1.5), -35_000),
    "CAM_FRONT_RIGHT": (-55, (1.5, -0.5, 1.5), -28_000),
    "CAM_FRONT_LEFT": (55, (1.5, 0.5, 1.5), -43_000),
    "CAM_BACK": (180, (0.0, 0.0, 1.6), -10_000),
    "CAM_BACK_LEFT": (110, (1.0, 0.5, 1.6), -5_000),
    "CAM_BACK_RIGHT": (-110, (1.0, -0.5, 1.6), -20_000),
}
_RADARS = {
    "RADAR_FRONT": (0, (3.4, 0.0, 0.5), 7_000),
    "RADAR_FRONT_LEFT": (90, (2.4, 0.8, 0.8), -9_000),
    "RADAR_FRONT_RIGHT": (-90, (2.4, -0.8, 0.8), 3_000),
    "RADAR_BACK_LEFT": (175, (-0.6, 0.6, 0.5), 11_000),
    "RADAR_BACK_RIGHT": (-175, (-0.6, -0.6, 0.5), -2_000),
}
_LIDAR = {"LIDAR_TOP": (-90, (0.94, 0.0, 1.84), 0)}

# Category, attribute, (width, length, height), speed along its heading.
OBJECTS: tuple[tuple[str, str, tuple[float, float, float], float], ...] = (
    ("vehicle.car", "vehicle.moving", (1.9, 4.6, 1.7), 3.0),
    ("vehicle.truck", "vehicle.moving", (2.5, 7.0, 2.8), 2.0),
    ("vehicle.construction", "vehicle.parked", (2.7, 6.0, 3.2), 0.0),
    ("vehicle.bus.rigid", "vehicle.stopped", (2.9, 11.0, 3.5), 0.0),
    ("vehicle.trailer", "vehicle.parked", (2.9, 9.0, 3.8), 0.0),
    ("movable_object.barrier", "", (2.5, 0.5, 1.0), 0.0),
    ("vehicle.motorcycle", "cycle.with_rider", (0.8, 2.1, 1.5), 4.0),
    ("vehicle.bicycle", "cycle.without_rider", (0.6, 1.7, 1.3), 0.0),
    ("human.pedestrian.adult", "pedestrian.moving", (0.7, 0.7, 1.8), 1.2),
    ("movable_object.trafficcone", "", (0.4, 0.4, 1.0), 0.0),
)

Matrix = NDArray[np.float64]
Row = dict[str, Any]


def write_dataset(
    root: Path,
    scene_names: Sequence[str] = ("scene-0061", "scene-0103"),
    version: str = "v1.0-mini",
    keyframes: int = 3,
    can_bus: bool = False,
) -> None:
    """Write a dataset of one object of each class around the vehicle, all twelve channels, sweeps in between.

    The default scenes are one of the official split mini_train and one of mini_val. `can_bus` adds
    `can_bus/<scene>_pose.json` (50 Hz) and `<scene>_gps.json` (10 Hz).
    """
    tables = _fixed_tables(scene_names)
    for index, name in enumerate(scene_names):
        _add_scene(root, tables, index, name, keyframes)
        if can_bus:
            _write_can_bus(root, index, name, keyframes)
    folder = root / version
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        (folder / f"{table}.json").write_text(json.dumps(rows, indent=0))
    (root / "maps").mkdir(exist_ok=True)
    cv2.imwrite(str(root / "maps" / "map.png"), np.zeros((4, 4), np.uint8))


def read_table(root: Path, table: str, version: str = "v1.0-mini") -> list[Row]:
    """The records of a table, to change them."""
    rows: list[Row] = json.loads((root / version / f"{table}.json").read_text())
    return rows


def write_table(root: Path, table: str, rows: Any, version: str = "v1.0-mini") -> None:
    """Write a changed table back."""
    (root / version / f"{table}.json").write_text(json.dumps(rows))


def write_radar(path: Path, points: Matrix, header: dict[str, str] | None = None) -> None:
    """A radar file with points (P, 18) as nuScenes writes it; `header` replaces lines of the header."""
    records = np.zeros(len(points), dtype=_RADAR_TYPES)
    for column, (name, _) in enumerate(_RADAR_TYPES):
        records[name] = points[:, column]
    lines = {
        "VERSION": "0.7",
        "FIELDS": RADAR_HEADER_FIELDS,
        "SIZE": "4 4 4 1 2 4 4 4 4 4 1 1 1 1 1 1 1 1",
        "TYPE": "F F F I I F F F F F I I I I I I I I",
        "COUNT": " ".join(["1"] * 18),
        "WIDTH": str(len(points)),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(len(points)),
        "DATA": "binary",
    } | (header or {})
    text = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{key} {value}\n" for key, value in lines.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    # nuScenes' own files end with a line feed behind the points.
    path.write_bytes(text.encode() + records.tobytes() + b"\n")


def true_pose(scene_index: int, seconds: float) -> Matrix:
    """global_from_ego of a scene, `seconds` after its first keyframe: a circle driven at constant speed."""
    start_yaw, radius = 0.3 + scene_index, SPEED / YAW_RATE
    yaw = start_yaw + YAW_RATE * seconds
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[0, 3] = 600.0 + radius * (math.sin(yaw) - math.sin(start_yaw))
    pose[1, 3] = 1600.0 - radius * (math.cos(yaw) - math.cos(start_yaw))
    return pose


def true_object(scene_index: int, number: int, seconds: float) -> tuple[Matrix, float]:
    """Centre in global (3) and yaw of one object: it starts 16 m from the vehicle and drives straight on."""
    _, _, size, speed = OBJECTS[number]
    angle = 2 * math.pi * number / len(OBJECTS)
    start = true_pose(scene_index, 0.0) @ [3 + 16 * math.cos(angle), 16 * math.sin(angle), size[2] / 2, 1.0]
    yaw = 0.7 * number - 2.0
    heading = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    return start[:3] + speed * seconds * heading, yaw


def _fixed_tables(scene_names: Sequence[str]) -> dict[str, list[Row]]:
    modalities = {"camera": _CAMERAS, "lidar": _LIDAR, "radar": _RADARS}
    tables: dict[str, list[Row]] = {
        "visibility": [{"token": "4", "level": "v80-100", "description": "visible"}],
        "log": [
            {
                "token": f"log-{name}",
                "logfile": f"n000-{name}",
                "vehicle": "n000",
                "date_captured": "2018-08-01",
                "location": "boston-seaport",
            }
            for name in scene_names
        ],
        "map": [
            {
                "token": "map",
                "category": "semantic_prior",
                "filename": "maps/map.png",
                "log_tokens": [f"log-{name}" for name in scene_names],
            }
        ],
        "category": [{"token": f"category-{c}", "name": c, "description": ""} for c, _, _, _ in OBJECTS],
        "attribute": [
            {"token": f"attribute-{name}", "name": name, "description": ""}
            for name in sorted({attribute for _, attribute, _, _ in OBJECTS if attribute})
        ],
        "sensor": [],
        "calibrated_sensor": [],
    }
    for modality, mounts in modalities.items():
        for channel, (yaw, position, _) in mounts.items():
            tables["sensor"].append({"token": f"sensor-{channel}", "channel": channel, "modality": modality})
            for name in scene_names:
                tables["calibrated_sensor"].append(
                    {
                        "token": f"{name}-calibration-{channel}",
                        "sensor_token": f"sensor-{channel}",
                        "translation": list(position),
                        "rotation": _mount_quaternion(modality, yaw),
                        "camera_intrinsic": [[126.6, 0, 79.5], [0, 126.6, 44.5], [0, 0, 1]]
                        if modality == "camera"
                        else [],
                    }
                )
    return tables | {
        name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")
    }


def _mount_quaternion(modality: str, yaw_degrees: float) -> list[float]:
    half = math.radians(yaw_degrees) / 2
    turn = (math.cos(half), 0.0, 0.0, math.sin(half))
    if modality != "camera":
        return list(turn)
    # ego_from_cam of a camera that looks along ego x: quaternion (0.5, -0.5, 0.5, -0.5), then the turn.
    w, _, _, z = turn
    return [0.5 * (w + z), 0.5 * (-w - z), 0.5 * (w - z), 0.5 * (-w + z)]


def _add_scene(root: Path, tables: dict[str, list[Row]], scene_index: int, name: str, keyframes: int) -> None:
    tokens = [f"{name}-sample-{number}" for number in range(keyframes)]
    start_us = START_US + scene_index * 1_000_000_000
    for number, token in enumerate(tokens):
        tables["sample"].append(
            {
                "token": token,
                "timestamp": start_us + number * KEYFRAME_PERIOD_US,
                "scene_token": name + "-token",
                "prev": tokens[number - 1] if number else "",
                "next": tokens[number + 1] if number + 1 < keyframes else "",
            }
        )
    tables["scene"].append(
        {
            "token": name + "-token",
            "name": name,
            "description": "a curve",
            "log_token": f"log-{name}",
            "nbr_samples": keyframes,
            "first_sample_token": tokens[0],
            "last_sample_token": tokens[-1],
        }
    )
    for channel in (*_LIDAR, *_CAMERAS, *_RADARS):
        _add_channel(root, tables, scene_index, name, channel, tokens)
    for number in range(len(OBJECTS)):
        _add_track(tables, scene_index, name, number, tokens)


def _add_channel(
    root: Path, tables: dict[str, list[Row]], scene_index: int, scene: str, channel: str, tokens: list[str]
) -> None:
    """All records and files of one channel: keyframes, and for LiDAR and radars four sweeps between two of them."""
    _, _, delay = (_LIDAR | _CAMERAS | _RADARS)[channel]
    per_keyframe = 1 if channel in _CAMERAS else KEYFRAME_PERIOD_US // SWEEP_PERIOD_US
    count = (len(tokens) - 1) * per_keyframe + 1
    names = [f"{scene}-{channel}-{number}" for number in range(count)]
    suffix = "jpg" if channel in _CAMERAS else "pcd.bin" if channel in _LIDAR else "pcd"
    for number, token in enumerate(names):
        is_key = number % per_keyframe == 0
        offset_us = number * (KEYFRAME_PERIOD_US // per_keyframe) + delay
        time_us = START_US + scene_index * 1_000_000_000 + offset_us
        filename = f"{'samples' if is_key else 'sweeps'}/{channel}/{scene}__{channel}__{time_us}.{suffix}"
        pose = true_pose(scene_index, offset_us * 1e-6)
        _write_sensor_file(root / filename, channel, scene_index, offset_us * 1e-6)
        yaw = math.atan2(pose[1, 0], pose[0, 0])
        tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": time_us,
                "translation": pose[:3, 3].tolist(),
                "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
            }
        )
        tables["sample_data"].append(
            {
                "token": token,
                # A sweep belongs to the keyframe that follows it.
                "sample_token": tokens[-(-number // per_keyframe)],
                "ego_pose_token": token,
                "calibrated_sensor_token": f"{scene}-calibration-{channel}",
                "timestamp": time_us,
                "fileformat": suffix,
                "is_key_frame": is_key,
                "height": HEIGHT if channel in _CAMERAS else 0,
                "width": WIDTH if channel in _CAMERAS else 0,
                "filename": filename,
                "prev": names[number - 1] if number else "",
                "next": names[number + 1] if number + 1 < count else "",
            }
        )


def _add_track(tables: dict[str, list[Row]], scene_index: int, scene: str, number: int, tokens: list[str]) -> None:
    category, attribute, size, _ = OBJECTS[number]
    instance = f"{scene}-instance-{number}"
    names = [f"{instance}-{keyframe}" for keyframe in range(len(tokens))]
    tables["instance"].append(
        {
            "token": instance,
            "category_token": f"category-{category}",
            "nbr_annotations": len(names),
            "first_annotation_token": names[0],
            "last_annotation_token": names[-1],
        }
    )
    for keyframe, token in enumerate(names):
        center, yaw = true_object(scene_index, number, keyframe * KEYFRAME_PERIOD_US * 1e-6)
        tables["sample_annotation"].append(
            {
                "token": token,
                "sample_token": tokens[keyframe],
                "instance_token": instance,
                "visibility_token": "4",
                "attribute_tokens": [f"attribute-{attribute}"] if attribute else [],
                "translation": center.tolist(),
                "size": list(size),
                "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                "prev": names[keyframe - 1] if keyframe else "",
                "next": names[keyframe + 1] if keyframe + 1 < len(names) else "",
                "num_lidar_pts": 5,
                "num_radar_pts": 0,
            }
        )


def _write_sensor_file(path: Path, channel: str, scene_index: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if channel in _CAMERAS:
        shade = np.linspace(0, 200, WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, axis=0)
        hue = np.full_like(shade, 20 + 30 * list(_CAMERAS).index(channel))
        bottom = np.where(np.arange(HEIGHT)[:, None] > HEIGHT // 2, 40, 220).astype(np.uint8).repeat(WIDTH, axis=1)
        path.write_bytes(cv2.imencode(".jpg", np.stack([bottom, hue, shade], axis=-1))[1].tobytes())
    elif channel in _LIDAR:
        points = _to_sensor(channel, scene_index, seconds, _object_points(scene_index, seconds))
        columns = np.zeros((len(points), 5), dtype="<f4")
        columns[:, :3], columns[:, 3], columns[:, 4] = points, 50.0, np.arange(len(points)) % 32
        path.write_bytes(columns.tobytes())
    else:
        write_radar(path, _radar_points(channel, scene_index, seconds))


def _object_points(scene_index: int, seconds: float) -> Matrix:
    """Five points in each object's box and a ring of ground, which lies 0.2 m below the boxes; global (P, 3)."""
    pose = true_pose(scene_index, seconds)
    angles = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    ground_ego = np.stack([12 * np.cos(angles), 12 * np.sin(angles), np.full(200, -0.2)], axis=1)
    clouds = [ground_ego @ pose[:3, :3].T + pose[:3, 3]]
    for number, (_, _, (width, length, height), _) in enumerate(OBJECTS):
        center, yaw = true_object(scene_index, number, seconds)
        inside = np.array([[0, 0, 0], [0.4, 0, 0], [-0.4, 0, 0.3], [0, 0.4, -0.3], [0, -0.4, 0.4]])
        inside = inside * [length, width, height]
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        clouds.append(inside @ turn.T + center)
    return np.concatenate(clouds)


def _to_sensor(channel: str, scene_index: int, seconds: float, points_global: Matrix) -> Matrix:
    yaw, position, _ = (_LIDAR | _RADARS)[channel]
    pose = true_pose(scene_index, seconds)
    points_ego = (points_global - pose[:3, 3]) @ pose[:3, :3]
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return (points_ego - position) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _radar_points(channel: str, scene_index: int, seconds: float) -> Matrix:
    """One return of each object in front of the radar, with its radial velocity over ground."""
    rows = []
    for number in range(len(OBJECTS)):
        center, yaw = true_object(scene_index, number, seconds)
        tip = center + np.array([math.cos(yaw), math.sin(yaw), 0.0])
        here, there = _to_sensor(channel, scene_index, seconds, np.stack([center, tip]))
        if here[0] <= 0:
            continue
        sight = here[:2] / np.linalg.norm(here[:2])
        radial = (there - here)[:2] @ sight * OBJECTS[number][3] * sight
        row = np.zeros(18)
        row[:3], row[4], row[5], row[8:10] = (here[0], here[1], 0.0), number, 10.0 + number, radial
        row[10:18] = [1, 3, 19, 19, 0, 1, 16, 3]
        rows.append(row)
    return np.array(rows).reshape(-1, 18)


def _write_can_bus(root: Path, scene_index: int, scene: str, keyframes: int) -> None:
    start_us, duration_us = START_US + scene_index * 1_000_000_000, (keyframes - 1) * KEYFRAME_PERIOD_US
    poses, fixes = [], []
    for offset_us in range(-50_000, duration_us + 50_000, 20_000):
        pose = true_pose(scene_index, offset_us * 1e-6)
        yaw = math.atan2(pose[1, 0], pose[0, 0])
        poses.append(
            {
                "utime": start_us + offset_us,
                "pos": pose[:3, 3].tolist(),
                "orientation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                "vel": [SPEED, 0.0, 0.0],
                "accel": [0.0, SPEED * YAW_RATE, 9.81],
                "rotation_rate": [0.0, 0.0, YAW_RATE],
            }
        )
        if offset_us % 100_000 == 50_000:
            position = {"latitude": 42.3 + pose[1, 3] / 111_000, "longitude": -71.0 + pose[0, 3] / 82_000}
            fixes.append({"utime": start_us + offset_us, **position, "altitude": 12.0})
    folder = root / "can_bus"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{scene}_pose.json").write_text(json.dumps(poses))
    (folder / f"{scene}_gps.json").write_text(json.dumps(fixes))
