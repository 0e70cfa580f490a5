"""What results files of detection and of tracking have in common when they are written."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE


def write_records(path: Path, records: Mapping[str, list[dict[str, Any]]], modalities: Sequence[str]) -> None:
    """Write the records of each sample token. `modalities`: what the detector used; the format has a flag for camera,
    lidar and radar.
    """
    meta = {f"use_{sensor}": sensor in modalities for sensor in ("camera", "lidar", "radar")}
    meta |= {"use_map": False, "use_external": False}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"meta": meta, "results": records}).encode())


def best_rows(boxes: Boxes3D) -> list[int]:
    """The rows that are written, best first: no more than the format allows."""
    return torch.argsort(boxes.scores, descending=True, stable=True)[:MAX_BOXES_PER_SAMPLE].tolist()


def placed_records(token: str, boxes: Boxes3D) -> list[dict[str, Any]]:
    """The fields of each box that both formats have. An unknown velocity (NaN) becomes 0.

    Raises ValueError, naming the sample, for boxes with numbers that are not finite or sizes that are not positive.
    """
    numbers = torch.cat([boxes.centers, boxes.sizes_wlh, boxes.yaws[:, None], boxes.scores[:, None]], dim=1)
    if not bool(numbers.isfinite().all()) or not bool((boxes.sizes_wlh > 0).all()):
        raise ValueError(f"sample {token}: boxes must have finite numbers and positive sizes to be written as results")
    velocities = boxes.velocities.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    columns = (boxes.centers, boxes.sizes_wlh, boxes.yaws, velocities)
    return [
        {
            "sample_token": token,
            "translation": center,
            "size": size,
            "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
            "velocity": velocity,
        }
        for center, size, yaw, velocity in zip(*(column.double().tolist() for column in columns), strict=True)
    ]
