"""From a dataset in DGP format to LogFrames (github.com/TRI-ML/dgp: DDAD and others; synchronized scenes, version 1).

What is converted at this door, and how:

- ego: DGP's vehicle frame as it is: x forward, y left, z up, origin below the rear axle. That it lies on the ground
  is not promised; in the test scene the road is 0.0 to 0.2 m below it.
- cam: DGP's camera frame as it is: x right, y down, z forward. `extrinsics` are ego_from_sensor.
- A datum's `pose` is global_from_sensor at its own time: global_from_ego = pose @ invert(ego_from_sensor).
- LiDAR points are in the LiDAR's frame. Intensity 0..1 becomes 0..255; DGP has no beam numbers: ring is -1.
- A box's pose is lidar_from_box, x along its length, y along its width: that is how Bevel counts yaw, too. Velocities
  are differences along an instance's track, by the rule of nuScenes' `box_velocity`.
- Cameras get the names of the cameras of nuScenes that look the same way (CHANNELS). DGP has no radar.
"""

import io
import lzma
import math
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from calibration.cameras import PinholeCamera
from calibration.rig import SensorRig
from calibration.transforms import Transform, from_quaternion, invert, yaw_of
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, DETECTION_CLASSES, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import FaultReason, InputRefused, SensorFault, SensorFileError
from datasets.frames import Annotations, CameraImage, LogFrame, PointSweep
from datasets.nuscenes.ego_motion import PoseTrack, past_states
from datasets.nuscenes.files import path_under, read_file
from datasets.nuscenes.values import COUNT, NAME, PATH, PIXELS, QUATERNION, SCORE, SIZE, TIME, VECTOR, Kind, read_json
from datasets.sensors.images import picture_size
from datasets.sensors.npy_file import read_npy

# DGP's sensors (as DDAD's vehicles carry them) by the channel of nuScenes that looks the same way.
CHANNELS: Mapping[str, str] = {
    "LIDAR": LIDAR_CHANNEL,
    "CAMERA_01": "CAM_FRONT",
    "CAMERA_05": "CAM_FRONT_LEFT",
    "CAMERA_06": "CAM_FRONT_RIGHT",
    "CAMERA_07": "CAM_BACK_LEFT",
    "CAMERA_08": "CAM_BACK_RIGHT",
    "CAMERA_09": "CAM_BACK",
}
# DGP's classes; one that is not here plays no part in detection.
_CLASS_OF_NAME = {
    "Car": "car",
    "Truck": "truck",
    "Bus/RV/Caravan": "bus",
    "Trailer": "trailer",
    "Towed Object": "trailer",
    "Motorcycle": "motorcycle",
    "Bicycle": "bicycle",
    "Person": "pedestrian",
}
_SPLITS = {"train": "0", "val": "1", "test": "2"}
_BOXES_3D = "1"  # the kind of annotation, in `annotations` and `ontologies`
_MAX_TIME_DIFFERENCE_US = 1_500_000
_MAX_UNPACKED_BYTES = 256 * 2**20
_POINT_FIELDS = ("X", "Y", "Z", "INTENSITY")
_POINT_DTYPES = ("float16", "float32", "float64")
# What zipfile raises: bytes that no method unpacks, an encrypted file, a method that it does not know, and so on.
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(KeyError, ValueError, EOFError, OSError, MemoryError, RuntimeError),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Datum:
    """One reading of one sensor. `filename` and `boxes_filename` ("" where there are none) are relative to the root."""

    timestamp_us: int
    global_from_sensor: Transform
    filename: str
    width: int
    height: int
    point_format: tuple[str, ...]
    boxes_filename: str


@dataclass(frozen=True)
class _Sample:
    """One synchronized sample: its readings by channel, and the rig of its calibration."""

    token: str
    timestamp_us: int
    readings: dict[str, _Datum]
    rig: SensorRig

    def global_from_ego(self, channel: str) -> Transform:
        return self.readings[channel].global_from_sensor @ invert(self.rig.ego_from_sensor[channel])


