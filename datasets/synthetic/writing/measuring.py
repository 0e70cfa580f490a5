"""What each sensor of a scene measures: the content of its files, and the points in them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from datasets.arrays import Array
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lidar import lidarseg
from datasets.synthetic.lidar import sweep as lidar
from datasets.synthetic.lidar.passing import Passage
from datasets.synthetic.pictures import cameras
from datasets.synthetic.pictures.lens import encode
from datasets.synthetic.pictures.pixel_hits import StillParts, View, in_view
from datasets.synthetic.radar import pcd
from datasets.synthetic.radar import sweep as radar
from datasets.synthetic.radar.reflectors import ReflectorMap
from datasets.synthetic.rays import Surroundings
from datasets.synthetic.rig import CHANNELS, MOUNTS, camera
from datasets.synthetic.schedule import Shot, scene_start_us
from datasets.synthetic.world import World
from datasets.synthetic.writing.scene_faults import scene_faults


@dataclass(frozen=True)
class Measurement:
    """A sensor file's content, the points in it (global; a picture has none), a LiDAR keyframe's labels."""

    encoded: bytes
    points_global: Float64[Array, "P 3"]
    labels: UInt8[Array, "L"]


class SceneSensors:
    """All sensors of scene number `index` in its world; what they share is made once, at its first use."""

    def __init__(self, config: WorldConfig, index: int, world: World) -> None:
        self._config, self._index, self._world = config, index, world
        self._faults = scene_faults(config, index)
        self.surroundings = Surroundings(world)

    @cached_property
    def _parts(self) -> StillParts:
        return StillParts(self.surroundings.still)

    @cached_property
    def _passage(self) -> Passage:
        return Passage(self.surroundings)

    @cached_property
    def _reflectors(self) -> ReflectorMap:
        return ReflectorMap(self._world, self.surroundings.still, [self._config.seed, self._index, 6])

    def measure(self, shot: Shot) -> Measurement:
        """The measurement at a shot; its random numbers are its own."""
        rng = np.random.default_rng([self._config.seed, self._index, 5, CHANNELS.index(shot.channel), shot.number])
        stamped = (shot.timestamp_us - scene_start_us(self._config, self._index)) * 1e-6
        time = stamped - self._faults.stamped_late(shot.channel)
        mount = self._faults.ego_from_sensor(shot.channel)
        world_from_sensor = self._world.drive.world_from_ego(time) @ mount
        labels = np.zeros(0, np.uint8)
        if shot.channel in CAMERA_CHANNELS:
            return Measurement(self._picture(shot.channel, time, world_from_sensor, rng), np.zeros((0, 3)), labels)
        if shot.channel == LIDAR_CHANNEL:
            sweep = lidar.sweep(self._world, self._passage, mount, time, rng)
            points, encoded = sweep.points, sweep.points.tobytes()
            if shot.is_key_frame:
                labels = lidarseg.labels_of(self._world, sweep)
        else:
            believed = radar.Belief(stamped, MOUNTS[shot.channel].ego_from_sensor)
            points = radar.sweep(self._reflectors, self._world, time, mount, rng, believed=believed)
            encoded = pcd.encode(points)
        return Measurement(encoded, _to_global(self._world, world_from_sensor, points), labels)

    def _picture(
        self, channel: str, time: float, world_from_cam: Float64[Array, "4 4"], rng: np.random.Generator
    ) -> bytes:
        width = self._config.image_width
        view = View(camera(channel, width), world_from_cam, _pixels(channel, width))
        shown = in_view(view, self.surroundings.movers, time, cameras.SHADOW_REACH)
        return encode(cameras.render(self.surroundings.at(time, shown), self._parts, view, rng))


@lru_cache(maxsize=len(CAMERA_CHANNELS))
def _pixels(channel: str, width: int) -> Float32[Array, "P 3"]:
    return cameras.pixel_directions(camera(channel, width))


def _to_global(
    world: World, world_from_sensor: Float64[Array, "4 4"], points: Float32[Array, "P C"]
) -> Float64[Array, "P 3"]:
    moved = points[:, :3].astype(np.float64) @ world_from_sensor[:3, :3].T
    return np.asarray(moved + world_from_sensor[:3, 3] + world.global_offset)
