"""Tables of tracked objects without any sensor file, and tracking results with every kind of mistake, for tests.

Written with plain NumPy and JSON, independently of the code under test. Objects come and go, pass out of range, lose
all their points for a while, stand in bicycle racks, and stand on the same spot as others.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
START_US = 1_533_000_000_000_000
CATEGORIES = {
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "vehicle.construction": None,
    "static_object.bicycle_rack": None,
}
SIZES = {"bus": (2.9, 11.0, 3.5), "pedestrian": (0.7, 0.7, 1.8), "truck": (2.5, 7.0, 2.8), None: (6.0, 6.0, 3.0)}
VERSION = "v1.0-mini"


def write_tables(
    root: Path,
    seed: int,
    scenes: int = 2,
    keyframes: int = 12,
    objects: int = 12,
    categories: tuple[str, ...] = tuple(CATEGORIES),
) -> None:
    """A dataset of tables; the first scene names are those of the official split mini_val."""
    random = np.random.default_rng(seed)
    tables = _fixed_tables()
    for number in range(scenes):
        _add_scene(tables, random, number, keyframes, objects, categories)
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (root / "maps").mkdir(exist_ok=True)
    (root / "maps" / "map.png").touch()


def _fixed_tables() -> dict[str, list[Row]]:
    empty = ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation", "log")
    return {
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "category": [{"token": f"category-{name}", "name": name, "description": ""} for name in CATEGORIES],
        "attribute": [],
        "sensor": [{"token": "sensor", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "calibration",
                "sensor_token": "sensor",
                "translation": [0.9, 0.0, 1.8],
                "rotation": [1.0, 0.0, 0.0, 0.0],
                "camera_intrinsic": [],
            }
        ],
        "map": [{"token": "map", "category": "", "filename": "maps/map.png", "log_tokens": []}],
    } | {name: [] for name in empty}


def _add_scene(
    tables: dict[str, list[Row]],
    random: np.random.Generator,
    number: int,
    keyframes: int,
    objects: int,
    categories: tuple[str, ...],
) -> None:
    name = ("scene-0103", "scene-0916", "scene-0061", "scene-0553")[number]
    # Keyframes are about half a second apart: 0.45 to 0.55.
    times = START_US + number * 10**9 + np.cumsum(random.integers(450_000, 550_000, keyframes))
    tokens = [f"{name}-sample-{row:03d}" for row in range(keyframes)]
    log = {"token": f"{name}-log", "logfile": name, "vehicle": "n", "date_captured": "2018-08-01"}
    tables["log"].append(log | {"location": "boston-seaport"})
    tables["map"][0]["log_tokens"].append(f"{name}-log")
    tables["scene"].append(
        {
            "token": f"{name}-token",
            "name": name,
            "description": "",
            "log_token": f"{name}-log",
            "nbr_samples": keyframes,
            "first_sample_token": tokens[0],
            "last_sample_token": tokens[-1],
        }
    )
    ego = np.array([600.0, 1600.0, 0.0]) + np.outer(np.arange(keyframes), [3.0, 1.0, 0.0])
    for row, token in enumerate(tokens):
        before, after = tokens[row - 1] if row else "", [*tokens, ""][row + 1]
        linked = {"prev": before, "next": after}
        time = int(times[row])
        tables["sample"].append({"token": token, "timestamp": time, "scene_token": f"{name}-token"} | linked)
        pose = {"translation": ego[row].tolist(), "rotation": [1.0, 0.0, 0.0, 0.0]}
        tables["ego_pose"].append({"token": f"data-{token}", "timestamp": time} | pose)
        tables["sample_data"].append(
            {
                "token": f"data-{token}",
                "sample_token": token,
                "ego_pose_token": f"data-{token}",
                "calibrated_sensor_token": "calibration",
                "timestamp": time,
                "fileformat": "pcd",
                "is_key_frame": True,
                "height": 0,
                "width": 0,
                "filename": f"samples/LIDAR_TOP/{token}.pcd.bin",
                "prev": f"data-{before}" if before else "",
                "next": f"data-{after}" if after else "",
            }
        )
    tracks = [_track(random, name, track, ego, tokens, categories) for track in range(objects)]
    tables["instance"] += [instance for instance, _ in tracks]
    # In any order, which the official figures depend on.
    rows = [annotation for _, annotations in tracks for annotation in annotations]
    tables["sample_annotation"] += [rows[place] for place in random.permutation(len(rows))]


def _track(
    random: np.random.Generator,
    scene: str,
    number: int,
    ego: Any,
    tokens: list[str],
    categories: tuple[str, ...],
) -> tuple[Row, list[Row]]:
    category = categories[number % len(categories)]
    first = int(random.integers(0, len(tokens) // 2))
    last = int(random.integers(first, len(tokens)))
    start = ego[first] + np.append(random.uniform(-35, 35, 2), 1.0)
    if number % 5 == 4:  # crowds, and two-wheelers in racks
        start = ego[first] + [6.0, 6.0, 1.0] + np.append(random.uniform(-2, 2, 2), 0.0)
    velocity = np.append(random.uniform(-4, 4, 2), 0.0) * (random.random() < 0.7)
    names = [f"{scene}-{number:02d}-{row:03d}" for row in range(first, last + 1)]
    instance = {
        "token": f"{scene}-instance-{number:02d}",
        "category_token": f"category-{category}",
        "nbr_annotations": len(names),
        "first_annotation_token": names[0],
        "last_annotation_token": names[-1],
    }
    yaw = random.uniform(-math.pi, math.pi)
    annotations = []
    for place, name in enumerate(names):
        annotations.append(
            {
                "token": name,
                "sample_token": tokens[first + place],
                "instance_token": instance["token"],
                "visibility_token": "4",
                "attribute_tokens": [],
                "translation": (start + velocity * place * 0.5).tolist(),
                "size": list(SIZES.get(CATEGORIES[category], (1.9, 4.6, 1.7))),
                "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                "prev": names[place - 1] if place else "",
                "next": [*names, ""][place + 1],
                "num_lidar_pts": int(random.choice([0, 1, 30], p=[0.15, 0.15, 0.7])),
                "num_radar_pts": int(random.random() < 0.2),
            }
        )
    return instance, annotations


@dataclass(frozen=True)
class Mistakes:
    """What is wrong with results. `noise`: metres; the others are shares of boxes, `strangers` boxes a frame.

    `levels`: scores are rounded to so many values, so that tracks tie; 0: they are all different.
    """

    noise: float = 0.0
    missed: float = 0.0
    renamed: float = 0.0
    swapped: float = 0.0
    doubled: float = 0.0
    strangers: float = 0.0
    other_class: float = 0.0
    no_points: float = 0.0
    levels: int = 0


def results_with(root: Path, mistakes: Mistakes, seed: int) -> Row:
    """The annotations as tracking results, with mistakes. Works on the tables of any nuScenes dataset."""
    random = np.random.default_rng(seed)
    tables = {name: read_table(root, name) for name in ("category", "instance", "sample", "sample_annotation")}
    categories = {row["token"]: row["name"] for row in tables["category"]}
    class_of = {row["token"]: _class_of(categories[row["category_token"]]) for row in tables["instance"]}
    names = {token: f"track-{place}" for place, token in enumerate(class_of)}
    scores = {token: random.random() for token in class_of}
    results: dict[str, list[Row]] = {row["token"]: [] for row in sorted(tables["sample"], key=lambda r: r["timestamp"])}
    by_sample: dict[str, list[Row]] = {token: [] for token in results}
    for row in tables["sample_annotation"]:
        if class_of[row["instance_token"]] is not None:
            by_sample[row["sample_token"]].append(row)
    for sample, annotations in by_sample.items():
        boxes = results[sample]
        for row in annotations:
            token = row["instance_token"]
            if random.random() < mistakes.renamed:
                names[token] = f"track-{len(class_of)}-{random.integers(10**9)}"
            if random.random() < mistakes.swapped:
                other = annotations[int(random.integers(len(annotations)))]["instance_token"]
                names[token], names[other] = names[other], names[token]
        for row in annotations:
            token = row["instance_token"]
            if random.random() < mistakes.missed:
                continue
            label = str(class_of[token])
            if random.random() < mistakes.other_class:
                label = str(random.choice([name for name in CATEGORIES.values() if name]))
            score = min(1.0, max(0.0, scores[token] + random.normal(0, 0.05)))
            if mistakes.levels:
                score = round(scores[token] * mistakes.levels) / mistakes.levels
            boxes.append(_box(sample, row["translation"], row, names[token], label, score))
            boxes[-1]["translation"] = (np.array(row["translation"]) + random.normal(0, 1, 3) * mistakes.noise).tolist()
            if mistakes.no_points:
                boxes[-1]["num_pts"] = 7 * int(random.random() >= mistakes.no_points)
            if random.random() < mistakes.doubled:
                boxes.append(boxes[-1] | {"tracking_id": names[token] + "-twin"})
        for _ in range(random.poisson(mistakes.strangers)):
            if annotations:
                row = annotations[int(random.integers(len(annotations)))]
                place = (np.array(row["translation"]) + np.append(random.normal(0, 3, 2), 0.0)).tolist()
                name = f"stranger-{random.integers(12)}"
                if all(box["tracking_id"] != name for box in boxes):
                    label = str(class_of[row["instance_token"]])
                    boxes.append(_box(sample, place, row, name, label, random.random() * 0.7))
    meta = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}


def _box(sample: str, place: list[float], row: Row, name: str, label: str, score: float) -> Row:
    return {
        "sample_token": sample,
        "translation": place,
        "size": row["size"],
        "rotation": row["rotation"],
        "velocity": [0.0, 0.0],
        "tracking_id": name,
        "tracking_name": label,
        "tracking_score": float(score),
    }


def _class_of(category: str) -> str | None:
    if category.startswith("human.pedestrian."):
        last = category.rpartition(".")[2]
        return "pedestrian" if last in ("adult", "child", "construction_worker", "police_officer") else None
    return CATEGORIES.get(category.replace("bendy", "rigid"))


def read_table(root: Path, name: str) -> list[Row]:
    rows: list[Row] = json.loads((root / VERSION / f"{name}.json").read_text())
    return rows
