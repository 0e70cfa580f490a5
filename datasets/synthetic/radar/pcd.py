"""Radar files as nuScenes has them: PCD 0.7, binary, 18 fields."""

import numpy as np
from jaxtyping import Float32

from datasets.arrays import Array
from datasets.frames import RADAR_FIELDS

_SIZES = (4, 4, 4, 1, 2, 4, 4, 4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1)
_FORMATS = {4: "<f4", 2: "<i2", 1: "i1"}
_RECORD = np.dtype([(name, _FORMATS[size]) for name, size in zip(RADAR_FIELDS, _SIZES, strict=True)])


def encode(fields: Float32[Array, "R 18"]) -> bytes:
    """As a PCD v0.7 file with nuScenes' header; the devkit wants a byte after the last point."""
    types = ["F" if size == 4 else "I" for size in _SIZES]
    header = "\n".join(
        [
            "# .PCD v0.7 - Point Cloud Data file format",
            "VERSION 0.7",
            "FIELDS " + " ".join(RADAR_FIELDS),
            "SIZE " + " ".join(map(str, _SIZES)),
            "TYPE " + " ".join(types),
            "COUNT " + " ".join("1" * len(_SIZES)),
            f"WIDTH {len(fields)}",
            "HEIGHT 1",
            "VIEWPOINT 0 0 0 1 0 0 0",
            f"POINTS {len(fields)}",
            "DATA binary\n",
        ]
    )
    records = np.empty(len(fields), dtype=_RECORD)
    for i, name in enumerate(RADAR_FIELDS):
        records[name] = fields[:, i]
    return header.encode("ascii") + records.tobytes() + b"\n"