@dataclass(frozen=True)
class _Scene:
    """One scene. `file` is relative to the root, `name` what the user calls it."""

    file: str
    name: str
    samples: tuple[_Sample, ...]
    class_of_id: dict[int, str]
    poses: PoseTrack


@dataclass(frozen=True)
class _Box:
    """One annotated box, in global."""

    instance: str
    label: int
    global_from_box: Transform
    size_wlh: tuple[float, float, float]
    points: int


class DgpReader:
    """Frames of a DGP dataset: cameras, LiDAR, 3D boxes with tracks, calibration, poses.

    `root` holds `scene_dataset_*.json`. `lidar_sweeps`: the samples' own clouds, newest first, of one scene.
    `history` and `history_step` (seconds) space the ego states before the frame. `time_scale`: what the stamps must be
    multiplied by to be seconds: 1, but 0.1 for DGP's own test scene, whose stamps lie in the year 2463 and whose cars
    would otherwise drive at a tenth of their speed.
    Raises InputRefused for files that contradict what is written above, and for stamps outside 2000 to 2100.
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
        path, splits = _read_splits(root)
        self._scenes_of_split = {name: _scene_files(path, splits.get(key)) for name, key in _SPLITS.items()}
        files = dict.fromkeys(file for names in self._scenes_of_split.values() for file in names)
        self._scenes = {file: _read_scene(root, file, time_scale) for file in files}
        self._place_of = _places(root, self._scenes.values())
        # By the scene's file.
        self._boxes_of_scene: dict[str, tuple[list[list[_Box]], dict[str, list[tuple[int, Any]]]]] = {}

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

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a sample, without touching a sensor file; None where nobody annotated its cloud."""
        return self._annotations(*self._place_of[token])

    def _image(self, sample: _Sample, channel: str) -> CameraImage:
        reading = sample.readings[channel]
        encoded = read_file(self.root, reading.filename)
        found, promised = picture_size(encoded, reading.filename), (reading.width, reading.height)
        if found != promised:
            detail = f"{reading.filename}: the picture has {found[0]} x {found[1]} pixels, its scene says {promised}"
            raise SensorFileError(FaultReason.SIZE_MISMATCH, detail)
        return CameraImage(reading.timestamp_us, sample.global_from_ego(channel), encoded, reading.filename)

    def _sweeps(
        self, scene: _Scene, position: int, faults: list[SensorFault], impairments: list[SensorFault]
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
                points, dropped = _read_points(self.root, reading)
            except SensorFileError as error:
                (impairments if sweeps else faults).append(SensorFault(LIDAR_CHANNEL, error.reason, error.detail))
                if not sweeps:
                    return ()
                continue
            sweeps.append(PointSweep(reading.timestamp_us, sample.global_from_ego(LIDAR_CHANNEL), points))
            if dropped:
                impairments.append(SensorFault(LIDAR_CHANNEL, FaultReason.NONFINITE_POINTS, dropped))
        return tuple(sweeps)

    def _annotations(self, scene: _Scene, position: int) -> Annotations | None:
        """The boxes of a sample; None where nobody annotated its cloud."""
        sample = scene.samples[position]
        if LIDAR_CHANNEL not in sample.readings or not sample.readings[LIDAR_CHANNEL].boxes_filename:
            return None
        if scene.file not in self._boxes_of_scene:
            self._boxes_of_scene = {scene.file: self._read_boxes(scene)}  # frames are read scene by scene
        boxes_of_sample, tracks = self._boxes_of_scene[scene.file]
        boxes = sorted(boxes_of_sample[position], key=lambda box: box.instance)
        velocities = [_velocity(tracks[box.instance], sample.timestamp_us) for box in boxes]
        poses = torch.stack([box.global_from_box for box in boxes]) if boxes else torch.zeros(0, 4, 4).double()
        return Annotations(
            boxes_global=Boxes3D(
                centers=poses[:, :3, 3],
                sizes_wlh=torch.tensor([box.size_wlh for box in boxes], dtype=torch.float64).reshape(-1, 3),
                yaws=yaw_of(poses),
                velocities=torch.tensor(velocities, dtype=torch.float64).reshape(-1, 2),
                labels=torch.tensor([box.label for box in boxes], dtype=torch.int64),
                scores=torch.ones(len(boxes), dtype=torch.float64),
                attributes=torch.full((len(boxes),), -1, dtype=torch.int64),
            ),
            tokens=tuple(f"{sample.token}-{box.instance}" for box in boxes),
            instance_tokens=tuple(f"{scene.name}-{box.instance}" for box in boxes),
            lidar_point_counts=torch.tensor([box.points for box in boxes], dtype=torch.int64),
            radar_point_counts=torch.zeros(len(boxes), dtype=torch.int64),
        )

    def _read_boxes(self, scene: _Scene) -> tuple[list[list[_Box]], dict[str, list[tuple[int, Any]]]]:
        """The boxes of each sample of a scene; and of each instance its times (us) and centres in global."""
        boxes: list[list[_Box]] = []
        tracks: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        for sample in scene.samples:
            reading = sample.readings.get(LIDAR_CHANNEL)
            found = _read_boxes(self.root, reading, scene.class_of_id) if reading and reading.boxes_filename else []
            boxes.append(found)
            for box in found:
                tracks[box.instance].append((sample.timestamp_us, box.global_from_box[:3, 3]))
        return boxes, dict(tracks)


def _places(root: Path, scenes: Iterable[_Scene]) -> dict[str, tuple[_Scene, int]]:
    """The scene and position of each sample's token. Raises InputRefused for a name or a token that occurs twice."""
    by_name: dict[str, _Scene] = {}
    places: dict[str, tuple[_Scene, int]] = {}
    for scene in scenes:
        other = by_name.setdefault(scene.name, scene)
        if other is not scene:
            raise InputRefused(
                f"{root}: {other.file} and {scene.file} are both called {scene.name!r}, by their folder: "
                "give each scene a folder of its own."
            )
        for position, sample in enumerate(scene.samples):
            if sample.token in places:
                first = places[sample.token][0].file
                raise InputRefused(
                    f"{root / scene.file}: the key {sample.token!r:.80} is the first datum of a sample of {first}, "
                    "too: keys must be unique."
                )
            places[sample.token] = scene, position
    return places


def _velocity(track: list[tuple[int, Any]], time_us: int) -> tuple[float, float]:
    """Between the neighbours in a track, or to the one neighbour there is; NaN where they are too far apart in time."""
    here = bisect_left(track, time_us, key=lambda entry: entry[0])  # a track's times rise
    first, last = max(here - 1, 0), min(here + 1, len(track) - 1)
    elapsed_us = track[last][0] - track[first][0]
    if first == last or elapsed_us > _MAX_TIME_DIFFERENCE_US * (last - first):
        return math.nan, math.nan
    moved = (track[last][1] - track[first][1]) / (elapsed_us * 1e-6)
    return float(moved[0]), float(moved[1])


def _read_splits(root: Path) -> tuple[Path, dict[str, Any]]:
    files = sorted(root.glob("scene_dataset_*.json")) if root.is_dir() else []
    if len(files) != 1:
        raise InputRefused(f"{root}: expected one scene_dataset_*.json (DGP format) here, found {len(files)}.")
    splits = _get(files[0], _object(files[0], read_json(files[0])), "scene_splits")
    return files[0], _object(files[0], splits)


def _scene_files(path: Path, split: Any) -> list[str]:
    if split is None:
        return []
    files = _get(path, _object(path, split), "filenames")
    if not isinstance(files, list) or not all(map(PATH.accepts, files)):
        raise InputRefused(f"{path}: field filenames: expected {PATH.expected}, for each scene.")
    return files


def _read_scene(root: Path, filename: str, time_scale: float) -> _Scene:
    path = _path_under(root, filename)
    folder = PurePosixPath(filename).parent
    scene = _object(path, read_json(path))
    listed = _objects(path, scene, "data")
    data = {_get(path, datum, "key", NAME): datum for datum in listed}
    if len(data) < len(listed):
        raise InputRefused(f"{path}: field key: {len(listed) - len(data)} of the data have a key that occurs twice.")
    rigs: dict[str, dict[str, Any]] = {}
    samples = []
    for sample in _objects(path, scene, "samples"):
        calibration = _get(path, sample, "calibration_key", NAME)
        if calibration not in rigs:
            rigs[calibration] = _read_calibration(
                _path_under(root, str(folder / "calibration" / f"{calibration}.json"))
            )
        samples.append(_sample(path, folder, sample, data, rigs[calibration], time_scale))
    samples.sort(key=lambda sample: sample.timestamp_us)
    if not samples or len({sample.timestamp_us for sample in samples}) < len(samples):
        raise InputRefused(f"{path}: field samples: expected one or more samples, each at a time of its own.")
    ontology = _object(path, _get(path, scene, "ontologies")).get(_BOXES_3D)
    classes = _read_ontology(_path_under(root, str(folder / "ontology" / f"{ontology}.json"))) if ontology else {}
    # A scene is called by its folder; one that lies in the root itself by its file.
    name = str(folder) if folder.name else path.stem
    return _Scene(filename, name, tuple(samples), classes, _pose_track(samples))


def _sample(
    path: Path,
    folder: PurePosixPath,
    sample: dict[str, Any],
    data: dict[str, Any],
    sensors: dict[str, Any],
    time_scale: float,
) -> _Sample:
    readings: dict[str, _Datum] = {}
    cameras: dict[str, PinholeCamera] = {}
    keys = _get(path, sample, "datum_keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key in data for key in keys):
        raise InputRefused(f"{path}: field datum_keys: expected keys of data, found {keys!r:.100}.")
    for key in keys:
        name = _get(path, _get(path, data[key], "id", of=dict), "name", NAME)
        if name not in CHANNELS:
            continue
        if name not in sensors:
            raise InputRefused(f"{path}: datum {key}: the calibration has no sensor {name!r}.")
        reading = _datum(path, folder, data[key], time_scale)
        channel = CHANNELS[name]
        readings[channel] = reading
        if channel in CAMERA_CHANNELS:
            cameras[channel] = PinholeCamera(reading.width, reading.height, sensors[name][1])
    if not readings:
        raise InputRefused(f"{path}: a sample has none of the sensors {', '.join(CHANNELS)}.")
    poses = {CHANNELS[name]: ego_from_sensor for name, (ego_from_sensor, _) in sensors.items() if name in CHANNELS}
    reference = readings.get(LIDAR_CHANNEL)
    time = reference.timestamp_us if reference else _time(path, _get(path, sample, "id", of=dict), time_scale)
    return _Sample(keys[0], time, readings, SensorRig(poses, cameras))


def _datum(path: Path, folder: PurePosixPath, datum: dict[str, Any], time_scale: float) -> _Datum:
    kinds = _get(path, datum, "datum", of=dict)
    content = kinds.get("image") or kinds.get("point_cloud")
    content = _object(path, content)
    is_image = "image" in kinds
    annotations = _object(path, content.get("annotations", {}))
    boxes = annotations.get(_BOXES_3D, "")
    if boxes and not PATH.accepts(boxes):
        raise InputRefused(f"{path}: field annotations: expected {PATH.expected}, found {boxes!r:.100}.")
    return _Datum(
        timestamp_us=_time(path, _get(path, datum, "id", of=dict), time_scale),
        global_from_sensor=_pose(path, _get(path, content, "pose", of=dict)),
        filename=str(folder / _get(path, content, "filename", PATH)),
        width=_get(path, content, "width", PIXELS) if is_image else 0,
        height=_get(path, content, "height", PIXELS) if is_image else 0,
        point_format=() if is_image else tuple(map(str, _get(path, content, "point_format", of=list))),
        boxes_filename=str(folder / boxes) if boxes and not is_image else "",
    )


def _read_calibration(path: Path) -> dict[str, Any]:
    """ego_from_sensor and the camera matrix (3, 3) by the sensor's name in DGP; a LiDAR's matrix means nothing."""
    calibration = _object(path, read_json(path))
    names = _get(path, calibration, "names", of=list)
    extrinsics, intrinsics = _objects(path, calibration, "extrinsics"), _objects(path, calibration, "intrinsics")
    if not len(names) == len(extrinsics) == len(intrinsics):
        raise InputRefused(f"{path}: names, extrinsics and intrinsics must be of one length.")
    sensors: dict[str, Any] = {}
    for name, extrinsic, intrinsic in zip(names, extrinsics, intrinsics, strict=True):
        fx, fy, cx, cy, skew = (float(_get(path, intrinsic, key, SCORE)) for key in ("fx", "fy", "cx", "cy", "skew"))
        if str(name) in CHANNELS and CHANNELS[str(name)] in CAMERA_CHANNELS and not (fx > 0 and fy > 0):
            raise InputRefused(f"{path}: {name}: expected positive focal lengths, found {fx} and {fy}.")
        matrix = torch.tensor([[fx, skew, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
        sensors[str(name)] = _pose(path, extrinsic), matrix
    return sensors


def _read_ontology(path: Path) -> dict[int, str]:
    items = _objects(path, _object(path, read_json(path)), "items")
    return {_get(path, item, "id", COUNT): _get(path, item, "name", NAME) for item in items}


def _read_boxes(root: Path, reading: _Datum, class_of_id: dict[int, str]) -> list[_Box]:
    """The boxes of one cloud that are of the ten detection classes."""
    path = _path_under(root, reading.boxes_filename)
    boxes: list[_Box] = []
    for annotation in _objects(path, _object(path, read_json(path)), "annotations"):
        class_id = _get(path, annotation, "class_id", COUNT)
        if class_id not in class_of_id:
            raise InputRefused(f"{path}: field class_id: expected a class of the ontology, found {class_id}.")
        if class_of_id[class_id] not in _CLASS_OF_NAME:
            continue
        box = _get(path, annotation, "box", of=dict)
        size = [box.get(name) for name in ("width", "length", "height")]
        if not SIZE.accepts(size):
            raise InputRefused(f"{path}: field box: expected {SIZE.expected}, found {size!r:.100}.")
        instance = str(_get(path, annotation, "instance_id", COUNT))
        if any(other.instance == instance for other in boxes):
            raise InputRefused(f"{path}: field instance_id: {instance} occurs twice.")
        boxes.append(
            _Box(
                instance=instance,
                label=DETECTION_CLASSES.index(_CLASS_OF_NAME[class_of_id[class_id]]),
                global_from_box=reading.global_from_sensor @ _pose(path, _get(path, box, "pose", of=dict)),
                size_wlh=(float(size[0]), float(size[1]), float(size[2])),
                points=_get(path, annotation, "num_points", COUNT),
            )
        )
    return boxes


def _read_points(root: Path, reading: _Datum) -> tuple[torch.Tensor, str]:
    """The points (P, 5: LIDAR_FIELDS) of a `.npz` file, and a sentence on those that were dropped; SensorFileError."""
    name = reading.filename
    missing = [field for field in _POINT_FIELDS if field not in reading.point_format]
    if missing:
        raise SensorFileError(FaultReason.BAD_HEADER, f"{name}: point_format has no {', '.join(missing)}")
    content = io.BytesIO(read_file(root, name))
    try:
        with zipfile.ZipFile(content) as archive:
            if archive.getinfo("data.npy").file_size > _MAX_UNPACKED_BYTES:
                raise SensorFileError(FaultReason.IMPLAUSIBLE, f"{name}: too many bytes when unpacked")
            table = read_npy(archive.read("data.npy"), _POINT_DTYPES)
    except _BAD_ARCHIVE as error:
        raise SensorFileError(FaultReason.TRUNCATED, f"{name}: not a whole .npz file with `data`: {error}") from None
    if table.ndim != 2 or table.shape[1] != len(reading.point_format):
        raise SensorFileError(FaultReason.BAD_HEADER, f"{name}: expected a table of {reading.point_format}")
    columns = [table[:, reading.point_format.index(field)] for field in _POINT_FIELDS]
    columns[3] = columns[3] * 255.0
    points = np.stack([*columns, np.full(len(table), -1.0)], axis=1).astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise SensorFileError(FaultReason.NO_FINITE_POINTS, f"{name}: not one point has only finite numbers")
    dropped = len(points) - int(finite.sum())
    sentence = f"{name}: {dropped} of {len(points)} points are not finite and were dropped" if dropped else ""
    return torch.from_numpy(points[finite]), sentence


def _path_under(root: Path, filename: str) -> Path:
    """The path of a file that a scene cannot do without. Raises InputRefused for every path that is none."""
    try:
        return path_under(root, filename)
    except SensorFileError as error:
        raise InputRefused(f"{root}: {error.detail}.") from None


def _pose_track(samples: list[_Sample]) -> PoseTrack:
    """All poses of a scene, one for each time: of readings at one time, the LiDAR's."""
    by_time: dict[int, Transform] = {}
    for sample in samples:
        for channel in sorted(sample.readings, key=lambda channel: channel == LIDAR_CHANNEL):
            by_time[sample.readings[channel].timestamp_us] = sample.global_from_ego(channel)
    times = sorted(by_time)
    return PoseTrack(np.array(times, dtype=np.int64), torch.stack([by_time[time] for time in times]))


def _pose(path: Path, pose: dict[str, Any]) -> Transform:
    rotation, translation = _get(path, pose, "rotation", of=dict), _get(path, pose, "translation", of=dict)
    quaternion: list[Any] = [rotation.get(name) for name in ("qw", "qx", "qy", "qz")]
    position: list[Any] = [translation.get(name) for name in "xyz"]
    for kind, value in ((QUATERNION, quaternion), (VECTOR, position)):
        if not kind.accepts(value):
            raise InputRefused(f"{path}: field pose: expected {kind.expected}, found {value!r:.100}.")
    return from_quaternion(
        [float(q) for q in quaternion if q is not None], [float(p) for p in position if p is not None]
    )


def _time(path: Path, identity: dict[str, Any], time_scale: float) -> int:
    stamp = _get(path, identity, "timestamp", NAME)
    try:
        microseconds = (datetime.fromisoformat(stamp) - _EPOCH) / timedelta(microseconds=1)
    except (ValueError, TypeError):
        raise InputRefused(f"{path}: field timestamp: expected a date and time, found {stamp!r:.100}.") from None
    timestamp_us = round(microseconds * time_scale)
    if not TIME.accepts(timestamp_us):
        raise InputRefused(
            f"{path}: field timestamp: expected a time in the years 2000 to 2100, found {stamp}; "
            "time_scale=0.1 is for stamps that count tenths of microseconds, as those of DGP's test scene do."
        )
    return timestamp_us


def _object(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputRefused(f"{path}: expected an object with fields, found {type(value).__name__}.")
    return value


def _objects(path: Path, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [_object(path, value) for value in _get(path, record, name, of=list)]


def _get(path: Path, record: dict[str, Any], name: str, kind: Kind | None = None, of: type | None = None) -> Any:
    """One field of a record, which must be of a kind of value, or of a type. Raises InputRefused."""
    if name not in record:
        raise InputRefused(f"{path}: the field {name} is missing.")
    value = record[name]
    if kind is not None and not kind.accepts(value):
        raise InputRefused(f"{path}: field {name}: expected {kind.expected}, found {value!r:.100}.")
    if of is not None and not isinstance(value, of):
        raise InputRefused(f"{path}: field {name}: expected {of.__name__}, found {value!r:.100}.")
    return value
