"""From the JSON files of a DGP dataset to its scenes."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from calibration.cameras import PinholeCamera
from calibration.rig import SensorRig
from calibration.transforms import Transform
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.dgp.fields import field_of, object_of, objects_of, pose_of, required_path, time_of
from datasets.dgp.records import CHANNELS, Datum, DgpSample, DgpScene
from datasets.faults import InputRefused
from datasets.nuscenes.ego_motion import PoseTrack
from datasets.nuscenes.values import COUNT, NAME, PATH, PIXELS, SCORE, read_json

_BOXES_3D = "1"  # the kind of annotation, in `annotations` and `ontologies`


def read_splits(root: Path) -> tuple[Path, dict[str, Any]]:
    """The file that lists the scenes, and its splits by number. Raises InputRefused where there is no such file."""
    files = sorted(root.glob("scene_dataset_*.json")) if root.is_dir() else []
    if len(files) != 1:
        raise InputRefused(f"{root}: expected one scene_dataset_*.json (DGP format) here, found {len(files)}.")
    splits = field_of(files[0], object_of(files[0], read_json(files[0])), "scene_splits")
    return files[0], object_of(files[0], splits)


def scene_files(path: Path, split: Any) -> list[str]:
    """The files of a split's scenes, relative to the root; none of a split that is not listed."""
    if split is None:
        return []
    files = field_of(path, object_of(path, split), "filenames")
    if not isinstance(files, list) or not all(map(PATH.accepts, files)):
        raise InputRefused(f"{path}: field filenames: expected {PATH.expected}, for each scene.")
    return files


def read_scene(root: Path, filename: str, time_scale: float) -> DgpScene:
    """One scene of its file (relative to the root). Raises InputRefused for what contradicts `datasets.dgp`."""
    path = required_path(root, filename)
    folder = PurePosixPath(filename).parent
    scene = object_of(path, read_json(path))
    listed = objects_of(path, scene, "data")
    data = {field_of(path, datum, "key", NAME): datum for datum in listed}
    if len(data) < len(listed):
        raise InputRefused(f"{path}: field key: {len(listed) - len(data)} of the data have a key that occurs twice.")
    rigs: dict[str, dict[str, Any]] = {}
    samples = []
    for sample in objects_of(path, scene, "samples"):
        calibration = field_of(path, sample, "calibration_key", NAME)
        if calibration not in rigs:
            rigs[calibration] = _read_calibration(
                required_path(root, str(folder / "calibration" / f"{calibration}.json"))
            )
        samples.append(_sample(path, folder, sample, data, rigs[calibration], time_scale))
    samples.sort(key=lambda sample: sample.timestamp_us)
    if not samples or len({sample.timestamp_us for sample in samples}) < len(samples):
        raise InputRefused(f"{path}: field samples: expected one or more samples, each at a time of its own.")
    ontology = object_of(path, field_of(path, scene, "ontologies")).get(_BOXES_3D)
    classes = _read_ontology(required_path(root, str(folder / "ontology" / f"{ontology}.json"))) if ontology else {}
    # A scene is called by its folder; one that lies in the root itself by its file.
    name = str(folder) if folder.name else path.stem
    return DgpScene(filename, name, tuple(samples), classes, _pose_track(samples))


def _sample(
    path: Path,
    folder: PurePosixPath,
    sample: dict[str, Any],
    data: dict[str, Any],
    sensors: dict[str, Any],
    time_scale: float,
) -> DgpSample:
    readings: dict[str, Datum] = {}
    cameras: dict[str, PinholeCamera] = {}
    keys = field_of(path, sample, "datum_keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key in data for key in keys):
        raise InputRefused(f"{path}: field datum_keys: expected keys of data, found {keys!r:.100}.")
    for key in keys:
        name = field_of(path, field_of(path, data[key], "id", of=dict), "name", NAME)
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
    time = reference.timestamp_us if reference else time_of(path, field_of(path, sample, "id", of=dict), time_scale)
    return DgpSample(keys[0], time, readings, SensorRig(poses, cameras))


def _datum(path: Path, folder: PurePosixPath, datum: dict[str, Any], time_scale: float) -> Datum:
    kinds = field_of(path, datum, "datum", of=dict)
    content = kinds.get("image") or kinds.get("point_cloud")
    content = object_of(path, content)
    is_image = "image" in kinds
    annotations = object_of(path, content.get("annotations", {}))
    boxes = annotations.get(_BOXES_3D, "")
    if boxes and not PATH.accepts(boxes):
        raise InputRefused(f"{path}: field annotations: expected {PATH.expected}, found {boxes!r:.100}.")
    return Datum(
        timestamp_us=time_of(path, field_of(path, datum, "id", of=dict), time_scale),
        global_from_sensor=pose_of(path, field_of(path, content, "pose", of=dict)),
        filename=str(folder / field_of(path, content, "filename", PATH)),
        width=field_of(path, content, "width", PIXELS) if is_image else 0,
        height=field_of(path, content, "height", PIXELS) if is_image else 0,
        point_format=() if is_image else tuple(map(str, field_of(path, content, "point_format", of=list))),
        boxes_filename=str(folder / boxes) if boxes and not is_image else "",
    )


def _read_calibration(path: Path) -> dict[str, Any]:
    """ego_from_sensor and the camera matrix (3, 3) by the sensor's name in DGP; a LiDAR's matrix means nothing."""
    calibration = object_of(path, read_json(path))
    names = field_of(path, calibration, "names", of=list)
    extrinsics, intrinsics = objects_of(path, calibration, "extrinsics"), objects_of(path, calibration, "intrinsics")
    if not len(names) == len(extrinsics) == len(intrinsics):
        raise InputRefused(f"{path}: names, extrinsics and intrinsics must be of one length.")
    sensors: dict[str, Any] = {}
    for name, extrinsic, intrinsic in zip(names, extrinsics, intrinsics, strict=True):
        fx, fy, cx, cy, skew = (
            float(field_of(path, intrinsic, key, SCORE)) for key in ("fx", "fy", "cx", "cy", "skew")
        )
        if str(name) in CHANNELS and CHANNELS[str(name)] in CAMERA_CHANNELS and not (fx > 0 and fy > 0):
            raise InputRefused(f"{path}: {name}: expected positive focal lengths, found {fx} and {fy}.")
        matrix = torch.tensor([[fx, skew, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
        sensors[str(name)] = pose_of(path, extrinsic), matrix
    return sensors


def _read_ontology(path: Path) -> dict[int, str]:
    items = objects_of(path, object_of(path, read_json(path)), "items")
    return {field_of(path, item, "id", COUNT): field_of(path, item, "name", NAME) for item in items}


def _pose_track(samples: list[DgpSample]) -> PoseTrack:
    """All poses of a scene, one for each time: of readings at one time, the LiDAR's."""
    by_time: dict[int, Transform] = {}
    for sample in samples:
        for channel in sorted(sample.readings, key=lambda channel: channel == LIDAR_CHANNEL):
            by_time[sample.readings[channel].timestamp_us] = sample.global_from_ego(channel)
    times = sorted(by_time)
    return PoseTrack(np.array(times, dtype=np.int64), torch.stack([by_time[time] for time in times]))


def places_of_samples(root: Path, scenes: Iterable[DgpScene]) -> dict[str, tuple[DgpScene, int]]:
    """The scene and position of each sample's token. Raises InputRefused for a name or a token that occurs twice."""
    by_name: dict[str, DgpScene] = {}
    places: dict[str, tuple[DgpScene, int]] = {}
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
