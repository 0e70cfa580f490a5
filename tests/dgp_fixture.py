"""Small scenes in DGP's format: one LiDAR, one car ahead of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = ["X", "Y", "Z", "INTENSITY"]


def write_dgp(root: Path, splits: dict[str, list[str]]) -> Path:
    """The file of a DGP dataset that lists the scenes' files by their split's number ("0": train, "1": val)."""
    root.mkdir(exist_ok=True)
    content = {"scene_splits": {key: {"filenames": files} for key, files in splits.items()}}
    (root / "scene_dataset_v1.0.json").write_text(json.dumps(content))
    return root


def write_dgp_scene(root: Path, file: str, key: str, *, samples: int = 3, car_length: float = 4.0) -> Path:
    """A scene of samples 0.1 s apart whose data are called `{key}-{number}`; returns the scene's own file."""
    path = root / file
    folder = path.parent
    for name in ("calibration", "ontology", "clouds", "boxes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    calibration = {"names": ["LIDAR"], "extrinsics": [_pose()], "intrinsics": [dict.fromkeys(_INTRINSICS, 0.0)]}
    (folder / "calibration" / "car.json").write_text(json.dumps(calibration))
    (folder / "ontology" / "classes.json").write_text(json.dumps({"items": [{"id": 1, "name": "Car"}]}))
    data, listed = [], []
    for number in range(samples):
        name, stamp = f"{key}-{number}", {"timestamp": f"2020-01-01T00:00:{number / 10:09.6f}Z"}
        points = np.linspace(0, 1, 64 * 4, dtype=np.float32).reshape(64, 4)
        np.savez_compressed(folder / "clouds" / f"{name}.npz", data=points)
        (folder / "boxes" / f"{name}.json").write_text(json.dumps({"annotations": [_box(number, car_length)]}))
        cloud = {
            "filename": f"clouds/{name}.npz",
            "point_format": _FORMAT,
            "pose": _pose(),
            "annotations": {"1": f"boxes/{name}.json"},
        }
        data.append({"key": name, "id": {"name": "LIDAR"} | stamp, "datum": {"point_cloud": cloud}})
        listed.append({"calibration_key": "car", "id": stamp, "datum_keys": [name]})
    path.write_text(json.dumps({"data": data, "samples": listed, "ontologies": {"1": "classes"}}))
    return path


_INTRINSICS = ("fx", "fy", "cx", "cy", "skew")


def _pose(x: float = 0.0) -> dict[str, Any]:
    turn, place = {"qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0}, {"x": x, "y": 0.0, "z": 0.0}
    return {"rotation": turn, "translation": place}


def _box(number: int, length: float) -> dict[str, Any]:
    """The car at a sample: it drives one metre from each to the next."""
    box = {"width": 2.0, "length": length, "height": 1.5, "pose": _pose(10.0 + number)}
    return {"class_id": 1, "instance_id": 5, "num_points": 7, "box": box}
