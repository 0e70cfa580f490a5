"""Where and when: a rig that is not as it was calibrated, and sensors that are late."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from calibration.rig import SensorRig
from calibration.transforms import Transform, rigid
from datasets.arrays import Array
from datasets.corruptions.corruption import Past, generator_of
from datasets.frames import LogFrame, PointSweep


@dataclass(frozen=True)
class Misaligned:
    """The calibration of each of these channels is wrong by a turn of `degrees` and a shift of `metres`.

    The sensors are where they were and give what they gave; what is told of their place is wrong. Axis and direction
    are drawn for each channel, once for a scene.
    """

    channels: tuple[str, ...]
    degrees: float
    metres: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.degrees == 0 and self.metres == 0:
            return frame
        frame.refuse_merged_lidar()
        placed = dict(frame.rig.ego_from_sensor)
        for channel in placed.keys() & set(self.channels):
            draws = generator_of(seed, "misaligned", frame.scene_name, channel)
            placed[channel] = placed[channel] @ displacement(
                np.radians(self.degrees) * _unit(draws), self.metres * _unit(draws)
            )
        return replace(frame, rig=SensorRig(placed, frame.rig.cameras))


@dataclass(frozen=True)
class Late:
    """With this probability, drawn by frame and channel, a channel shows what it gave `keyframes` keyframes ago.

    And nobody notices: it has the times and poses of what it should show now. A LiDAR's or radar's sweeps are all as
    old; where there were fewer then, there are fewer. At the start of a scene its first frame stands still. What the
    older frame lacks is lacking.
    """

    channels: tuple[str, ...]
    keyframes: int
    probability: float = 1.0

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        late = {
            channel
            for channel in self.channels
            if generator_of(seed, "late", frame.token, channel).random() < self.probability
        }
        if self.keyframes == 0 or not late:
            return frame
        earlier = past(self.keyframes)
        images = {
            channel: replace(image, encoded=earlier.images[channel].encoded, source=earlier.images[channel].source)
            if channel in late
            else image
            for channel, image in frame.images.items()
            if channel not in late or channel in earlier.images
        }
        return replace(
            frame,
            images=images,
            lidar_sweeps=_outdated(frame.raw_lidar_sweeps, earlier.raw_lidar_sweeps, late),
            radar_sweeps=_outdated(frame.radar_sweeps, earlier.radar_sweeps, late),
        )


def _outdated(
    now: dict[str, tuple[PointSweep, ...]], then: dict[str, tuple[PointSweep, ...]], late: set[str]
) -> dict[str, tuple[PointSweep, ...]]:
    return {
        channel: tuple(replace(sweep, points=older.points) for sweep, older in zip(sweeps, then[channel], strict=False))
        if channel in late
        else sweeps
        for channel, sweeps in now.items()
        if channel not in late or channel in then
    }


def displacement(rotation_vector: Float64[Array, "3"], translation: Float64[Array, "3"]) -> Transform:
    """A small rigid transform from a rotation vector (3, radians) and a translation (3, metres)."""
    matrix = torch.from_numpy(Rotation.from_rotvec(rotation_vector).as_matrix())
    return rigid(matrix, torch.from_numpy(translation))


def _unit(draws: np.random.Generator) -> Float64[Array, "3"]:
    """A direction in space, all equally likely."""
    vector = draws.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))
