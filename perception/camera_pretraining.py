"""The camera branch alone, which learns from annotated pictures before it meets the other sensors."""

import torch
from torch import nn

from datasets.samples.batch import Batch
from perception.absent_data import without_absent_data
from perception.camera_branch import CameraBranch
from perception.detector import DetectorConfig
from perception.image_features import ImageFeatures
from perception.losses import Counts, Losses
from perception.tasks.perspective import PerspectiveConfig, PerspectiveHead, check_perspective


class CameraPretraining(nn.Module):
    """A detector's camera branch up to the features of its pictures, and perspective supervision on them.

    A step costs a fraction of a detector's: nothing goes to the BEV, and what the branch has there stays as it was
    made. Weights have the names that they have in a Detector of the same config.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.camera = CameraBranch(check_perspective(config.camera), config.grid, config.channels)
        self.perspective = PerspectiveHead(config.perspective or PerspectiveConfig(), self.camera.backbone.channels)

    def forward(self, batch: Batch) -> ImageFeatures | None:
        """The features of the cameras that are there; None where none is."""
        batch = without_absent_data(batch)
        if not batch.camera_available.any():
            return None
        return self.camera.image_features(
            batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available, batch.lidar
        )

    def loss_counts(self, batch: Batch) -> Counts:
        """What the losses of a batch with annotations are divided by; see Counts."""
        return self.perspective.targets(self.camera, batch).counts()

    def losses(
        self,
        images: ImageFeatures | None,
        batch: Batch,
        generator: torch.Generator | None = None,
        counts: Counts | None = None,
    ) -> Losses:
        """The losses of PerspectiveHead, given the batch that the features are of; `generator` plays no part."""
        losses: Losses = self.perspective.losses(self.camera, images, batch, counts)
        return losses
