"""The losses that heads are made of, in float32 whatever the network computes in."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from perception.grid import BevGrid
from perception.heads.box_codes import CODE_SLICES, BoxRegression, CellIndex, attributes_allowed
from perception.heads.quality import QualityConfig, overlaps, quality_loss

# Of the focal loss of yes or no.
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0

# The bias of a layer whose focal loss says where something is: sigmoid(-2.19) = 0.1, so that at first everything is
# unlikely (Lin et al. 2017), or the empty places drown the rest.
UNLIKELY_LOGIT = -2.19


def gaussian_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], positives: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """CornerNet's focal loss (Law and Deng 2018; alpha 2, beta 4), summed and divided by `positives`.

    A cell is positive where its target is exactly 1; elsewhere the nearer the target is to 1 the less an answer costs.
    """
    logits, targets = logits.float(), targets.float()
    probability = logits.sigmoid()
    found = F.logsigmoid(logits) * (1 - probability).square() * (targets == 1)
    silent = (F.logsigmoid(logits) - logits) * probability.square() * (1 - targets).square().square()
    return -(found + silent).sum() / positives


def focal_loss(logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The focal loss of yes or no (Lin et al. 2017) at each place; targets 0 or 1."""
    logits = logits.float()
    probability = logits.sigmoid()
    found = -FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * F.logsigmoid(logits)
    silent = -(1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * F.logsigmoid(-logits)
    return torch.where(targets > 0, found, silent)


def code_losses(
    codes: Float[Tensor, "K 11"], targets: Float[Tensor, "K 11"], share: Float[Tensor, "K"]
) -> dict[str, Float[Tensor, ""]]:
    """By the names of CODE_SLICES: L1 to the targets, and the cross-entropy of the front. `share`: what each counts.

    Unknown (NaN) targets play no part.
    """
    codes = codes.float()
    difference = (codes - targets.nan_to_num()).abs() * targets.isfinite()
    parts = {name: (difference[:, part].sum(dim=1) * share).sum() for name, part in CODE_SLICES.items()}
    # The side on which the front is: the target is +1 or -1, the code a logit.
    front = CODE_SLICES["front"]
    parts["front"] = (F.softplus(-codes[:, front] * targets[:, front])[:, 0] * share).sum()
    return parts


def attribute_loss(
    logits: Float[Tensor, "K 8"], attributes: Int64[Tensor, "K"], labels: Int64[Tensor, "K"], share: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Cross-entropy among the attributes that the object's class can have; those without one (-1) play no part."""
    allowed = attributes_allowed(labels)
    # An attribute that the class cannot have is an error of the data and no example to learn from.
    known = (attributes >= 0) & allowed.gather(1, attributes.clamp(min=0)[:, None])[:, 0]
    logits = logits.float()[known].masked_fill(~allowed[known], float("-inf"))
    return (F.cross_entropy(logits, attributes[known], reduction="none") * share[known]).sum()


@runtime_checkable
class BoxWeights(Protocol):
    """What the parts of a box count: the fields of that name in a head's config."""

    @property
    def box_weight(self) -> float:
        """Of offset, height, size and axis."""

    @property
    def velocity_weight(self) -> float:
        """Of the velocity."""

    @property
    def front_weight(self) -> float:
        """Of which side the front is on."""

    @property
    def attribute_weight(self) -> float:
        """Of the attribute."""

    @property
    def quality(self) -> QualityConfig | None:
        """The quality branch, or None without one."""


def weighted_box_losses(
    config: BoxWeights,
    found: BoxRegression,
    targets: Float[Tensor, "K 11"],
    attributes: Int64[Tensor, "K"],
    labels: Int64[Tensor, "K"],
    cells: CellIndex,
    grid: BevGrid,
    share: Float[Tensor, "K"],
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses of K boxes, by name, against the codes, attributes and labels of the objects they answer for.

    `share`: what each box counts. The quality is learnt only where the config has the branch.
    """
    weights = {"velocity": config.velocity_weight, "front": config.front_weight}
    parts = {
        name: weights.get(name, config.box_weight) * loss
        for name, loss in code_losses(found.codes, targets, share).items()
    }
    parts["attribute"] = config.attribute_weight * attribute_loss(found.attribute_logits, attributes, labels, share)
    if config.quality is not None and found.quality_logits is not None:
        overlap = overlaps(found.codes, targets, cells, grid)
        parts["quality"] = config.quality.weight * quality_loss(found.quality_logits, overlap, share)
    return parts
