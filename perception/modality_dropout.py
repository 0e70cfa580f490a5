"""Modality dropout: in training some samples lose some of their modalities, so that any subset works afterwards."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from datasets.samples.batch import Batch


def drop_modalities(batch: Batch, probability: float, generator: torch.Generator) -> Batch:
    """The batch with some modalities masked, drawn for each sample by itself (a CPU generator).

    With this probability a sample keeps only a random subset of the sensors it has: each non-empty proper subset is as
    likely as any other (UniBEV, Wang et al. 2024, with camera and LiDAR: 0.5, and then one of the two). With the same
    probability, drawn apart, it loses its pose, unless the pose is all it has. No sample loses everything it had. The
    frames before a sample (`Batch.previous`) lose what it loses: a sensor that is not there was not there before.
    """
    available = batch.availability.cpu()
    kept = torch.stack([_draw(row, probability, generator) for row in available])
    # What a sample lacks of itself, the frames before may well have.
    return mask_modalities(batch, (kept | ~available).to(batch.lidar_available.device))


def mask_modalities(batch: Batch, kept: Bool[Tensor, "B 4"]) -> Batch:
    """The batch with only the modalities that `kept` allows, sample by sample, in the order of MODALITIES; so also the
    frames before.

    Only availability changes; the network looks at no data of a sensor that is not available.
    """
    camera, lidar, radar, pose = kept.unbind(1)
    return replace(
        batch,
        camera_available=batch.camera_available & camera[:, None],
        lidar_available=batch.lidar_available & lidar,
        radar_available=batch.radar_available & radar[:, None],
        ego_motion_valid=batch.ego_motion_valid & pose[:, None],
        previous=tuple(mask_modalities(earlier, kept) for earlier in batch.previous),
    )


def _draw(available: Bool[Tensor, "4"], probability: float, generator: torch.Generator) -> Bool[Tensor, "4"]:
    kept = available.clone()
    dropping, dropping_pose = (torch.rand(2, generator=generator) < probability).tolist()
    sensors = torch.nonzero(available[:3]).flatten()
    if dropping and len(sensors) > 1:
        # The subsets of n sensors are the numbers 0 to 2^n - 1, bit by bit: not none (the first), not all (the last).
        subset = int(torch.randint(1, 2 ** len(sensors) - 1, (), generator=generator))
        kept[sensors] = torch.tensor([bool(subset >> bit & 1) for bit in range(len(sensors))])
    if dropping_pose and len(sensors) > 0:
        kept[3] = False
    return kept
