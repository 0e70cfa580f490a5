"""The losses of the centre head, in float32 whatever the network computes in."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS
from perception.center_head import CenterHeadConfig
from perception.center_targets import CODE_SLICES, CenterTargets


@dataclass(frozen=True)
class Losses:
    """`total` is the sum of the weighted `parts`; the parts by name, detached, for the log."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def gaussian_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], positives: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """CornerNet's focal loss (Law and Deng 2018; alpha 2, beta 4), summed and divided by `positives` (at least 1).

    A cell is positive where its target is exactly 1; elsewhere the nearer the target is to 1 the less an answer costs.
    """
    logits, targets = logits.float(), targets.float()
    probability = logits.sigmoid()
    found = F.logsigmoid(logits) * (1 - probability).square() * (targets == 1)
    silent = (F.logsigmoid(logits) - logits) * probability.square() * (1 - targets).square().square()
    return -(found + silent).sum() / positives.clamp(min=1)


def attributes_allowed(labels: Int64[Tensor, "K"]) -> Bool[Tensor, "K 8"]:
    """Which attributes objects of these classes can have."""
    table = torch.zeros(len(ATTRIBUTES_OF_CLASS), len(ATTRIBUTES), dtype=torch.bool, device=labels.device)
    for label, allowed in enumerate(ATTRIBUTES_OF_CLASS):
        table[label, list(allowed)] = True
    return table[labels]


def center_losses(
    config: CenterHeadConfig,
    heatmap_logits: Float[Tensor, "B 10 Y X"],
    codes: Float[Tensor, "K 11"],
    attribute_logits: Float[Tensor, "K 8"],
    targets: CenterTargets,
) -> Losses:
    """The weighted losses: the heatmap's divided by the number of peaks, the others by the cells' weights.

    Unknown (NaN) velocities and attributes play no part. Without any object everything but the heatmap is 0, with
    zero gradients.
    """
    share = targets.weights / targets.weights.sum().clamp(min=1)
    parts = {
        "heatmap": config.heatmap_weight
        * gaussian_focal_loss(heatmap_logits, targets.heatmap, (targets.heatmap == 1).sum().float())
    }
    difference = (codes.float() - targets.codes.nan_to_num()).abs() * targets.codes.isfinite()
    for name, part in CODE_SLICES.items():
        if name != "front":
            weight = config.velocity_weight if name == "velocity" else config.box_weight
            parts[name] = weight * (difference[:, part].sum(dim=1) * share).sum()
    parts["front"] = config.front_weight * (_front_loss(codes.float(), targets.codes) * share).sum()
    parts["attribute"] = config.attribute_weight * _attribute_loss(attribute_logits.float(), targets, share)
    total = torch.stack(list(parts.values())).sum()
    return Losses(total, {name: part.detach() for name, part in parts.items()})


def _front_loss(codes: Float[Tensor, "K 11"], targets: Float[Tensor, "K 11"]) -> Float[Tensor, "K"]:
    """Cross-entropy of the side on which the front is: the target is +1 or -1, the code a logit."""
    part = CODE_SLICES["front"]
    return F.softplus(-codes[:, part] * targets[:, part])[:, 0]


def _attribute_loss(
    logits: Float[Tensor, "K 8"], targets: CenterTargets, share: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Cross-entropy among the attributes that the object's class can have."""
    allowed = attributes_allowed(targets.labels)
    # An attribute that the class cannot have is an error of the data and no example to learn from.
    known = (targets.attributes >= 0) & allowed.gather(1, targets.attributes.clamp(min=0)[:, None])[:, 0]
    logits = logits[known].masked_fill(~allowed[known], float("-inf"))
    return (F.cross_entropy(logits, targets.attributes[known], reduction="none") * share[known]).sum()
