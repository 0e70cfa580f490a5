"""Map segmentation: for each cell of the BEV, whether it belongs to each class of the map."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from datasets.samples.sample import MAP_CLASSES
from perception.bev_neck import CellLinear, ConvBlock
from perception.heads.box_losses import focal_loss
from perception.losses import Losses

# From which probability on a cell counts as of the class; the best one counts (BEVFusion, Liu et al. 2023).
IOU_THRESHOLDS: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65)


@dataclass(frozen=True)
class SegmentationConfig:
    """`channels` and `layers`: of the convolutions on the fused BEV. Weights: of the parts of the loss."""

    channels: int = 32
    layers: int = 2
    focal_weight: float = 1.0
    dice_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.channels < 1 or self.layers < 1:
            raise ValueError(f"channels and layers must be at least 1, not {self.channels} and {self.layers}")
        for name in ("focal_weight", "dice_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, and finite, not {getattr(self, name)}")


class SegmentationHead(nn.Module):
    """The fused BEV to one logit for each class (MAP_CLASSES) at each cell."""

    def __init__(self, config: SegmentationConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        widths = [channels] + [config.channels] * config.layers
        self.layers = nn.Sequential(*(ConvBlock(width, config.channels) for width in widths[:-1]))
        self.classify = CellLinear(config.channels, len(MAP_CLASSES))

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B L Y X"]:
        """Logits."""
        out: Tensor = self.classify(self.layers(bev))
        return out

    def losses(
        self,
        logits: Float[Tensor, "B L Y X"],
        masks: Bool[Tensor, "B L Y X"],
        known: Bool[Tensor, "B Y X"],
        known_count: Float[Tensor, ""] | None = None,
    ) -> Losses:
        """Focal loss (the mean over the known cells) and dice loss; 0 where no cell is known.

        `known_count`: by which number of cells the focal loss is divided, instead of those here.
        """
        logits, inside = logits.float(), known[:, None].expand_as(masks)
        cells = known.sum().clamp(min=1).float() if known_count is None else known_count
        focal = (focal_loss(logits, masks.float()) * inside).sum() / (cells * masks.shape[1])
        config = self.config
        return Losses.of(
            {"focal": config.focal_weight * focal, "dice": config.dice_weight * dice_loss(logits, masks, known)}
        )


def dice_loss(
    logits: Float[Tensor, "B L Y X"], masks: Bool[Tensor, "B L Y X"], known: Bool[Tensor, "B Y X"]
) -> Float[Tensor, ""]:
    """1 - 2 p m / (p^2 + m^2), sums over all known cells (Milletari et al. 2016); the mean over the classes."""
    probability = logits.float().sigmoid() * known[:, None]
    mask = (masks & known[:, None]).float()
    common = (probability * mask).sum(dim=(0, 2, 3))
    size = (probability.square() + mask).sum(dim=(0, 2, 3))
    # A cell's worth on both sides: 0, not 0 / 0, where nothing is known.
    return (1 - (2 * common + 1) / (size + 1)).mean()


@dataclass(frozen=True)
class IouCounts:
    """How many cells the prediction and the map have in common, and how many either has, for each class (L) and
    threshold (T). Counts of several batches add up; what is left out is what the map does not know.
    """

    common: Int64[Tensor, "L T"]
    either: Int64[Tensor, "L T"]

    @classmethod
    def of(
        cls, logits: Float[Tensor, "B L Y X"], masks: Bool[Tensor, "B L Y X"], known: Bool[Tensor, "B Y X"]
    ) -> "IouCounts":
        """The counts of one batch."""
        thresholds = torch.tensor(IOU_THRESHOLDS, device=logits.device)
        found = (logits.float().sigmoid()[..., None] >= thresholds) & known[:, None, ..., None]
        truth = (masks & known[:, None])[..., None]
        return cls((found & truth).sum(dim=(0, 2, 3)), (found | truth).sum(dim=(0, 2, 3)))

    def __add__(self, other: "IouCounts") -> "IouCounts":
        return IouCounts(self.common + other.common, self.either + other.either)

    def at(self, threshold: float) -> Float[Tensor, "L"]:
        """The IoU of each class at one of IOU_THRESHOLDS; NaN for a class that neither side has anywhere then."""
        index = IOU_THRESHOLDS.index(threshold)
        return self.common[:, index] / self.either[:, index]

    def best_thresholds(self) -> Float[Tensor, "L"]:
        """At which threshold each class has its best IoU (the lowest of several); NaN as in `best`."""
        best = (self.common / self.either).nan_to_num(-1.0).argmax(dim=1)
        return torch.tensor(IOU_THRESHOLDS)[best.cpu()].masked_fill((self.either == 0).all(1).cpu(), math.nan)

    def best(self) -> Float[Tensor, "L"]:
        """The IoU of each class at its best threshold; NaN for a class that neither side has anywhere."""
        return (self.common / self.either).nan_to_num(-1.0).amax(dim=1).masked_fill((self.either == 0).all(1), math.nan)
