"""Frames of a DGP dataset."""

import math
from pathlib import Path

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.dgp.boxes import SceneBoxes, annotations_at, read_scene_boxes
from datasets.dgp.points import read_points
from datasets.dgp.records import DgpSample, DgpScene
from datasets.dgp.scenes import places_of_samples, read_scene, read_splits, scene_files
from datasets.faults import FaultReason, InputRefused, SensorFault, SensorFileError
from datasets.frames import Annotations, CameraImage, LogFrame, PointSweep
from datasets.nuscenes.ego_motion import past_states
from datasets.nuscenes.files import read_file
from datasets.sensors.images import picture_size

_SPLITS = {"train": "0", "val": "1", "test": "2"}


class DgpReader:
    """Frames of a DGP dataset: cameras, LiDAR, 3D boxes with tracks, calibration, poses.

    `root` holds `scene_dataset_*.json`. `lidar_sweeps`: the samples' own clouds, newest first, of one scene.
    `history` and `history_step` (seconds) space the ego states before the frame. `time_scale`: what the stamps must be
    multiplied by to be seconds: 1, but 0.1 for DGP's own test scene, whose stamps lie in the year 2463 and whose cars
    would otherwise drive at a tenth of their speed.
    Raises InputRefused for files that contradict what `datasets.dgp` says, and for stamps outside 2000 to 2100.
    """

    def __init__(
        self,
        root: Path,
        *,
        lidar_sweeps: int = 10,
        history: float = 2.0,
        history_step: float = 0.5,
        time_scale: float = 1.0,
    ) -> None:
        if lidar_sweeps < 1 or history < 0 or history_step <= 0 or not 0 < time_scale < math.inf:
            raise ValueError("lidar_sweeps must be >= 1, history >= 0, history_step and time_scale > 0")
        self.root = root
        self._lidar_sweeps, self._history, self._history_step = lidar_sweeps, history, history_step
        path, splits = read_splits(root)
        self._scenes_of_split = {name: scene_files(path, splits.get(key)) for name, key in _SPLITS.items()}
        files = dict.fromkeys(file for names in self._scenes_of_split.values() for file in names)
        self._scenes = {file: read_scene(root, file, time_scale) for file in files}
        self._place_of = places_of_samples(root, self._scenes.values())
        # By the scene's file.
        self._boxes_of_scene: dict[str, SceneBoxes] = {}

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The samples of "train", "val", "test", "all", or of scenes by their folders' names, separated by commas.

        Raises InputRefused for a name that is none of these, and where nothing of the split is here.
        """
        if split in _SPLITS:
            scenes = [self._scenes[file] for file in self._scenes_of_split[split]]
        else:
            by_name = {scene.name: scene for scene in self._scenes.values()}
            names = list(by_name) if split == "all" else [name.strip() for name in split.split(",")]
            unknown = [name for name in names if name not in by_name]
            if unknown:
                there = ", ".join(list(by_name)[:10])
                raise InputRefused(
                    f"{self.root}: {unknown[0]!r} is neither a split ({', '.join(_SPLITS)}, all) nor a scene here; "
                    f"the scenes here are {there}."
                )
            scenes = [by_name[name] for name in names]
        if not scenes:
            raise InputRefused(f"{self.root}: no scene of the split {split!r} is here.")
        return tuple(sample.token for scene in scenes for sample in scene.samples)

    def frame(self, token: str) -> LogFrame:
        """The frame of a sample. Sensor files that are absent or broken are told in `faults`.

        Raises KeyError for a token that is no sample, InputRefused where a file name leads out of the root.
        """
        scene, position = self._place_of[token]
        sample = scene.samples[position]
        channels = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)
        faults = [
            SensorFault(channel, FaultReason.NOT_RECORDED, f"sample {token} has no {channel}")
            for channel in channels
            if channel not in sample.readings
        ]
        impairments: list[SensorFault] = []
        images: dict[str, CameraImage] = {}
        for channel in filter(sample.readings.__contains__, CAMERA_CHANNELS):
            try:
                images[channel] = self._image(sample, channel)
            except SensorFileError as error:
                faults.append(SensorFault(channel, error.reason, error.detail))
        sweeps = self._sweeps(scene, position, faults, impairments)
        reference = LIDAR_CHANNEL if LIDAR_CHANNEL in sample.readings else next(iter(sample.readings))
        global_from_ego = sample.global_from_ego(reference)
        return LogFrame(
            token=token,
            scene_name=scene.name,
            timestamp_us=sample.timestamp_us,
            global_from_ego=global_from_ego,
            rig=sample.rig,
            ego_states=past_states(
                sample.timestamp_us, global_from_ego, scene.poses, None, None, self._history, self._history_step
            ),
            images=images,
            lidar_sweeps={LIDAR_CHANNEL: sweeps} if sweeps else {},
            radar_sweeps={},
            annotations=self._annotations(scene, position),
            faults=tuple(faults),
            impairments=tuple(impairments),
        )

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        """The samples right before one in its scene, newest first. Raises KeyError for a token that is no sample."""
        scene, position = self._place_of[token]
        return tuple(sample.token for sample in reversed(scene.samples[max(position - count, 0) : position]))

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a sample, without touching a sensor file; None where nobody annotated its cloud."""
        return self._annotations(*self._place_of[token])

    def _image(self, sample: DgpSample, channel: str) -> CameraImage:
        reading = sample.readings[channel]
        encoded = read_file(self.root, reading.filename)
        found, promised = picture_size(encoded, reading.filename), (reading.width, reading.height)
        if found != promised:
            detail = f"{reading.filename}: the picture has {found[0]} x {found[1]} pixels, its scene says {promised}"
            raise SensorFileError(FaultReason.SIZE_MISMATCH, detail)
        return CameraImage(reading.timestamp_us, sample.global_from_ego(channel), encoded, reading.filename)

    def _sweeps(
        self, scene: DgpScene, position: int, faults: list[SensorFault], impairments: list[SensorFault]
    ) -> tuple[PointSweep, ...]:
        """The sample's own cloud and those before it. Without its own there are none; an earlier one is left out."""
        sweeps: list[PointSweep] = []
        if LIDAR_CHANNEL not in scene.samples[position].readings:
            return ()
        first = max(position - self._lidar_sweeps + 1, 0)
        for sample in reversed(scene.samples[first : position + 1]):
            if LIDAR_CHANNEL not in sample.readings:
                continue
            reading = sample.readings[LIDAR_CHANNEL]
            try:
                points, dropped = read_points(self.root, reading)
            except SensorFileError as error:
                (impairments if sweeps else faults).append(SensorFault(LIDAR_CHANNEL, error.reason, error.detail))
                if not sweeps:
                    return ()
                continue
            sweeps.append(PointSweep(reading.timestamp_us, sample.global_from_ego(LIDAR_CHANNEL), points))
            if dropped:
                impairments.append(SensorFault(LIDAR_CHANNEL, FaultReason.NONFINITE_POINTS, dropped))
        return tuple(sweeps)

    def _annotations(self, scene: DgpScene, position: int) -> Annotations | None:
        """The boxes of a sample; None where nobody annotated its cloud."""
        reading = scene.samples[position].readings.get(LIDAR_CHANNEL)
        if reading is None or not reading.boxes_filename:
            return None
        if scene.file not in self._boxes_of_scene:
            self._boxes_of_scene = {scene.file: read_scene_boxes(self.root, scene)}  # frames are read scene by scene
        return annotations_at(self._boxes_of_scene[scene.file], scene, position)
