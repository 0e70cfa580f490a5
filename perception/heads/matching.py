"""Which query answers for which object: one each, at the least cost in all (DETR, Carion et al. 2020)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from perception.heads.box_losses import focal_loss
from perception.rotated_iou import iou_3d_of_all


@dataclass(frozen=True)
class MatchCosts:
    """What weighs how much in a match: TransFusion's three terms (Bai et al. 2022), the distance for each metre.

    TransFusion divides the distance by the range: a metre costs 0.002, and objects that no box overlaps yet are given
    to queries anywhere in the scene. Here what stands near is preferred from the beginning.
    """

    label: float = 0.15
    distance: float = 0.05
    overlap: float = 0.25

    def __post_init__(self) -> None:
        for name in ("label", "distance", "overlap"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, and finite, not {getattr(self, name)}")


@torch.no_grad()
def matching_costs(
    class_logits: Float[Tensor, "Q 10"], found: Boxes3D, truth: Boxes3D, weights: MatchCosts
) -> Float64[Tensor, "Q M"]:
    """What it costs to let query q (its class logits, its box) answer for object m.

    Of the class: what the focal loss grows by if the class of m is right for q; of the centres: |dx| + |dy| on the
    ground; of the overlap: minus the IoU in space.
    """
    logits = class_logits.float()[:, truth.labels]
    growth = focal_loss(logits, torch.ones_like(logits)) - focal_loss(logits, torch.zeros_like(logits))
    distance = (found.centers[:, None, :2] - truth.centers[None, :, :2]).double().abs().sum(dim=-1)
    overlap = iou_3d_of_all(found, truth)
    return weights.label * growth + weights.distance * distance - weights.overlap * overlap


def cheapest_match(costs: Float64[Tensor, "Q M"]) -> tuple[Int64[Tensor, "K"], Int64[Tensor, "K"]]:
    """min(Q, M) pairs of a row and a column, each used once at most, whose costs have the least sum.

    Costs that are not finite (a network that has diverged) are as bad as can be, and no error here: the loss says so.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second: not for commands that match nothing

    finite = torch.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=1e9).clamp(-1e9, 1e9)
    rows, columns = linear_sum_assignment(finite.cpu().numpy())
    return torch.as_tensor(rows, device=costs.device), torch.as_tensor(columns, device=costs.device)
