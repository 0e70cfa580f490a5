"""Recording: the sensor files and the truth of a few keyframes of one scene."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import TypeAdapter

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.synthetic import cameras, lidar, lidarseg, radar
from datasets.synthetic.annotations import Annotation, KeyframePoints, annotate
from datasets.synthetic.arrays import Array
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.effort import Effort, Stopwatch
from datasets.synthetic.lens import encode
from datasets.synthetic.passing import Passage
from datasets.synthetic.picture_rays import StillParts, View, in_view
from datasets.synthetic.rays import Surroundings
from datasets.synthetic.rig import CHANNELS, camera, modality
from datasets.synthetic.scene_faults import scene_faults
from datasets.synthetic.schedule import Shot, log_name, scene_start_us, shots_of, token
from datasets.synthetic.unfinished import Unfinished
from datasets.synthetic.world import World, build_world

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
def _scene(config: WorldConfig, index: int) -> tuple[Surroundings, StillParts, dict[str, list[Shot]]]:
    surroundings = Surroundings(build_world(config, index))
    return surroundings, StillParts(surroundings.still), shots_of(config, index)


@lru_cache(maxsize=1)
def _passage(surroundings: Surroundings) -> Passage:
    return Passage(surroundings)


@lru_cache(maxsize=1)
def _fan() -> Float32[Array, "M 3"]:
    return radar.fan_directions()


@lru_cache(maxsize=len(CAMERA_CHANNELS))
def _pixels(channel: str, width: int) -> Float32[Array, "P 3"]:
    return cameras.pixel_directions(camera(channel, width))


def record(job: RecordingJob) -> Effort:
    """Write the sensor files of a job, and last the truth of its keyframes: the unit's file says that it is done."""
    watch = Stopwatch()
    with watch.timing("scene"):
        surroundings, parts, shots = _scene(job.config, job.scene)
    faults = scene_faults(job.config, job.scene)
    clouds: dict[int, dict[str, Float64[Array, "P 3"]]] = {k: {} for k in range(job.first, job.last + 1)}
    for channel in CHANNELS:
        with watch.timing(modality(channel)):
            for shot in shots[channel]:
                # The points of a keyframe that got lost still say what the sensor met.
                counted = shot.is_key_frame and channel not in CAMERA_CHANNELS
                if not job.first <= shot.keyframe <= job.last or not (faults.has_file(shot) or counted):
                    continue
                encoded, points = _measure(job, surroundings, parts, shot)
                if faults.has_file(shot):
                    job.unfinished.write(job.root / file_name(job.config, job.scene, shot), encoded)
                if shot.is_key_frame and points is not None:
                    clouds[shot.keyframe][channel] = points
    with watch.timing("truth"):
        truth = {keyframe: _truth(job, surroundings, shots, keyframe, clouds[keyframe]) for keyframe in clouds}
        job.unfinished.write(job.unfinished.unit(job.scene, job.first), _TRUTH.dump_json(truth))
    return watch.effort(keyframes=len(truth))


def unit_truth(path: Path) -> dict[int, list[Annotation]]:
    """The annotations of each keyframe of a unit, from its file."""
    return _TRUTH.validate_json(path.read_bytes())


def _measure(
    job: RecordingJob, surroundings: Surroundings, parts: StillParts, shot: Shot
) -> tuple[bytes, Float64[Array, "P 3"] | None]:
    """The file's content, and the points in global where it holds any."""
    rng = np.random.default_rng([job.config.seed, job.scene, 5, CHANNELS.index(shot.channel), shot.number])
    faults = scene_faults(job.config, job.scene)
    world, stamped = surroundings.world, (shot.timestamp_us - scene_start_us(job.config, job.scene)) * 1e-6
    time, mount = stamped - faults.stamped_late(shot.channel), faults.ego_from_sensor(shot.channel)
    world_from_sensor = world.drive.world_from_ego(time) @ mount
    if shot.channel in CAMERA_CHANNELS:
        width = job.config.image_width
        view = View(camera(shot.channel, width), world_from_sensor, _pixels(shot.channel, width))
        shown = in_view(view, surroundings.movers, time, cameras.SHADOW_REACH)
        return encode(cameras.render(surroundings.at(time, shown), parts, view, rng)), None
    if shot.channel == LIDAR_CHANNEL:
        swept = lidar.sweep(world, _passage(surroundings), mount, time, rng)
        if shot.is_key_frame and faults.has_file(shot):
            _write_labels(job, world, shot, swept)
        return swept.points.tobytes(), _to_global(world, world_from_sensor, swept.points)
    instant = surroundings.at(time)
    fields = radar.sweep(instant, world, time, mount, _fan(), rng)
    return radar.encode(fields), _to_global(world, world_from_sensor, fields)


def _write_labels(job: RecordingJob, world: World, shot: Shot, swept: lidar.Sweep) -> None:
    name = token(job.config, "sample_data", job.scene, shot.channel, shot.number)
    path = job.root / lidarseg.labels_file(job.config.version, name)
    job.unfinished.write(path, lidarseg.labels_of(world, swept).tobytes())


def _to_global(
    world: World, world_from_sensor: Float64[Array, "4 4"], points: Float32[Array, "P C"]
) -> Float64[Array, "P 3"]:
    moved = points[:, :3].astype(np.float64) @ world_from_sensor[:3, :3].T
    return np.asarray(moved + world_from_sensor[:3, 3] + world.global_offset)


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
