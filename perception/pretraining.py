"""The sensor branches without fusion and head, which learn from one another: nothing of it needs an annotation."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from datasets.samples.batch import Batch
from perception.absent_data import without_absent_data
from perception.camera_branch import CameraBranch
from perception.cross_modal.alignment import CrossModalAlignment
from perception.cross_modal.places import seen_cells
from perception.detector import DetectorConfig
from perception.fusion.early import EarlyFusionConfig
from perception.lidar_branch import LidarBranch
from perception.losses import Counts, Losses
from perception.radar_branch import RadarBranch


@dataclass(frozen=True)
class BranchBevs:
    """The BEVs of camera, LiDAR and radar, zeros where there is none, and which of them each sample has."""

    modality_bevs: Float[Tensor, "B 3 C Y X"]
    available: Bool[Tensor, "B 3"]


class BranchPretraining(nn.Module):
    """A detector's camera, LiDAR and radar branch, and the cross-modal loss between their BEVs.

    Self-supervised as CLIP (Radford et al. 2021) is, with sensors in the place of picture and text and with cells of
    the BEV in the place of whole pictures. Weights have the names that they have in a Detector of the same config.
    The camera branch gets no LiDAR depth (`lidar_depth`): it would only have to hand on what it is to be compared with.
    The branch of a `teacher` stays as it is, statistics included.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        check_pretraining(config)
        if config.cross_modal is None:
            raise ValueError("pretraining needs the config's cross_modal: it is what is learnt")
        self.config = config
        grid, channels = config.grid, config.channels
        self.camera = None if config.camera is None else CameraBranch(config.camera, grid, channels)
        self.lidar = None if config.lidar is None else LidarBranch(config.lidar, grid, channels)
        self.radar = None if config.radar is None else RadarBranch(config.radar, grid, channels)
        self.cross_modal = CrossModalAlignment(config.cross_modal, grid, channels)
        if self._teacher is not None:
            self._teacher.requires_grad_(False)

    @property
    def _teacher(self) -> nn.Module | None:
        name = self.cross_modal.config.teacher
        return None if name is None else getattr(self, name)

    def train(self, mode: bool = True) -> "BranchPretraining":
        """As of any module, but the teacher stays in evaluation mode."""
        super().train(mode)
        if self._teacher is not None:
            self._teacher.eval()
        return self

    def forward(self, batch: Batch) -> BranchBevs:
        """Run the branches. One whose sensor no sample has is not computed."""
        batch = without_absent_data(batch)
        built = torch.tensor([branch is not None for branch in (self.camera, self.lidar, self.radar)])
        available = batch.availability[:, :3] & built.to(batch.lidar_available.device)
        camera, lidar, radar = available.any(dim=0).tolist()
        zeros = torch.zeros(len(available), self.config.channels, *self.config.grid.shape, device=available.device)
        bevs = [zeros, zeros, zeros]
        if self.camera is not None and camera:
            bevs[0] = self.camera(batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available)
        if self.lidar is not None and lidar:
            bevs[1] = self.lidar(batch.lidar)
        if self.radar is not None and radar:
            bevs[2] = self.radar(batch.radar)
        return BranchBevs(torch.stack([bev.to(zeros.dtype) for bev in bevs], dim=1), available)

    def loss_counts(self, batch: Batch) -> Counts:
        """None: the cross-modal loss is no sum over samples; see `Detector.loss_counts`."""
        return {}

    def losses(
        self,
        bevs: BranchBevs,
        batch: Batch,
        generator: torch.Generator | None = None,
        counts: Counts | None = None,
    ) -> Losses:
        """The cross-modal loss, given the batch that the BEVs are of; its annotations and `counts` play no part.

        generator: a CPU generator for the cells that it looks at (None: torch's own).
        """
        seen = seen_cells(batch, self.config.grid) & bevs.available[:, :, None, None]
        losses: Losses = self.cross_modal(bevs.modality_bevs, seen, generator)
        return losses


def check_pretraining(config: DetectorConfig) -> None:
    """Raise ValueError for a detector that has one sensor alone, or mixes them before their branches."""
    if len(config.sensors) < 2:
        raise ValueError(
            "pretraining compares what two sensors see, and this detector has "
            f"{' and '.join(config.sensors) or 'none'} alone: give it one more of camera, lidar and radar"
        )
    if isinstance(config.fusion, EarlyFusionConfig):
        raise ValueError(
            "early fusion paints image features on the points, so its sensors are not apart: pretrain a config with "
            "another fusion"
        )
