"""From a nuScenes v1.0 dataroot to LogFrames."""

from collections.abc import Callable, Collection, Iterable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from calibration.cameras import PinholeCamera
from calibration.rig import EgoState, SensorRig
from calibration.transforms import Transform, from_quaternion
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, SensorFault, SensorFileError
from datasets.frames import Annotations, CameraImage, LogFrame, MergedSweeps, PointSweep
from datasets.nuscenes.annotations import annotations_of
from datasets.nuscenes.can_bus import GpsTrack, VehicleMotion, read_gps, read_vehicle_motion
from datasets.nuscenes.ego_motion import PoseTrack, past_states
from datasets.nuscenes.files import SweepFile, read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.nuscenes.index.opening import BuildProgress, open_index
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords
from datasets.nuscenes.splits import scenes_of_split
from datasets.nuscenes.sweep_files import FrameFaults, RecordedSweep, read_merged_lidar, read_sweeps
from datasets.nuscenes.tables import find_version

_SweepReader = Callable[[Path, str], SweepFile]
CHANNELS = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)
_SceneContext = tuple[PoseTrack, VehicleMotion | None, GpsTrack | None]
_SCENES_KEPT = 8


class NuScenesReader:
    """Frames of a nuScenes v1.0 dataroot: mini, trainval, test, or one with only some sensors, scenes or files.

    `lidar_sweeps` and `radar_sweeps` count the keyframe's own; earlier ones come from the same scene only.
    `history` and `history_step` (seconds) space the ego states before the frame. Files of other channels than
    `channels` are not opened, and such a channel is never a fault. `progress` hears how far the index of the tables
    is, where it has to be built first. With `merge_lidar`, a radius in metres, LiDAR sweeps are moved while they are
    read (`LogFrame.merged_lidar`), without the points nearer than that: for samples, which are the same in less time.
    Raises InputRefused where the tables are not usable (datasets.nuscenes.index.checks).
    """

    def __init__(
        self,
        root: Path,
        version: str | None = None,
        *,
        lidar_sweeps: int = 10,
        radar_sweeps: int = 6,
        history: float = 2.0,
        history_step: float = 0.5,
        channels: Collection[str] = CHANNELS,
        merge_lidar: float | None = None,
        progress: BuildProgress | None = None,
    ) -> None:
        if lidar_sweeps < 1 or radar_sweeps < 1 or history < 0 or history_step <= 0:
            raise ValueError("lidar_sweeps and radar_sweeps must be >= 1, history >= 0 and history_step > 0")
        self.root = root
        self.version = find_version(root, version)
        self.index: NuScenesIndex = open_index(root, self.version, progress)
        self._lidar_sweeps, self._radar_sweeps = lidar_sweeps, radar_sweeps
        self._history, self._history_step = history, history_step
        self._merge_lidar = merge_lidar
        self._channels = tuple(channel for channel in CHANNELS if channel in channels)
        # What belongs to a scene is kept for the few scenes last asked for: frames are read scene by scene.
        self._scene_contexts: dict[str, _SceneContext] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it maps the same index, and reads what belongs to a scene itself."""
        return self.__dict__ | {"_scene_contexts": {}}

    def with_raw_lidar(self) -> "NuScenesReader":
        """The same frames with the LiDAR's sweeps as they were recorded."""
        reader = copy(self)
        reader._merge_lidar = None
        return reader

    @property
    def scene_names(self) -> tuple[str, ...]:
        """The names of the scenes in the tables, in alphabetical order."""
        return self.index.scene_names

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The keyframes of a split, scene by scene in time order.

        `split`: an official nuScenes split (of which the scenes that are present are taken), "all", or scene names
        separated by commas. Raises InputRefused for an unknown name or where nothing of the split is present.
        """
        scenes = scenes_of_split(split, self.scene_names, self.version, where=f"{self.root / self.version}")
        rows = {name: row for row, name in enumerate(self.scene_names)}
        return tuple(token for scene in scenes for token in self.index.sample_tokens(rows[scene]))

    def scenes_of(self, tokens: Iterable[str]) -> set[str]:
        """The names of the scenes of these sample tokens. Raises KeyError for a token that is no sample."""
        return {self.scene_names[self.index.find(token)[0]] for token in tokens}

    def frame(self, token: str) -> LogFrame:
        """The frame of a sample token. Sensor files that are absent or broken are told in `faults`.

        Raises KeyError for a token that is no sample, InputRefused where a file name leads out of the dataroot.
        """
        scene, sample = self._found(token)
        recorded = _keyframes(self.index, scene, sample)
        rows = {channel: recorded[channel] for channel in self._channels if channel in recorded}
        found = FrameFaults([], [])
        for channel in self._channels:
            if channel not in rows:
                detail = f"sample_data.json has no keyframe of {channel} for sample {token}"
                found.faults.append(SensorFault(channel, FaultReason.NOT_RECORDED, detail))
        images: dict[str, CameraImage] = {}
        for channel in filter(rows.__contains__, CAMERA_CHANNELS):
            try:
                images[channel] = self._image(scene, rows[channel])
            except SensorFileError as error:
                found.faults.append(SensorFault(channel, error.reason, error.detail))
        lidar: dict[str, tuple[PointSweep, ...]] = {}
        merged: dict[str, MergedSweeps] = {}
        if self._merge_lidar is None:
            lidar = self._sweeps(scene, (LIDAR_CHANNEL,), rows, self._lidar_sweeps, read_lidar_sweep, found)
        elif LIDAR_CHANNEL in rows:
            sweeps = self._merged(scene, sample, rows[LIDAR_CHANNEL], self._merge_lidar, found)
            merged = {LIDAR_CHANNEL: sweeps} if sweeps.sizes else {}
        radar = self._sweeps(scene, RADAR_CHANNELS, rows, self._radar_sweeps, read_radar_sweep, found)
        timestamp_us = int(scene.samples.timestamp[sample])
        global_from_ego = pose_of(scene, int(scene.samples.reference[sample]))
        return LogFrame(
            token=token,
            scene_name=scene.name,
            timestamp_us=timestamp_us,
            global_from_ego=global_from_ego,
            rig=self._rig(scene, recorded),
            ego_states=self._ego_states(scene, timestamp_us, global_from_ego),
            images=images,
            lidar_sweeps=lidar,
            radar_sweeps=radar,
            annotations=self.annotations(token),
            faults=tuple(found.faults),
            impairments=tuple(found.impairments),
            merged_lidar=merged,
        )

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        """The samples right before one in its scene, newest first. Raises KeyError for a token that is no sample."""
        scene, sample = self.index.find(token)
        return tuple(reversed(self.index.sample_tokens(scene)[max(sample - count, 0) : sample]))

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a sample, without touching a sensor file; None where the tables have none at all."""
        return annotations_of(self.index, *self._found(token)) if self.index.annotated else None

    def _found(self, token: str) -> tuple[SceneRecords, int]:
        scene, sample = self.index.find(token)
        return self.index.scene(scene), sample

    def _rig(self, scene: SceneRecords, rows: dict[str, int]) -> SensorRig:
        ego_from_sensor: dict[str, Transform] = {}
        cameras: dict[str, PinholeCamera] = {}
        for channel, row in sorted(rows.items()):
            ego_from_sensor[channel] = ego_from_sensor_of(self.index, scene, row)
            camera = camera_of(self.index, scene, row)
            if camera is not None:
                cameras[channel] = camera
        return SensorRig(ego_from_sensor, cameras)

    def _image(self, scene: SceneRecords, row: int) -> CameraImage:
        records = scene.sample_data
        filename = self.index.filename(records, row)
        encoded = read_image_bytes(self.root, filename, int(records.width[row]), int(records.height[row]))
        return CameraImage(int(records.timestamp[row]), pose_of(scene, row), encoded, filename)

    def _sweeps(
        self,
        scene: SceneRecords,
        channels: tuple[str, ...],
        rows: dict[str, int],
        count: int,
        read: _SweepReader,
        found: FrameFaults,
    ) -> dict[str, tuple[PointSweep, ...]]:
        """Each channel's newest sweeps; one that has none is absent."""
        result: dict[str, tuple[PointSweep, ...]] = {}
        for channel in filter(rows.__contains__, channels):
            records, chain = scene.sample_data, _row_and_earlier(scene, rows[channel], count)
            filenames = [self.index.filename(records, row) for row in chain]
            sweeps = tuple(
                PointSweep(int(records.timestamp[chain[place]]), pose_of(scene, chain[place]), points)
                for place, points in read_sweeps(self.root, channel, filenames, read, found)
            )
            if sweeps:
                result[channel] = sweeps
        return result

    def _merged(
        self, scene: SceneRecords, sample: int, row: int, close_radius: float, found: FrameFaults
    ) -> MergedSweeps:
        records, chain = scene.sample_data, _row_and_earlier(scene, row, self._lidar_sweeps)
        return read_merged_lidar(
            self.root,
            LIDAR_CHANNEL,
            [
                RecordedSweep(self.index.filename(records, each), int(records.timestamp[each]), pose_of(scene, each))
                for each in chain
            ],
            found,
            timestamp_us=int(scene.samples.timestamp[sample]),
            global_from_ego=pose_of(scene, int(scene.samples.reference[sample])),
            ego_from_sensor=ego_from_sensor_of(self.index, scene, row),
            close_radius=close_radius,
        )

    def _ego_states(self, scene: SceneRecords, frame_us: int, global_from_ego: Transform) -> tuple[EgoState, ...]:
        track, motion, gps = self._scene_context(scene)
        return past_states(frame_us, global_from_ego, track, motion, gps, self._history, self._history_step)

    def _scene_context(self, scene: SceneRecords) -> _SceneContext:
        if scene.name not in self._scene_contexts:
            if len(self._scene_contexts) >= _SCENES_KEPT:
                self._scene_contexts.pop(next(iter(self._scene_contexts)))
            motion, gps = read_vehicle_motion(self.root, scene.name), read_gps(self.root, scene.name)
            self._scene_contexts[scene.name] = pose_track(scene), motion, gps
        return self._scene_contexts[scene.name]


