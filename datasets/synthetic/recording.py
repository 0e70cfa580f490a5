"""Recording: the sensor files and the truth of a few keyframes of one scene."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.synthetic import cameras, lidar, radar, radar_file
from datasets.synthetic.annotations import Annotation, KeyframePoints, annotate
from datasets.synthetic.arrays import Array
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lens import encode
from datasets.synthetic.picture_rays import StillParts, View, in_view
from datasets.synthetic.radar_reflectors import ReflectorMap
from datasets.synthetic.rays import Surroundings
from datasets.synthetic.rig import CHANNELS, MOUNTS, camera
from datasets.synthetic.schedule import Shot, scene_start_us, shots_of
from datasets.synthetic.world import World, build_world


@dataclass(frozen=True)
class RecordingJob:
    """Keyframes `first` to `last` (inclusive) of a scene, with the sweeps since the keyframe before each."""

    root: Path
    config: WorldConfig
    scene: int
    first: int
    last: int


def log_name(scene: int) -> str:
    """The log of a scene, as nuScenes names logs: vehicle, local date and time, time zone."""
    minutes = 15 * 60 + 16 + 10 * scene
    return f"n008-2018-08-{1 + minutes // 1440:02d}-{minutes // 60 % 24:02d}-{minutes % 60:02d}-36-0400"


def file_name(scene: int, shot: Shot) -> str:
    """Where a measurement is stored, relative to the dataset's root."""
    ending = "pcd.bin" if shot.channel == LIDAR_CHANNEL else "pcd" if shot.channel in RADAR_CHANNELS else "jpg"
    folder = "samples" if shot.is_key_frame else "sweeps"
    return f"{folder}/{shot.channel}/{log_name(scene)}__{shot.channel}__{shot.timestamp_us}.{ending}"


@lru_cache(maxsize=1)
def _scene(config: WorldConfig, index: int) -> tuple[Surroundings, StillParts, dict[str, list[Shot]]]:
    surroundings = Surroundings(build_world(config, index))
    return surroundings, StillParts(surroundings.still), shots_of(config, index)


@lru_cache(maxsize=1)
def _reflectors(config: WorldConfig, index: int) -> ReflectorMap:
    surroundings = _scene(config, index)[0]
    return ReflectorMap(surroundings.world, surroundings.still, [config.seed, index, 6])


@lru_cache(maxsize=1)
def _beams() -> Float32[Array, "N 3"]:
    return lidar.beam_directions()


@lru_cache(maxsize=len(CAMERA_CHANNELS))
def _pixels(channel: str, width: int) -> Float32[Array, "P 3"]:
    return cameras.pixel_directions(camera(channel, width))


def record(job: RecordingJob) -> dict[int, list[Annotation]]:
    """Write the sensor files of a job; returns the annotations of each of its keyframes."""
    surroundings, parts, shots = _scene(job.config, job.scene)
    clouds: dict[int, dict[str, Float64[Array, "P 3"]]] = {k: {} for k in range(job.first, job.last + 1)}
    for channel in CHANNELS:
        for shot in shots[channel]:
            if job.first <= shot.keyframe <= job.last:
                encoded, points = _measure(job, surroundings, parts, shot)
                (job.root / file_name(job.scene, shot)).write_bytes(encoded)
                if shot.is_key_frame and points is not None:
                    clouds[shot.keyframe][channel] = points
    return {keyframe: _truth(job, surroundings, shots, keyframe, clouds[keyframe]) for keyframe in clouds}


def _measure(
    job: RecordingJob, surroundings: Surroundings, parts: StillParts, shot: Shot
) -> tuple[bytes, Float64[Array, "P 3"] | None]:
    """The file's content, and the points in global where it holds any."""
    rng = np.random.default_rng([job.config.seed, job.scene, 5, CHANNELS.index(shot.channel), shot.number])
    world, time = surroundings.world, (shot.timestamp_us - scene_start_us(job.scene)) * 1e-6
    mount = MOUNTS[shot.channel].ego_from_sensor
    world_from_sensor = world.drive.world_from_ego(time) @ mount
    if shot.channel in CAMERA_CHANNELS:
        width = job.config.image_width
        view = View(camera(shot.channel, width), world_from_sensor, _pixels(shot.channel, width))
        shown = in_view(view, surroundings.movers, time, cameras.SHADOW_REACH)
        return encode(cameras.render(surroundings.at(time, shown), parts, view, rng)), None
    if shot.channel == LIDAR_CHANNEL:
        points = lidar.sweep(surroundings.at(time), world_from_sensor, _beams(), rng)
        return points.tobytes(), _to_global(world, world_from_sensor, points)
    fields = radar.sweep(_reflectors(job.config, job.scene), world, time, mount, rng)
    return radar_file.encode(fields), _to_global(world, world_from_sensor, fields)


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
    world, start = surroundings.world, scene_start_us(job.scene)
    seconds = {
        channel: (next(s for s in shots[channel] if s.is_key_frame and s.keyframe == keyframe).timestamp_us - start)
        * 1e-6
        for channel in (*CAMERA_CHANNELS, LIDAR_CHANNEL)
    }
    eyes = {
        channel: (
            camera(channel, job.config.image_width),
            world.drive.world_from_ego(seconds[channel]) @ MOUNTS[channel].ego_from_sensor,
        )
        for channel in CAMERA_CHANNELS
    }
    points = KeyframePoints(clouds[LIDAR_CHANNEL], np.concatenate([clouds[channel] for channel in RADAR_CHANNELS]))
    time = seconds[LIDAR_CHANNEL]
    return annotate(world, time, points, surroundings.at(time), eyes)
