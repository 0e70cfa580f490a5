"""What every fusion strategy is: the modalities' BEVs and the pose in, one BEV out."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FusionStrategy(nn.Module, ABC):
    """Any subset of camera, LiDAR, radar and pose to one BEV; one set of weights serves all subsets.

    Two strategies do more than that, elsewhere: `early` paints the points before their encoders (`PointPainting`), and
    with `late` every sensor has a head of its own (`SensorHeads`).
    """

    @abstractmethod
    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], Float[Tensor, "B M Y X"] | None]:
        """The fused BEV, and how much each modality weighs at each cell, for pictures.

        modality_bevs: camera, LiDAR, radar. availability: in the order of datasets.samples.batch.MODALITIES. What
        stands in the BEV (or the pose) of a modality that is not available has no influence at all.
        The weights are in the same order, in [0, 1] and 0 for an absent modality; three where the pose is not weighed
        against the sensors; None where a strategy has none that could be read (it mixes before or after them).
        """


def without_absent(
    modality_bevs: Float[Tensor, "B 3 C Y X"], pose: Float[Tensor, "B C"], availability: Bool[Tensor, "B 4"]
) -> tuple[Float[Tensor, "B 3 C Y X"], Float[Tensor, "B C"]]:
    """BEVs and pose with zeros where a sample lacks the modality."""
    if availability.all():
        return modality_bevs, pose
    # Chosen, not multiplied: whatever stands in an absent sensor's BEV, NaN too, ends here.
    bevs = torch.where(availability[:, :3, None, None, None], modality_bevs, 0.0)
    return bevs, torch.where(availability[:, 3:], pose, 0.0)


def mean_of_available(
    modality_bevs: Float[Tensor, "B 3 C Y X"], availability: Bool[Tensor, "B 4"]
) -> Float[Tensor, "B C Y X"]:
    """The mean over the sensors that a sample has, of BEVs that are zero for the others; zeros where it has none."""
    count = availability[:, :3].sum(dim=1).clamp(min=1)
    return modality_bevs.sum(dim=1) / count[:, None, None, None]
