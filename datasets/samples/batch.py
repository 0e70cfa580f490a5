"""A Batch: several Samples side by side, and the same batch with sensors masked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.samples.sample import Sample

Modality = Literal["camera", "lidar", "radar", "pose"]
# The order of the columns of `Batch.availability`.
MODALITIES: tuple[Modality, ...] = ("camera", "lidar", "radar", "pose")


@dataclass(frozen=True)
class PointBatch:
    """The points of all samples one after another. `batch_size` is carried: the last sample may have no point."""

    points: Float32[Tensor, "P C"]
    sample_index: Int64[Tensor, "P"]
    batch_size: int

    @classmethod
    def of(cls, clouds: Sequence[Float32[Tensor, "_ C"]]) -> "PointBatch":
        """One cloud (P_i, C) for each sample; at least one sample."""
        counts = torch.tensor([len(cloud) for cloud in clouds])
        return cls(torch.cat(list(clouds)), torch.repeat_interleave(torch.arange(len(clouds)), counts), len(clouds))

    def to(self, device: torch.device) -> "PointBatch":
        """The same points on a device."""
        return PointBatch(self.points.to(device), self.sample_index.to(device), self.batch_size)

    def without_points(self) -> "PointBatch":
        """The same batch with no point in any sample."""
        return PointBatch(self.points[:0], self.sample_index[:0], self.batch_size)


@dataclass(frozen=True)
class Batch:
    """B samples. Shapes and meanings as in Sample; boxes is None where any sample has no annotations.

    map_masks and map_known: the samples' MapRasters, None where any sample has none. previous: the samples' frames
    before, newest first, each time of all samples; in the place of one that is not there stands a frame without any
    sensor.
    """

    tokens: tuple[str, ...]
    scene_names: tuple[str, ...]
    timestamps_us: Int64[Tensor, "B"]
    images: UInt8[Tensor, "B N 3 H W"]
    intrinsics: Float32[Tensor, "B N 3 3"]
    ego_from_cam: Float32[Tensor, "B N 4 4"]
    camera_available: Bool[Tensor, "B N"]
    lidar: PointBatch
    lidar_available: Bool[Tensor, "B"]
    radar: PointBatch
    radar_available: Bool[Tensor, "B K"]
    ego_motion: Float32[Tensor, "B T 11"]
    ego_motion_valid: Bool[Tensor, "B T"]
    global_from_ego: Float64[Tensor, "B 4 4"]
    boxes: tuple[Boxes3D, ...] | None
    map_masks: Bool[Tensor, "B L Y X"] | None = None
    map_known: Bool[Tensor, "B Y X"] | None = None
    previous: tuple["Batch", ...] = ()

    @property
    def availability(self) -> Bool[Tensor, "B 4"]:
        """Which modality each sample has, in the order of MODALITIES: a modality is there if any of its sensors is."""
        return torch.stack(
            [
                self.camera_available.any(dim=1),
                self.lidar_available,
                self.radar_available.any(dim=1),
                self.ego_motion_valid.any(dim=1),
            ],
            dim=1,
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            tokens=self.tokens,
            scene_names=self.scene_names,
            timestamps_us=self.timestamps_us.to(device),
            images=self.images.to(device),
            intrinsics=self.intrinsics.to(device),
            ego_from_cam=self.ego_from_cam.to(device),
            camera_available=self.camera_available.to(device),
            lidar=self.lidar.to(device),
            lidar_available=self.lidar_available.to(device),
            radar=self.radar.to(device),
            radar_available=self.radar_available.to(device),
            ego_motion=self.ego_motion.to(device),
            ego_motion_valid=self.ego_motion_valid.to(device),
            global_from_ego=self.global_from_ego.to(device),
            boxes=None if self.boxes is None else tuple(boxes.to(device) for boxes in self.boxes),
            map_masks=None if self.map_masks is None else self.map_masks.to(device),
            map_known=None if self.map_known is None else self.map_known.to(device),
            previous=tuple(batch.to(device) for batch in self.previous),
        )

    def without(self, *modalities: Modality) -> "Batch":
        """The same batch as if these sensors had not been there in any sample, nor in the frames before."""
        batch = replace(self, previous=tuple(earlier.without(*modalities) for earlier in self.previous))
        if "camera" in modalities:
            batch = replace(
                batch,
                images=torch.zeros_like(batch.images),
                camera_available=torch.zeros_like(batch.camera_available),
            )
        if "lidar" in modalities:
            batch = replace(
                batch,
                lidar=batch.lidar.without_points(),
                lidar_available=torch.zeros_like(batch.lidar_available),
            )
        if "radar" in modalities:
            batch = replace(
                batch,
                radar=batch.radar.without_points(),
                radar_available=torch.zeros_like(batch.radar_available),
            )
        if "pose" in modalities:
            batch = replace(
                batch,
                ego_motion=torch.zeros_like(batch.ego_motion),
                ego_motion_valid=torch.zeros_like(batch.ego_motion_valid),
            )
        return batch


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of the same SampleConfig to a Batch. Raises ValueError for an empty sequence."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    boxes = [sample.boxes for sample in samples if sample.boxes is not None]
    maps = [sample.map_raster for sample in samples if sample.map_raster is not None]
    mapped = len(maps) == len(samples)
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        scene_names=tuple(sample.scene_name for sample in samples),
        timestamps_us=torch.tensor([sample.timestamp_us for sample in samples]),
        images=torch.stack([sample.images for sample in samples]),
        intrinsics=torch.stack([sample.intrinsics for sample in samples]),
        ego_from_cam=torch.stack([sample.ego_from_cam for sample in samples]),
        camera_available=torch.stack([sample.camera_available for sample in samples]),
        lidar=PointBatch.of([sample.lidar_points for sample in samples]),
        lidar_available=torch.tensor([sample.lidar_available for sample in samples]),
        radar=PointBatch.of([sample.radar_points for sample in samples]),
        radar_available=torch.stack([sample.radar_available for sample in samples]),
        ego_motion=torch.stack([sample.ego_motion for sample in samples]),
        ego_motion_valid=torch.stack([sample.ego_motion_valid for sample in samples]),
        global_from_ego=torch.stack([sample.global_from_ego for sample in samples]),
        boxes=tuple(boxes) if len(boxes) == len(samples) else None,
        map_masks=torch.stack([raster.masks for raster in maps]) if mapped else None,
        map_known=torch.stack([raster.known for raster in maps]) if mapped else None,
        previous=_previous(samples),
    )


def _previous(samples: Sequence[Sample]) -> tuple[Batch, ...]:
    """The frames before, with stand-ins where only other samples of the batch have so many."""
    most = max(len(sample.previous) for sample in samples)
    return tuple(
        collate(
            [
                replace(sample.previous[back], previous=()) if back < len(sample.previous) else _without_sensors(sample)
                for sample in samples
            ]
        )
        for back in range(most)
    )


def _without_sensors(sample: Sample) -> Sample:
    return replace(
        sample,
        images=torch.zeros_like(sample.images),
        camera_available=torch.zeros_like(sample.camera_available),
        lidar_points=sample.lidar_points[:0],
        lidar_available=False,
        radar_points=sample.radar_points[:0],
        radar_available=torch.zeros_like(sample.radar_available),
        ego_motion=torch.zeros_like(sample.ego_motion),
        ego_motion_valid=torch.zeros_like(sample.ego_motion_valid),
        boxes=None,
        map_raster=None,
        previous=(),
    )
