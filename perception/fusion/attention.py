"""Fusion by attention across cells: BEV queries look into each modality's BEV at places of their own choice."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perception.bev_neck import CellNorm
from perception.fusion.strategy import FusionStrategy, without_absent
from perception.grid import BevGrid


@dataclass(frozen=True)
class AttentionFusionConfig:
    """`layers` of attention with `heads`, each of which looks at `points` places of each modality's BEV.

    `expansion`: of the feed-forward layers.
    """

    kind: Literal["attention"] = "attention"
    layers: int = 2
    heads: int = 4
    points: int = 2
    expansion: int = 2

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "points", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def check(self, channels: int) -> None:
        """Raise ValueError where a BEV of so many channels does not divide into the heads."""
        if channels % self.heads:
            raise ValueError(f"{channels} channels do not divide into the fusion's {self.heads} heads")


class AttentionFusion(FusionStrategy):
    """One query for each cell: a learned position and the pose, then what the layers before have found.

    The sensors are keys and values only, as the cameras are in BEVFormer (Li et al. 2022) and all sensors in FUTR3D
    (Chen et al. 2023): other than in the transformer of `transformer.py`, no modality takes part in asking.
    """

    def __init__(self, config: AttentionFusionConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        config.check(channels)
        rows, columns = grid.shape
        self.row_position = nn.Parameter(torch.randn(rows, 1, channels) * 0.02)
        self.column_position = nn.Parameter(torch.randn(1, columns, channels) * 0.02)
        self.pose = nn.Linear(channels, channels, bias=False)
        self.layers = nn.ModuleList(
            SampledAttentionLayer(channels, config.heads, config.points, config.expansion) for _ in range(config.layers)
        )
        self.norm = CellNorm(channels)

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], Float[Tensor, "B 3 Y X"]]:
        """See FusionStrategy. The weights are means over layers, heads and places; what is left to 1 saw nothing."""
        bevs, pose = without_absent(modality_bevs, pose, availability)
        sensors = bevs.permute(0, 1, 3, 4, 2)  # channels last, as the branches lay them out
        cells = self.pose(pose)[:, None, None] + self.row_position + self.column_position
        weights = []
        for layer in self.layers:
            cells, weight = layer(cells, sensors, availability[:, :3])
            weights.append(weight)
        return self.norm(cells.permute(0, 3, 1, 2)), torch.stack(weights).mean(dim=0).detach()


class SampledAttention(nn.Module):
    """Deformable attention (Zhu et al. 2021) from every cell to several maps on the same grid.

    A linear layer reads from the query where each head looks (offsets from the query's own cell, in cells, bilinear in
    between) and how much it trusts each place, a softmax over the places of all available maps and one learned vector
    for "nothing seen". So no softmax ever runs over an empty row.
    """

    def __init__(self, channels: int, heads: int, points: int, maps: int = 3) -> None:
        super().__init__()
        self.heads, self.points, self.maps = heads, points, maps
        self.values = nn.ModuleList(nn.Linear(channels, channels) for _ in range(maps))
        self.nothing = nn.Parameter(torch.randn(channels) * 0.02)
        self.offsets = nn.Linear(channels, heads * maps * points * 2)
        self.scores = nn.Linear(channels, heads * (maps * points + 1))
        self.output = nn.Linear(channels, channels)
        # As published: at first every head looks its own way, its places one cell farther each, from the own cell on.
        turn = torch.arange(heads) * (2 * math.pi / heads)
        way = torch.stack([turn.cos(), turn.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)
        steps = way[:, None, None] * torch.arange(points)[:, None]
        nn.init.normal_(self.offsets.weight, std=0.01)
        self.offsets.bias.data = steps.expand(heads, maps, points, 2).flatten().clone()

    def forward(
        self, query: Float[Tensor, "B Y X C"], maps: Float[Tensor, "B M Y X C"], available: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B Y X C"], Float[Tensor, "B M Y X"]]:
        """What the queries find in the maps, and the weight of each map (mean over heads)."""
        batch, rows, columns, channels = query.shape
        heads, points, cells = self.heads, self.points, rows * columns
        # Cells last: sampling, sums and the softmax then run along long rows, several times faster on a CPU.
        shares = self._shares(query, available)  # (B, heads, M points + 1, Y X)
        offsets = self.offsets(query).view(batch, cells, heads, self.maps, points, 2).permute(3, 0, 2, 4, 1, 5)
        size = offsets.new_tensor([columns, rows])
        own = self._own_places(rows, columns, size)
        found = shares[:, :, -1:] * self.nothing.view(heads, -1, 1).to(shares.dtype)  # (B, heads, C / heads, Y X)
        for index, layer in enumerate(self.values):
            value = layer(maps[:, index]).view(batch, rows, columns, heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
            places = own + offsets[index].flatten(0, 1) * (2 / size)
            seen = F.grid_sample(value, places.to(value.dtype), align_corners=False)
            seen = seen.view(batch, heads, -1, points, cells)
            share = shares[:, :, index * points : (index + 1) * points]
            for point in range(points):
                found = found + seen[:, :, :, point] * share[:, :, None, point]
        weights = shares[:, :, :-1].mean(dim=1).reshape(batch, self.maps, points, rows, columns).sum(dim=2)
        out: Tensor = self.output(found.flatten(1, 2).transpose(1, 2).reshape(batch, rows, columns, channels))
        return out, weights

    def _shares(self, query: Float[Tensor, "B Y X C"], available: Bool[Tensor, "B M"]) -> Float[Tensor, "B heads S N"]:
        scores = self.scores(query).flatten(1, 2).transpose(1, 2)
        scores = scores.reshape(len(query), self.heads, self.maps * self.points + 1, -1)
        there = F.pad(available.repeat_interleave(self.points, dim=1), (0, 1), value=True)
        shares: Tensor = scores.masked_fill(~there[:, None, :, None], -torch.inf).softmax(dim=2)
        return shares

    @staticmethod
    def _own_places(rows: int, columns: int, size: Float[Tensor, "2"]) -> Float[Tensor, "N 2"]:
        """The middle of each cell, (x, y) from -1 to 1 over the map."""
        y, x = torch.meshgrid(
            torch.arange(rows, device=size.device), torch.arange(columns, device=size.device), indexing="ij"
        )
        return (torch.stack([x, y], dim=-1).view(-1, 2) * 2 + 1) / size - 1


class SampledAttentionLayer(nn.Module):
    """Sampled attention, then a feed-forward; both residual, norm first."""

    def __init__(self, channels: int, heads: int, points: int, expansion: int) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = SampledAttention(channels, heads, points)
        self.widen, self.narrow = nn.Linear(channels, channels * expansion), nn.Linear(channels * expansion, channels)

    def forward(
        self, cells: Float[Tensor, "B Y X C"], maps: Float[Tensor, "B M Y X C"], available: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B Y X C"], Float[Tensor, "B M Y X"]]:
        """Cells to cells, and the weight of each map at each cell."""
        found, weights = self.attention(self.attention_norm(cells), maps, available)
        cells = cells + found
        out: Tensor = cells + self.narrow(F.gelu(self.widen(self.feedforward_norm(cells))))
        return out, weights
