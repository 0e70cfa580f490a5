"""Small nuScenes tables with every oddity that they may have and still be right, drawn by hypothesis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

Row = dict[str, Any]
Tables = dict[str, list[Row]]
START_US = 1_533_000_000_000_000
CHANNELS = {"CAM_FRONT": "camera", "CAM_BACK": "camera", "LIDAR_TOP": "lidar", "RADAR_FRONT": "radar", "IMU": "imu"}
CATEGORIES = ("vehicle.car", "human.pedestrian.adult", "animal")
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "vehicle.flying")
_TEXT = st.text(st.characters(exclude_categories=()), min_size=1, max_size=5)  # halves of surrogate pairs, too
_TOKEN_STYLES: tuple[st.SearchStrategy[str], ...] = (
    st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"),
    st.integers(0, 300).map(lambda number: f"{number:032x}"),
    st.integers(0, 2**128 - 1).map(lambda number: f"{number:032X}"),
    _TEXT,
    st.sampled_from([" ", "0" * 32, "0" * 31, "a\0", "a", "\0", "Straße", "🚗", "ab" * 16, "AB" * 16]),
)


@st.composite
def odd_tables(draw: st.DrawFn) -> Tables:
    """All thirteen tables of one to three scenes."""
    style = st.one_of(*draw(st.sets(st.sampled_from(_TOKEN_STYLES), min_size=1)))
    used: set[str] = set()

    def token() -> str:
        new = draw(style.filter(lambda text: text not in used))
        used.add(new)
        return new

    channels = draw(st.sets(st.sampled_from(sorted(CHANNELS)), min_size=1))
    tables: Tables = {
        "sensor": [{"token": token(), "channel": name, "modality": CHANNELS[name]} for name in channels],
        "category": [{"token": token(), "name": name, "description": ""} for name in CATEGORIES],
        "attribute": [{"token": token(), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [{"token": token(), "level": level, "description": ""} for level in ("v0-40", "v80-100")],
        "log": [{"token": token(), "location": "x"}],
    } | {name: [] for name in ("calibrated_sensor", "ego_pose", "scene", "sample", "sample_data", "instance")}
    tables["map"] = [{"token": token(), "log_tokens": [tables["log"][0]["token"]], "filename": "map.png"}]
    tables["sample_annotation"] = []
    for number in range(draw(st.integers(1, 3))):
        _add_scene(draw, token, tables, number)
    for name, rows in tables.items():
        tables[name] = draw(st.permutations(rows)) if len(rows) < 30 else rows[::-1]
    if draw(st.booleans()):  # a record may be there twice
        tables["sample_data"].append(dict(tables["sample_data"][0]))
    return tables


def write_odd_tables(root: Path, tables: Tables, version: str = "v1.0-mini") -> None:
    """Write the tables, and what the devkit wants beside them."""
    (root / version).mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    cv2.imwrite(str(root / "map.png"), np.zeros((4, 4), np.uint8))


def _add_scene(draw: st.DrawFn, token: Callable[[], str], tables: Tables, number: int) -> None:
    scene, keyframes = token(), draw(st.integers(1, 4))
    samples = [token() for _ in range(keyframes)]
    # Steps of 0.1 s to 2 s: velocities over more than 1.5 s, or 3 s, are unknown.
    steps = [draw(st.integers(100_000, 2_000_000)) for _ in samples]
    times = [START_US + number * 100_000_000 + int(time) for time in np.cumsum(steps)]
    tables["scene"].append(
        {
            "token": scene,
            "name": f"scene-{9 - number} {draw(st.sampled_from(['', 'Zürich', '東京']))}",
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "log_token": tables["log"][0]["token"],
        }
    )
    for index, sample in enumerate(samples):
        tables["sample"].append(
            {"token": sample, "timestamp": times[index], "scene_token": scene} | _links(samples, index)
        )
    seen: set[int] = set()
    for sensor in tables["sensor"]:
        seen |= _add_channel(draw, token, tables, sensor, samples, times, seen)
    for _ in range(draw(st.integers(0, 3))):
        _add_track(draw, token, tables, samples)


def _links(tokens: list[str], index: int) -> Row:
    return {"prev": tokens[index - 1] if index else "", "next": [*tokens, ""][index + 1]}


def _pose(draw: st.DrawFn) -> Row:
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(3)] + [1.0])
    return {
        "translation": [draw(st.floats(-5e3, 5e3)) for _ in range(3)],
        "rotation": draw(st.sampled_from([(quaternion / np.linalg.norm(quaternion)).tolist(), [1, 0, 0, 0]])),
    }


def _add_channel(
    draw: st.DrawFn,
    token: Callable[[], str],
    tables: Tables,
    sensor: Row,
    samples: list[str],
    times: list[int],
    seen: set[int],
) -> set[int]:
    """Records of one channel, in chains or without links; the last channel takes the samples that none has seen."""
    camera, last = sensor["modality"] == "camera", sensor is tables["sensor"][-1]
    intrinsics = [[draw(st.floats(1, 2000)), 0, 800.5], [0, 1000, 450], [0, 0, 1]] if camera else []
    calibration = {"token": token(), "sensor_token": sensor["token"], "camera_intrinsic": intrinsics} | _pose(draw)
    tables["calibrated_sensor"].append(calibration)
    keyframes = {index for index in range(len(samples)) if draw(st.booleans()) or (last and index not in seen)}
    records = []
    for index, sample in enumerate(samples):
        for before in range(draw(st.integers(0, 2)) if index else 0, -1, -1):
            if before == 0 and index not in keyframes:
                continue
            time = times[index] - before * 20_000 + draw(st.integers(-9_000, 9_000))
            if draw(st.booleans()) and tables["ego_pose"]:  # sensors may share a pose
                pose = draw(st.sampled_from(tables["ego_pose"]))
            else:
                pose = {"token": token(), "timestamp": time} | _pose(draw)
                tables["ego_pose"].append(pose)
            name = draw(st.sampled_from([f"sweeps/{time}.x", f"a/{time}/{time}", f"ü {{}} {index}.jpg", "a}, {b"]))
            records.append(
                {
                    "token": token(),
                    "sample_token": sample,
                    "ego_pose_token": pose["token"],
                    "calibrated_sensor_token": calibration["token"],
                    "timestamp": time,
                    "is_key_frame": before == 0,
                    "filename": name,
                }
                | ({"width": 1600, "height": 900} if camera else draw(st.sampled_from([{}, {"width": None}])))
            )
    tokens, linked = [record["token"] for record in records], draw(st.booleans())
    for index, record in enumerate(records):
        tables["sample_data"].append(record | (_links(tokens, index) if linked else {"prev": "", "next": ""}))
    return keyframes


def _add_track(draw: st.DrawFn, token: Callable[[], str], tables: Tables, samples: list[str]) -> None:
    instance = token()
    category = draw(st.sampled_from(tables["category"]))
    seen = [sample for sample in samples if draw(st.booleans())]  # with gaps
    tokens = [token() for _ in seen]
    tables["instance"].append({"token": instance, "category_token": category["token"], "nbr_annotations": len(seen)})
    visibilities = [{}, {"visibility_token": ""}, {"visibility_token": tables["visibility"][0]["token"]}]
    for index, sample in enumerate(seen):
        attributes = draw(st.lists(st.sampled_from(tables["attribute"]), max_size=3))
        tables["sample_annotation"].append(
            {
                "token": tokens[index],
                "sample_token": sample,
                "instance_token": instance,
                "attribute_tokens": [attribute["token"] for attribute in attributes],
                "size": [draw(st.floats(0.1, 20)) for _ in range(3)],
                "num_lidar_pts": draw(st.integers(0, 2**63 - 1)),
                "num_radar_pts": draw(st.integers(0, 10)),
            }
            | draw(st.sampled_from(visibilities))
            | _links(tokens, index)
            | _pose(draw)
        )
