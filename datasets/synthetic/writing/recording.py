"""Recording: the sensor files and the truth of a few keyframes of one scene."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import TypeAdapter

from datasets.arrays import Array
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lidar import lidarseg
from datasets.synthetic.rays import Surroundings
from datasets.synthetic.rig import CHANNELS, camera, modality
from datasets.synthetic.schedule import Shot, log_name, scene_start_us, shots_of, token
from datasets.synthetic.world import build_world
from datasets.synthetic.writing.annotations import Annotation, KeyframePoints, annotate
from datasets.synthetic.writing.effort import Effort, Stopwatch
from datasets.synthetic.writing.measuring import Measurement, SceneSensors
from datasets.synthetic.writing.scene_faults import scene_faults
from datasets.synthetic.writing.unfinished import Unfinished

_TRUTH = TypeAdapter(dict[int, list[Annotation]])


@dataclass(frozen=True)
class RecordingJob:
    """Keyframes `first` to `last` (inclusive) of a scene, with the sweeps since the keyframe before each."""

    unfinished: Unfinished
    config: WorldConfig
    scene: int
    first: int
    last: int

    @property
    def root(self) -> Path:
        """The dataset's."""
        return self.unfinished.dataset


def file_name(config: WorldConfig, scene: int, shot: Shot) -> str:
    """Where a measurement is stored, relative to the dataset's root."""
    ending = "pcd.bin" if shot.channel == LIDAR_CHANNEL else "pcd" if shot.channel in RADAR_CHANNELS else "jpg"
    folder = "samples" if shot.is_key_frame else "sweeps"
    return f"{folder}/{shot.channel}/{log_name(config, scene)}__{shot.channel}__{shot.timestamp_us}.{ending}"


@lru_cache(maxsize=1)
def _scene(config: WorldConfig, index: int) -> tuple[SceneSensors, dict[str, list[Shot]]]:
    return SceneSensors(config, index, build_world(config, index)), shots_of(config, index)


def record(job: RecordingJob) -> Effort:
    """Write the sensor files of a job, and last the truth of its keyframes: the unit's file says that it is done."""
    watch = Stopwatch()
    with watch.timing("scene"):
        sensors, shots = _scene(job.config, job.scene)
    faults = scene_faults(job.config, job.scene)
    clouds: dict[int, dict[str, Float64[Array, "P 3"]]] = {k: {} for k in range(job.first, job.last + 1)}
    for channel in CHANNELS:
        with watch.timing(modality(channel)):
            for shot in shots[channel]:
                # The points of a keyframe that got lost still say what the sensor met.
                counted = shot.is_key_frame and channel not in CAMERA_CHANNELS
                if not job.first <= shot.keyframe <= job.last or not (faults.has_file(shot) or counted):
                    continue
                measured = sensors.measure(shot)
                if faults.has_file(shot):
                    _write(job, shot, measured)
                if counted:
                    clouds[shot.keyframe][channel] = measured.points_global
    with watch.timing("truth"):
        surroundings = sensors.surroundings
        truth = {keyframe: _truth(job, surroundings, shots, keyframe, clouds[keyframe]) for keyframe in clouds}
        job.unfinished.write(job.unfinished.unit(job.scene, job.first), _TRUTH.dump_json(truth))
    return watch.effort(keyframes=len(truth))


def _write(job: RecordingJob, shot: Shot, measured: Measurement) -> None:
    job.unfinished.write(job.root / file_name(job.config, job.scene, shot), measured.encoded)
    if shot.channel == LIDAR_CHANNEL and shot.is_key_frame:
        name = token(job.config, "sample_data", job.scene, shot.channel, shot.number)
        job.unfinished.write(job.root / lidarseg.labels_file(job.config.version, name), measured.labels.tobytes())


def unit_truth(path: Path) -> dict[int, list[Annotation]]:
    """The annotations of each keyframe of a unit, from its file."""
    return _TRUTH.validate_json(path.read_bytes())


def _truth(
    job: RecordingJob,
    surroundings: Surroundings,
    shots: dict[str, list[Shot]],
    keyframe: int,
    clouds: dict[str, Float64[Array, "P 3"]],
) -> list[Annotation]:
    """Annotations at the instant of the keyframe's LiDAR sweep; the cameras stand where they took their pictures."""
    world, start = surroundings.world, scene_start_us(job.config, job.scene)
    faults = scene_faults(job.config, job.scene)
    seconds = {
        channel: (next(s for s in shots[channel] if s.is_key_frame and s.keyframe == keyframe).timestamp_us - start)
        * 1e-6
        for channel in (*CAMERA_CHANNELS, LIDAR_CHANNEL)
    }
    eyes = {
        channel: (
            camera(channel, job.config.image_width),
            world.drive.world_from_ego(seconds[channel]) @ faults.ego_from_sensor(channel),
        )
        for channel in CAMERA_CHANNELS
    }
    late = {channel: faults.stamped_late(channel) for channel in clouds}
    none = np.zeros((0, 3))
    points = [
        KeyframePoints(
            np.concatenate([none, *(clouds[c] for c in clouds if late[c] == seconds_late and c == LIDAR_CHANNEL)]),
            np.concatenate([none, *(clouds[c] for c in clouds if late[c] == seconds_late and c != LIDAR_CHANNEL)]),
            seconds_late,
        )
        for seconds_late in sorted(set(late.values()))
    ]
    time = seconds[LIDAR_CHANNEL]
    return annotate(world, time, points, surroundings.at(time), eyes)
