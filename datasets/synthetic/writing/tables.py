"""The thirteen tables of nuScenes v1.0, and those that its LiDAR segmentation adds."""

import numpy as np
import torch

from calibration.transforms import to_quaternion
from datasets.classes import ATTRIBUTES, CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.synthetic.can_bus.positioning import LOCATION
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.lidar.lidarseg import CATEGORIES, labels_file
from datasets.synthetic.rig import CHANNELS, MOUNTS, camera, modality
from datasets.synthetic.schedule import Shot, log_name, scene_start_us, shots_of, token
from datasets.synthetic.world import World
from datasets.synthetic.writing.annotations import Annotation
from datasets.synthetic.writing.recording import file_name
from datasets.synthetic.writing.scene_faults import scene_faults

Row = dict[str, object]

# nuScenes' visibility levels: token, and the share of the object up to which it applies.
_VISIBILITY: tuple[tuple[str, int, int], ...] = (("1", 0, 40), ("2", 40, 60), ("3", 60, 80), ("4", 80, 100))


def constant_tables(config: WorldConfig) -> dict[str, list[Row]]:
    """The tables that do not depend on what happens: categories, attributes, visibility levels, sensors."""
    return {
        "category": [
            {"token": token(config, "category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [{"token": token(config, "attribute", n), "name": n, "description": ""} for n in ATTRIBUTES],
        "visibility": [
            {
                "token": level,
                "level": f"v{low}-{high}",
                "description": f"visibility of whole object is between {low} and {high}%",
            }
            for level, low, high in _VISIBILITY
        ],
        "sensor": [{"token": token(config, "sensor", c), "channel": c, "modality": modality(c)} for c in CHANNELS],
    }


def scene_tables(
    config: WorldConfig, index: int, world: World, annotations: dict[int, list[Annotation]]
) -> dict[str, list[Row]]:
    """The rows that one scene adds to the other ten tables."""
    faults = scene_faults(config, index)
    shots = {c: [shot for shot in shots if faults.has_record(shot)] for c, shots in shots_of(config, index).items()}
    tables = {"log": [_log(config, index)], "map": [_map(config, index)]}
    tables["scene"] = [_scene(config, index, world)]
    tables["sample"] = _samples(config, index, shots[LIDAR_CHANNEL])
    tables["calibrated_sensor"] = [_calibrated(config, index, channel) for channel in CHANNELS]
    tables["ego_pose"] = [_ego_pose(config, index, world, shot) for c in CHANNELS for shot in shots[c]]
    tables["sample_data"] = [row for c in CHANNELS for row in _sample_data(config, index, shots[c])]
    tables["lidarseg"] = _lidarseg(config, index, [s for s in shots[LIDAR_CHANNEL] if faults.has_file(s)])
    tables["instance"], tables["sample_annotation"] = _instances(config, index, world, annotations)
    return tables


def map_file(config: WorldConfig, index: int) -> str:
    """Where the scene's map mask is stored, relative to the dataset's root."""
    return f"maps/{token(config, 'map', index)}.png"


def _log(config: WorldConfig, index: int) -> Row:
    name = log_name(config, index)
    return {
        "token": token(config, "log", index),
        "logfile": name,
        "vehicle": name[:4],
        "date_captured": name[5:15],
        "location": LOCATION,
    }


def _map(config: WorldConfig, index: int) -> Row:
    return {
        "category": "semantic_prior",
        "token": token(config, "map", index),
        "filename": map_file(config, index),
        "log_tokens": [token(config, "log", index)],
    }


def _scene(config: WorldConfig, index: int, world: World) -> Row:
    return {
        "token": token(config, "scene", index),
        "log_token": token(config, "log", index),
        "nbr_samples": config.keyframes,
        "first_sample_token": token(config, "sample", index, 0),
        "last_sample_token": token(config, "sample", index, config.keyframes - 1),
        "name": config.scene_names[index],
        "description": world.description,
    }


def _samples(config: WorldConfig, index: int, lidar_shots: list[Shot]) -> list[Row]:
    last = config.keyframes - 1
    return [
        {
            "token": token(config, "sample", index, shot.keyframe),
            "timestamp": shot.timestamp_us,
            "prev": token(config, "sample", index, shot.keyframe - 1) if shot.keyframe else "",
            "next": token(config, "sample", index, shot.keyframe + 1) if shot.keyframe < last else "",
            "scene_token": token(config, "scene", index),
        }
        for shot in lidar_shots
        if shot.is_key_frame
    ]


def _calibrated(config: WorldConfig, index: int, channel: str) -> Row:
    mount = MOUNTS[channel]
    intrinsics = camera(channel, config.image_width).intrinsics.tolist() if channel in CAMERA_CHANNELS else []
    return {
        "token": token(config, "calibrated_sensor", index, channel),
        "sensor_token": token(config, "sensor", channel),
        "translation": list(mount.translation),
        "rotation": list(mount.rotation_wxyz),
        "camera_intrinsic": intrinsics,
    }


def _ego_pose(config: WorldConfig, index: int, world: World, shot: Shot) -> Row:
    pose = world.drive.world_from_ego((shot.timestamp_us - scene_start_us(config, index)) * 1e-6)
    return {
        "token": token(config, "sample_data", index, shot.channel, shot.number),
        "timestamp": shot.timestamp_us,
        "rotation": list(to_quaternion(torch.from_numpy(pose))),
        "translation": (pose[:3, 3] + world.global_offset).tolist(),
    }


def _sample_data(config: WorldConfig, index: int, shots: list[Shot]) -> list[Row]:
    rows: list[Row] = []
    tokens = ["", *(token(config, "sample_data", index, shot.channel, shot.number) for shot in shots), ""]
    for i, shot in enumerate(shots):
        before, own, after = tokens[i : i + 3]
        is_camera = shot.channel in CAMERA_CHANNELS
        rows.append(
            {
                "token": own,
                "sample_token": token(config, "sample", index, shot.keyframe),
                "ego_pose_token": own,
                "calibrated_sensor_token": token(config, "calibrated_sensor", index, shot.channel),
                "timestamp": shot.timestamp_us,
                "fileformat": "jpg" if is_camera else "pcd",
                "is_key_frame": shot.is_key_frame,
                "height": config.image_height if is_camera else 0,
                "width": config.image_width if is_camera else 0,
                "filename": file_name(config, index, shot),
                "prev": before,
                "next": after,
            }
        )
    return rows


def _lidarseg(config: WorldConfig, index: int, lidar_shots: list[Shot]) -> list[Row]:
    tokens = [
        token(config, "sample_data", index, shot.channel, shot.number) for shot in lidar_shots if shot.is_key_frame
    ]
    return [{"token": t, "sample_data_token": t, "filename": labels_file(config.version, t)} for t in tokens]


def _instances(
    config: WorldConfig, index: int, world: World, annotations: dict[int, list[Annotation]]
) -> tuple[list[Row], list[Row]]:
    """Tracks and their annotations: from the first keyframe at which a LiDAR or radar point met the object to the last.

    In between it is annotated also while it is hidden; what no point ever met does not appear.
    """
    by_user: dict[int, list[tuple[int, Annotation]]] = {}
    for keyframe in sorted(annotations):
        for annotation in annotations[keyframe]:
            by_user.setdefault(annotation.user, []).append((keyframe, annotation))
    instances: list[Row] = []
    rows: list[Row] = []
    for number, track in sorted(by_user.items()):
        met = [i for i, (_, annotation) in enumerate(track) if annotation.lidar_points + annotation.radar_points]
        if not met:
            continue
        track = track[met[0] : met[-1] + 1]
        tokens = [token(config, "sample_annotation", index, number, keyframe) for keyframe, _ in track]
        instances.append(
            {
                "token": token(config, "instance", index, number),
                "category_token": token(config, "category", world.users[number].category),
                "nbr_annotations": len(track),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )
        links = ["", *tokens, ""]
        for i, (keyframe, annotation) in enumerate(track):
            rows.append(_annotation(config, index, world, keyframe, annotation, links[i : i + 3]))
    return instances, rows


def _annotation(
    config: WorldConfig, index: int, world: World, keyframe: int, annotation: Annotation, links: list[str]
) -> Row:
    attribute = annotation.attribute
    level = int(np.searchsorted([0.4, 0.6, 0.8], annotation.visibility, side="right"))
    return {
        "token": links[1],
        "sample_token": token(config, "sample", index, keyframe),
        "instance_token": token(config, "instance", index, annotation.user),
        "visibility_token": _VISIBILITY[level][0],
        "attribute_tokens": [token(config, "attribute", attribute)] if attribute is not None else [],
        "translation": list(annotation.translation),
        "size": list(world.users[annotation.user].body.size_wlh),
        "rotation": list(annotation.rotation_wxyz),
        "prev": links[0],
        "next": links[2],
        "num_lidar_pts": annotation.lidar_points,
        "num_radar_pts": annotation.radar_points,
    }
