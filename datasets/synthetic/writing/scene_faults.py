"""What the faults of a scene do to its recording, and the record of it in the side file faults.json."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from datasets.arrays import Array
from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.rig import CHANNELS, MOUNTS
from datasets.synthetic.schedule import Shot, scene_start_us, token
from datasets.synthetic.writing.injected_faults import (
    RANDOM_CHANNEL,
    DeadSensor,
    DroppedFrames,
    ExtrinsicError,
    InjectedFault,
    TimeOffset,
    random_fault,
)

# Streams of random numbers, beside those of the world and its sensors: a fault changes nothing else.
_WHICH, _WHERE, _AXIS, _LUCK = 60, 61, 62, 63


@dataclass(frozen=True)
class SceneFaults:
    """The faults of one scene, each at a sensor (no more "random")."""

    config: WorldConfig
    index: int
    faults: tuple[InjectedFault, ...]

    def ego_from_sensor(self, channel: str) -> Float64[Array, "4 4"]:
        """Where the sensor truly is, whatever calibrated_sensor says."""
        pose = MOUNTS[channel].ego_from_sensor
        for fault in self.faults:
            if isinstance(fault, ExtrinsicError) and fault.channel == channel:
                rng = np.random.default_rng([self.config.seed, self.index, _AXIS, CHANNELS.index(channel)])
                axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
                turn = Rotation.from_rotvec(np.radians(fault.rotation_degrees) * axis).as_matrix()
                pose = pose.copy()
                pose[:3, :3] = pose[:3, :3] @ turn
                pose[:3, 3] += fault.translation_metres * direction
        return pose

    def stamped_late(self, channel: str) -> float:
        """Seconds that the sensor's timestamps lie after the instant at which it measured (negative: before)."""
        return sum((f.seconds for f in self.faults if isinstance(f, TimeOffset) and f.channel == channel), 0.0)

    def has_record(self, shot: Shot) -> bool:
        """False for a sweep that got lost. Keyframes have their records: a sample would be no sample without."""
        return shot.is_key_frame or not self._lost(shot)

    def has_file(self, shot: Shot) -> bool:
        """False for what got lost, and for what a dead sensor should have given."""
        return not self._lost(shot) and not any(
            isinstance(fault, DeadSensor) and fault.channel == shot.channel and shot.timestamp_us >= self._end_us(fault)
            for fault in self.faults
        )

    def _lost(self, shot: Shot) -> bool:
        for fault in self.faults:
            if isinstance(fault, DroppedFrames) and fault.channel == shot.channel:
                stream = [self.config.seed, self.index, _LUCK, CHANNELS.index(shot.channel), shot.number]
                return bool(np.random.default_rng(stream).random() < fault.share)
        return False

    def _end_us(self, fault: DeadSensor) -> int:
        start = scene_start_us(self.config, self.index)
        # A sensor that is dead from the beginning gave no first picture either, which is a little older than time 0.
        return start + round(fault.from_seconds * 1e6) if fault.from_seconds > 0 else 0

    def side_file_row(self, shots: dict[str, list[Shot]]) -> dict[str, object]:
        """What faults.json says of this scene; a fault that took nothing away is none. `shots`: all of the scene."""
        found = [self._described(fault, shots[fault.channel]) for fault in self.faults]
        return {
            "scene_token": token(self.config, "scene", self.index),
            "scene": self.config.scene_names[self.index],
            "faults": [row for row in found if row is not None],
        }

    def _described(self, fault: InjectedFault, shots: list[Shot]) -> dict[str, object] | None:
        asked = {name: value for name, value in asdict(fault).items() if name not in ("kind", "channel", "scenes")}
        row: dict[str, object] = {"kind": fault.kind, "channel": fault.channel, **asked}
        if isinstance(fault, ExtrinsicError):
            row["written_ego_from_sensor"] = MOUNTS[fault.channel].ego_from_sensor.tolist()
            row["true_ego_from_sensor"] = self.ego_from_sensor(fault.channel).tolist()
        elif isinstance(fault, DroppedFrames):
            lost = [shot for shot in shots if self._lost(shot)]
            if not lost:
                return None
            row["lost_sweep_timestamps_us"] = [shot.timestamp_us for shot in lost if not shot.is_key_frame]
            row["lost_keyframe_timestamps_us"] = [shot.timestamp_us for shot in lost if shot.is_key_frame]
        elif isinstance(fault, DeadSensor):
            after = [shot.timestamp_us for shot in shots if shot.timestamp_us >= self._end_us(fault)]
            if not after:
                return None
            row["first_missing_timestamp_us"] = after[0]
        return row


@lru_cache(maxsize=2)
def scene_faults(config: WorldConfig, index: int) -> SceneFaults:
    """The faults of scene number `index`, as `config` and its seed have them.

    Raises InputRefused where a sensor would have two faults of one kind.
    """
    name = config.scene_names[index] if config.faults else ""
    wanted = [fault for fault in config.faults if fault.scenes is None or name in fault.scenes]
    rng = np.random.default_rng([config.seed, index, _WHERE])
    if index in _random_fault_scenes(config):
        wanted.append(random_fault(config.duration, rng))
    # Named sensors first: "random" then draws among the others.
    wanted.sort(key=lambda fault: fault.channel == RANDOM_CHANNEL)
    found: list[InjectedFault] = []
    for fault in wanted:
        found.append(_at_a_sensor(fault, {(other.kind, other.channel) for other in found}, rng))
    return SceneFaults(config, index, tuple(found))


def _random_fault_scenes(config: WorldConfig) -> set[int]:
    if config.fault_scenes == 0.0:
        return set()
    count = max(round(config.fault_scenes * config.scenes), 1)
    order = np.random.default_rng([config.seed, _WHICH]).permutation(config.scenes)
    return set(order[:count].tolist())


def _at_a_sensor(fault: InjectedFault, taken: set[tuple[str, str]], rng: np.random.Generator) -> InjectedFault:
    """The fault at the sensor that it names, or at one that the seed draws among those without a fault of its kind."""
    free = [channel for channel in CHANNELS if (fault.kind, channel) not in taken]
    if fault.channel == RANDOM_CHANNEL and free:
        return replace(fault, channel=str(rng.choice(free)))
    if fault.channel not in free:
        raise InputRefused(f"faults: {fault.channel} has two faults of kind {fault.kind} in one scene: leave one.")
    return fault
