"""What LiDAR sweeps hold: how many returns, of which beams, how far, how bright."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from datasets.frames import LIDAR_FIELDS
from datasets.nuscenes.statistics.figures import LOW_MIDDLE_HIGH, QUARTILES, Figure, figure_of, quantiles

# nuScenes stores a point for every firing of every beam; those that met nothing, or the vehicle's own roof, lie
# nearer than this to the sensor.
NEAREST_RETURN = 2.5
_BEAMS, _SHOWN_BEAMS = 32, (0, 10, 20, 31)
_SECTION = "LiDAR (n: sweeps)"


def lidar_figures(sweeps: Iterable[Float32[Tensor, "P 5"]]) -> list[Figure]:
    """The figures of sweeps (P, 5: LIDAR_FIELDS). Distances are from the sensor, in space."""
    stored, beams = [], []
    distances, intensities = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for points in sweeps:
        distance = points[:, :3].norm(dim=1)
        returns = distance > NEAREST_RETURN
        rings = points[returns, LIDAR_FIELDS.index("ring")].long()
        stored.append(len(points))
        beams.append(rings.bincount(minlength=_BEAMS).numpy())
        distances.append(distance[returns].numpy())
        intensities.append(points[returns, LIDAR_FIELDS.index("intensity")].numpy())
    count = len(stored)
    per_beam = np.array(beams, np.int64).reshape(count, _BEAMS)
    of_beam = per_beam.mean(axis=0) if count else np.zeros(_BEAMS)
    return [
        figure_of(_SECTION, "points stored, mean", [sum(stored) / max(count, 1)], count),
        figure_of(
            _SECTION,
            f"returns beyond {NEAREST_RETURN:g} m, 5, 50, 95 %",
            quantiles(per_beam.sum(axis=1), LOW_MIDDLE_HIGH),
            count,
        ),
        *(figure_of(_SECTION, f"of beam {beam}, mean", [of_beam[beam]], count) for beam in _SHOWN_BEAMS),
        figure_of(_SECTION, "of a beam, quartiles of the 32", quantiles(of_beam, QUARTILES), count),
        figure_of(
            _SECTION, "their distance, 5, 50, 95 % (m)", quantiles(np.concatenate(distances), LOW_MIDDLE_HIGH), count
        ),
        figure_of(
            _SECTION, "their intensity, 5, 50, 95 %", quantiles(np.concatenate(intensities), LOW_MIDDLE_HIGH), count
        ),
    ]
