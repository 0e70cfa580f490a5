"""From a nuScenes v1.0 dataroot to LogFrames."""

from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from calibration.cameras import PinholeCamera
from calibration.rig import EgoState, SensorRig
from calibration.transforms import Transform, from_quaternion
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, SensorFault, SensorFileError
from datasets.frames import Annotations, CameraImage, LogFrame, PointSweep
from datasets.nuscenes.annotations import annotations_of
from datasets.nuscenes.can_bus import GpsTrack, VehicleMotion, read_gps, read_vehicle_motion
from datasets.nuscenes.ego_motion import PoseTrack, past_states
from datasets.nuscenes.files import SweepFile, read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.nuscenes.splits import scenes_of_split
from datasets.nuscenes.tables import Row, Tables, channel_of, find_version, load_tables

_SweepReader = Callable[[Path, str], SweepFile]
CHANNELS = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)
_SceneContext = tuple[PoseTrack, VehicleMotion | None, GpsTrack | None]
_SCENES_KEPT = 8


class NuScenesReader:
    """Frames of a nuScenes v1.0 dataroot: mini, trainval, test, or one with only some sensors, scenes or files.

    `lidar_sweeps` and `radar_sweeps` count the keyframe's own; earlier ones come from the same scene only.
    `history` and `history_step` (seconds) space the ego states before the frame. Files of other channels than
    `channels` are not opened, and such a channel is never a fault.
    Raises InputRefused where the tables are not usable (datasets.nuscenes.tables).
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
    ) -> None:
        if lidar_sweeps < 1 or radar_sweeps < 1 or history < 0 or history_step <= 0:
            raise ValueError("lidar_sweeps and radar_sweeps must be >= 1, history >= 0 and history_step > 0")
        self.root = root
        self.version = find_version(root, version)
        self._lidar_sweeps, self._radar_sweeps = lidar_sweeps, radar_sweeps
        self._history, self._history_step = history, history_step
        self._channels = tuple(channel for channel in CHANNELS if channel in channels)
        self._tables: Tables = load_tables(root, self.version)
        self._keyframes = _keyframes_by_channel(self._tables)
        self._annotation_rows = _annotations_by_sample(self._tables)
        self._samples_of_scene = _samples_by_scene(self._tables)
        self._rows_of_scene = _sensor_rows_by_scene(self._tables)
        # What belongs to a scene is kept for the few scenes last asked for: frames are read scene by scene.
        self._scene_contexts: dict[str, _SceneContext] = {}

    @property
    def tables(self) -> Tables:
        """The tables, checked: name -> token -> record."""
        return self._tables

    @property
    def scene_names(self) -> tuple[str, ...]:
        """The names of the scenes in the tables, in alphabetical order."""
        return tuple(sorted(self._samples_of_scene))

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The keyframes of a split, scene by scene in time order.

        `split`: an official nuScenes split (of which the scenes that are present are taken), "all", or scene names
        separated by commas. Raises InputRefused for an unknown name or where nothing of the split is present.
        """
        scenes = scenes_of_split(split, self.scene_names, self.version, where=f"{self.root / self.version}")
        return tuple(token for scene in scenes for token in self._samples_of_scene[scene])

    def frame(self, token: str) -> LogFrame:
        """The frame of a sample token. Sensor files that are absent or broken are told in `faults`.

        Raises KeyError for a token that is no sample, InputRefused where a file name leads out of the dataroot.
        """
        sample = self._tables["sample"][token]
        scene_name = self._tables["scene"][sample["scene_token"]]["name"]
        recorded = self._keyframes[token]
        rows = {channel: recorded[channel] for channel in self._channels if channel in recorded}
        faults: list[SensorFault] = []
        impairments: list[SensorFault] = []
        for channel in self._channels:
            if channel not in rows:
                detail = f"sample_data.json has no keyframe of {channel} for sample {token}"
                faults.append(SensorFault(channel, FaultReason.NOT_RECORDED, detail))
        images: dict[str, CameraImage] = {}
        for channel in filter(rows.__contains__, CAMERA_CHANNELS):
            try:
                images[channel] = self._image(rows[channel])
            except SensorFileError as error:
                faults.append(SensorFault(channel, error.reason, error.detail))
        lidar = self._sweeps((LIDAR_CHANNEL,), rows, self._lidar_sweeps, read_lidar_sweep, faults, impairments)
        radar = self._sweeps(RADAR_CHANNELS, rows, self._radar_sweeps, read_radar_sweep, faults, impairments)
        global_from_ego = self._pose(self._reference_row(token))
        return LogFrame(
            token=token,
            scene_name=scene_name,
            timestamp_us=sample["timestamp"],
            global_from_ego=global_from_ego,
            rig=self._rig(recorded),
            ego_states=self._ego_states(scene_name, sample["timestamp"], global_from_ego),
            images=images,
            lidar_sweeps=lidar,
            radar_sweeps=radar,
            annotations=self.annotations(token),
            faults=tuple(faults),
            impairments=tuple(impairments),
        )

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a sample, without touching a sensor file; None where the tables have none at all."""
        if not self._tables["sample_annotation"]:
            return None
        return annotations_of(self._tables, self._annotation_rows.get(token, []))

    def _reference_row(self, token: str) -> Row:
        """The record whose ego pose is the frame's: LIDAR_TOP's, otherwise the one closest in time."""
        rows = self._keyframes[token]
        if LIDAR_CHANNEL in rows:
            return rows[LIDAR_CHANNEL]
        time = self._tables["sample"][token]["timestamp"]
        return min(rows.values(), key=lambda row: (abs(row["timestamp"] - time), row["token"]))

    def _pose(self, row: Row) -> Transform:
        pose = self._tables["ego_pose"][row["ego_pose_token"]]
        return from_quaternion(pose["rotation"], pose["translation"])

    def _rig(self, rows: dict[str, Row]) -> SensorRig:
        ego_from_sensor: dict[str, Transform] = {}
        cameras: dict[str, PinholeCamera] = {}
        for channel, row in sorted(rows.items()):
            calibration = self._tables["calibrated_sensor"][row["calibrated_sensor_token"]]
            ego_from_sensor[channel] = from_quaternion(calibration["rotation"], calibration["translation"])
            camera = camera_of(self._tables, row)
            if camera is not None:
                cameras[channel] = camera
        return SensorRig(ego_from_sensor, cameras)

    def _image(self, row: Row) -> CameraImage:
        encoded = read_image_bytes(self.root, row["filename"], row["width"], row["height"])
        return CameraImage(row["timestamp"], self._pose(row), encoded, row["filename"])

    def _sweeps(
        self,
        channels: tuple[str, ...],
        rows: dict[str, Row],
        count: int,
        read: _SweepReader,
        faults: list[SensorFault],
        impairments: list[SensorFault],
    ) -> dict[str, tuple[PointSweep, ...]]:
        """Each channel's newest sweeps. Without the keyframe's own a channel is absent; an earlier one is left out."""
        result: dict[str, tuple[PointSweep, ...]] = {}
        for channel in filter(rows.__contains__, channels):
            sweeps: list[PointSweep] = []
            for age, row in enumerate(self._row_and_earlier(rows[channel], count)):
                try:
                    points, dropped = read(self.root, row["filename"])
                except SensorFileError as error:
                    fault = SensorFault(channel, error.reason, error.detail)
                    if age == 0:
                        faults.append(fault)
                        break
                    impairments.append(fault)
                else:
                    sweeps.append(PointSweep(row["timestamp"], self._pose(row), points))
                    if dropped:
                        impairments.append(SensorFault(channel, FaultReason.NONFINITE_POINTS, dropped))
            if sweeps:
                result[channel] = tuple(sweeps)
        return result

    def _row_and_earlier(self, row: Row, count: int) -> list[Row]:
        """A record and those before it, newest first. The tables' check keeps the chain in one scene and finite."""
        chain = [row]
        while chain[-1]["prev"] and len(chain) < count:
            chain.append(self._tables["sample_data"][chain[-1]["prev"]])
        return chain

    def _ego_states(self, scene_name: str, frame_us: int, global_from_ego: Transform) -> tuple[EgoState, ...]:
        track, motion, gps = self._scene_context(scene_name)
        return past_states(frame_us, global_from_ego, track, motion, gps, self._history, self._history_step)

    def _scene_context(self, scene_name: str) -> _SceneContext:
        if scene_name not in self._scene_contexts:
            if len(self._scene_contexts) >= _SCENES_KEPT:
                self._scene_contexts.pop(next(iter(self._scene_contexts)))
            self._scene_contexts[scene_name] = self._read_scene_context(scene_name)
        return self._scene_contexts[scene_name]

    def _read_scene_context(self, scene_name: str) -> _SceneContext:
        poses = {row["ego_pose_token"]: None for row in self._rows_of_scene[scene_name]}
        # One pose for each time; which of several is taken must not depend on the tables' order.
        by_time = {
            pose["timestamp"]: pose
            for pose in sorted(
                (self._tables["ego_pose"][token] for token in poses), key=lambda pose: str(pose["token"])
            )
        }
        times = sorted(by_time)
        quaternions = np.array([by_time[time]["rotation"] for time in times])
        matrices = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
        matrices[:, :3, :3] = torch.from_numpy(Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix())
        matrices[:, :3, 3] = torch.tensor([by_time[time]["translation"] for time in times], dtype=torch.float64)
        track = PoseTrack(np.array(times, dtype=np.int64), matrices)
        return track, read_vehicle_motion(self.root, scene_name), read_gps(self.root, scene_name)


