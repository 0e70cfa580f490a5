"""The ground truth of a split, out of the index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES
from datasets.faults import InputRefused
from datasets.nuscenes.annotations import labels_of_instances
from datasets.nuscenes.detection_metric.boxes import BicycleRacks, DetectionTruth, EvaluatedSamples, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import BICYCLE_RACK
from datasets.nuscenes.index.records import NuScenesIndex, SceneRecords
from datasets.nuscenes.splits import scenes_of_split
from datasets.nuscenes.values import refuse_value

_PLACED = ("translation", "size", "rotation")


def load_truth(index: NuScenesIndex, version: str, split: str, where: Path) -> DetectionTruth:
    """The samples and annotations of a split: official (of which the scenes that are present count), "all", or names.

    `where`: the folder of the tables.
    Raises InputRefused for an unknown split, one without annotations of the ten classes, and annotations that the
    metric does not know: with several attributes, or with one that nuScenes does not have.
    """
    names = scenes_of_split(split, index.scene_names, version, where=str(where))
    scenes = [index.scene(index.scene_names.index(name)) for name in names]
    samples = _samples(names, scenes)
    starts = np.cumsum([0, *(len(scene.samples.token) for scene in scenes)])
    parts = [_boxes(index, scene, int(start), samples, where) for scene, start in zip(scenes, starts, strict=False)]
    boxes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(boxes["label"]):
        raise InputRefused(
            f"{where / 'sample_annotation.json'}: the split {split!r} has no annotations of the ten detection classes, "
            "so there is nothing to evaluate against."
        )
    return DetectionTruth(samples, TruthBoxes(**boxes), racks_of(index, scenes))


def _samples(names: tuple[str, ...], scenes: Sequence[SceneRecords]) -> EvaluatedSamples:
    return EvaluatedSamples(
        tokens=tuple(token for scene in scenes for token in scene.samples.token),
        scene_names=names,
        scene=np.repeat(np.arange(len(scenes), dtype=np.int32), [len(scene.samples.token) for scene in scenes]),
        timestamp=np.concatenate([scene.samples.timestamp for scene in scenes]),
        ego_translation=np.concatenate(
            [scene.sample_data.pose_translation[scene.samples.reference] for scene in scenes]
        ),
    )


def _boxes(
    index: NuScenesIndex, scene: SceneRecords, start: int, samples: EvaluatedSamples, where: Path
) -> dict[str, NDArray[Any]]:
    """The columns of TruthBoxes of one scene, whose samples begin at row `start`."""
    records = scene.annotations
    labels = labels_of_instances(index, records.instance)
    rows = np.flatnonzero(labels >= 0)
    # As in the table: of two annotations as near to a detection the first one matches.
    rows = rows[np.lexsort((records.table_row[rows], records.sample[rows]))]
    sample = records.sample[rows] + np.int32(start)
    columns = {name: getattr(records, name)[rows] for name in (*_PLACED, "velocity", "num_lidar_pts", "num_radar_pts")}
    return columns | {
        "sample": sample,
        "label": labels[rows].astype(np.int32),
        "attribute": _attributes(index, scene, rows, where),
        "ego_distance": samples.ego_distance(sample, columns["translation"]),
        "annotation": rows.astype(np.int32),
        "instance": records.instance[rows],
        "visibility": records.visibility[rows],
    }


def _attributes(index: NuScenesIndex, scene: SceneRecords, rows: NDArray[np.int64], where: Path) -> NDArray[np.int32]:
    attributes = scene.annotations.attributes[rows]
    several = (attributes >= 0).sum(axis=1) > 1
    if several.any():
        token = scene.annotations.token[int(rows[several][0])]
        found = [index.attributes[number] for number in attributes[several][0] if number >= 0]
        expected = "at most one attribute, as the official metric does"
        refuse_value(where / "sample_annotation.json", token, "attribute_tokens", expected, found)
    for number in np.unique(attributes[attributes >= 0]):
        if (name := index.attributes[number]) not in ATTRIBUTES:
            raise InputRefused(
                f"{where / 'attribute.json'}: field name: expected one of {', '.join(ATTRIBUTES)}, found {name!r}."
            )
    known = [ATTRIBUTES.index(name) if name in ATTRIBUTES else -1 for name in index.attributes]
    first = attributes[:, 0] if attributes.size else np.full(len(rows), -1)
    return np.asarray(np.array([*known, -1], dtype=np.int32)[first])  # -1, none, leads to the last one


def racks_of(index: NuScenesIndex, scenes: Sequence[SceneRecords]) -> BicycleRacks:
    """The bicycle racks of these scenes; `sample` counts through all of the scenes' samples, scene after scene."""
    starts = np.cumsum([0, *(len(scene.samples.token) for scene in scenes)])
    is_rack = np.array([category == BICYCLE_RACK for category in index.categories], dtype=np.bool_)
    rows = [np.flatnonzero(is_rack[index.category_of_instance[scene.annotations.instance]]) for scene in scenes]
    samples = [
        scene.annotations.sample[chosen] + np.int32(start)
        for scene, chosen, start in zip(scenes, rows, starts, strict=False)
    ]
    placed = [
        np.concatenate([getattr(scene.annotations, name)[chosen] for scene, chosen in zip(scenes, rows, strict=True)])
        for name in _PLACED
    ]
    return BicycleRacks(np.concatenate(samples), *placed)