def pose_of(scene: SceneRecords, row: int) -> Transform:
    """global_from_ego of a sensor record (its row in the scene)."""
    records = scene.sample_data
    return from_quaternion(records.pose_rotation[row].tolist(), records.pose_translation[row].tolist())


def ego_from_sensor_of(index: NuScenesIndex, scene: SceneRecords, row: int) -> Transform:
    """ego_from_sensor of a sensor record."""
    calibration = int(scene.sample_data.calibration[row])
    all_of = index.calibrations
    return from_quaternion(all_of.rotation[calibration].tolist(), all_of.translation[calibration].tolist())


def camera_of(index: NuScenesIndex, scene: SceneRecords, row: int) -> PinholeCamera | None:
    """The camera that took a sensor record; None where another sensor did."""
    records = scene.sample_data
    intrinsics = index.calibrations.camera_intrinsic[records.calibration[row]]
    if not intrinsics.any():
        return None
    return PinholeCamera(
        int(records.width[row]), int(records.height[row]), torch.tensor(intrinsics, dtype=torch.float64)
    )


def pose_track(scene: SceneRecords) -> PoseTrack:
    """All ego poses of a scene, one for each time: of several the last in the order of the index."""
    records = scene.sample_data
    latest = {int(time): row for row, time in enumerate(records.pose_timestamp)}
    times = sorted(latest)
    rows = [latest[time] for time in times]
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
    quaternions = records.pose_rotation[rows]
    matrices[:, :3, :3] = torch.from_numpy(Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix())
    matrices[:, :3, 3] = torch.from_numpy(records.pose_translation[rows])
    return PoseTrack(np.array(times, dtype=np.int64), matrices)


def _keyframes(index: NuScenesIndex, scene: SceneRecords, sample: int) -> dict[str, int]:
    """Channel -> the row of its keyframe."""
    rows = zip(index.channels, scene.samples.keyframes[sample].tolist(), strict=True)
    return {channel: row for channel, row in rows if row >= 0}


def _row_and_earlier(scene: SceneRecords, row: int, count: int) -> list[int]:
    """A record and those before it, newest first. The tables' check keeps the chain in one scene and finite."""
    chain = [row]
    while len(chain) < count and scene.sample_data.prev[chain[-1]] >= 0:
        chain.append(int(scene.sample_data.prev[chain[-1]]))
    return chain
