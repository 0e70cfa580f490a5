"""The choice of the fusion strategy: the type of its config decides."""

from typing import Annotated, Literal

from pydantic import Field

from perception.fusion.attention import AttentionFusion, AttentionFusionConfig
from perception.fusion.concat import ConcatFusion, ConcatFusionConfig
from perception.fusion.early import EarlyFusion, EarlyFusionConfig
from perception.fusion.late import LateFusion, LateFusionConfig
from perception.fusion.strategy import FusionStrategy
from perception.fusion.transformer import BevFusionTransformer, FusionTransformerConfig
from perception.fusion.weighted_sum import WeightedSumFusion, WeightedSumFusionConfig
from perception.grid import BevGrid

FusionKind = Literal["transformer", "concat", "weighted_sum", "attention", "early", "late"]
# In a config file the field `kind` says which one it is.
FusionConfig = Annotated[
    FusionTransformerConfig
    | ConcatFusionConfig
    | WeightedSumFusionConfig
    | AttentionFusionConfig
    | EarlyFusionConfig
    | LateFusionConfig,
    Field(discriminator="kind"),
]


def fusion_config(kind: FusionKind) -> FusionConfig:
    """The config of this kind with its default sizes."""
    match kind:
        case "transformer":
            return FusionTransformerConfig()
        case "concat":
            return ConcatFusionConfig()
        case "weighted_sum":
            return WeightedSumFusionConfig()
        case "attention":
            return AttentionFusionConfig()
        case "early":
            return EarlyFusionConfig()
        case "late":
            return LateFusionConfig()


def build_fusion(config: FusionConfig, grid: BevGrid, channels: int) -> FusionStrategy:
    """The strategy. Raises ValueError where its sizes do not fit the grid or the channels."""
    match config:
        case FusionTransformerConfig():
            return BevFusionTransformer(config, grid, channels)
        case ConcatFusionConfig():
            return ConcatFusion(config, channels)
        case WeightedSumFusionConfig():
            return WeightedSumFusion(channels)
        case AttentionFusionConfig():
            return AttentionFusion(config, grid, channels)
        case EarlyFusionConfig():
            return EarlyFusion(channels)
        case LateFusionConfig():
            return LateFusion()
