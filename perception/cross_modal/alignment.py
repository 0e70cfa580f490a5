"""The cross-modal loss as one module, beside detection or alone."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from datasets.samples.batch import MODALITIES, Modality
from perception.cross_modal.losses import info_nce, max_margin, triplet, unit
from perception.cross_modal.places import draw_places, far_apart
from perception.grid import BevGrid
from perception.losses import Losses

CrossModalKind = Literal["info_nce", "triplet", "max_margin"]
_SENSORS = MODALITIES[:3]


@dataclass(frozen=True)
class CrossModalConfig:
    """Which loss, on embeddings of `width` numbers, of at most `places` cells for each pair of sensors.

    `min_distance` (metres): nearer places of a sample are no negatives of each other, they may show the same object.
    `temperature` is InfoNCE's, `margin` the others' (of distances up to 2, or of cosines).
    `teacher`: the sensor that the others are to agree with; no gradient reaches its branch, as none reaches the
    picture's in SLidR (Sautier et al. 2022), whose backbone has learnt before.
    """

    kind: CrossModalKind = "info_nce"
    width: int = 32
    places: int = 256
    min_distance: float = 4.0
    temperature: float = 0.07
    margin: float = 0.3
    teacher: Modality | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.places < 2:
            raise ValueError(f"width must be at least 1 and places at least 2, not {self.width} and {self.places}")
        if self.teacher not in (None, *_SENSORS):
            raise ValueError(f"teacher must be one of {', '.join(_SENSORS)}, not {self.teacher}")
        for name in ("min_distance", "temperature", "margin"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")


class CrossModalAlignment(nn.Module):
    """Each sensor's BEV through a projection of its own (two layers, as SimCLR's, Chen et al. 2020), then a loss for
    each pair of sensors at cells that both have seen.
    """

    def __init__(self, config: CrossModalConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.config = config
        self.min_cells = config.min_distance / grid.cell_size
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, config.width)) for _ in _SENSORS
        )

    def forward(
        self,
        bevs: Float[Tensor, "B 3 C Y X"],
        seen: Bool[Tensor, "B 3 Y X"],
        generator: torch.Generator | None = None,
    ) -> Losses:
        """The mean over the pairs of sensors that have a negative to compare with; all three pairs are in the parts.

        bevs: of camera, LiDAR, radar; seen: where each has seen something (`seen_cells`), False throughout for an
        absent sensor, whose BEV then plays no part. generator: a CPU generator that draws the cells.
        """
        parts, pairs = {}, 0
        for one, other in combinations(range(len(_SENSORS)), 2):
            places = draw_places(seen[:, one] & seen[:, other], self.config.places, generator)
            negative = far_apart(places, self.min_cells)
            embedded = []
            for sensor in (one, other):
                features = bevs[places.sample, sensor, :, places.row, places.column]
                features = features.detach() if _SENSORS[sensor] == self.config.teacher else features
                embedded.append(unit(self.project[sensor](features)))
            parts[f"{_SENSORS[one]}-{_SENSORS[other]}"] = self._loss(embedded[0], embedded[1], negative)
            pairs += bool(negative.any())
        return Losses.of({name: part / max(1, pairs) for name, part in parts.items()})

    def _loss(
        self, first: Float[Tensor, "K D"], second: Float[Tensor, "K D"], negative: Bool[Tensor, "K K"]
    ) -> Float[Tensor, ""]:
        config = self.config
        match config.kind:
            case "info_nce":
                return info_nce(first, second, negative, config.temperature)
            case "triplet":
                return triplet(first, second, negative, config.margin)
            case "max_margin":
                return max_margin(first, second, negative, config.margin)