def camera_of(tables: Tables, sample_data: Row) -> PinholeCamera | None:
    """The camera that took a sample_data record; None where another sensor did."""
    intrinsics = tables["calibrated_sensor"][sample_data["calibrated_sensor_token"]]["camera_intrinsic"]
    if not intrinsics:
        return None
    return PinholeCamera(sample_data["width"], sample_data["height"], torch.tensor(intrinsics, dtype=torch.float64))


def _keyframes_by_channel(tables: Tables) -> dict[str, dict[str, Row]]:
    """Sample token -> channel -> the record of its keyframe."""
    keyframes: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in tables["sample_data"].values():
        if row["is_key_frame"]:
            keyframes[row["sample_token"]][channel_of(tables, row)] = row
    return dict(keyframes)


def _annotations_by_sample(tables: Tables) -> dict[str, list[Row]]:
    annotations: defaultdict[str, list[Row]] = defaultdict(list)
    for row in tables["sample_annotation"].values():
        annotations[row["sample_token"]].append(row)
    return dict(annotations)


def _samples_by_scene(tables: Tables) -> dict[str, tuple[str, ...]]:
    """Scene name -> its sample tokens in time order."""
    samples: defaultdict[str, list[Row]] = defaultdict(list)
    for row in tables["sample"].values():
        samples[tables["scene"][row["scene_token"]]["name"]].append(row)
    return {
        name: tuple(row["token"] for row in sorted(rows, key=lambda row: (row["timestamp"], row["token"])))
        for name, rows in samples.items()
    }


def _sensor_rows_by_scene(tables: Tables) -> dict[str, list[Row]]:
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for row in tables["sample_data"].values():
        scene = tables["sample"][row["sample_token"]]["scene_token"]
        rows[tables["scene"][scene]["name"]].append(row)
    return dict(rows)
