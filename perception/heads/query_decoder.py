"""Queries that look at one another and at the BEV around them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class QueryAttention(nn.Module):
    """Each query reads the BEV at a few places near its own that it chooses itself (Zhu et al. 2021, one level).

    The places are read first and projected then: a sum of samples is linear, so it is the same as projecting the whole
    map, at a fraction of the cost. (Where every cell asks, the map is projected first: fusion/attention.py.)
    """

    def __init__(self, channels: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(channels, heads * points * 2)
        self.weights = nn.Linear(channels, heads * points)
        self.values = nn.Parameter(torch.empty(heads, channels, channels // heads))
        self.output = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.values)
        # At first each head looks into a direction of its own, one cell further with each point.
        nn.init.zeros_(self.offsets.weight)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        steps = torch.arange(1, points + 1).float()
        with torch.no_grad():
            self.offsets.bias.copy_((directions[:, None] * steps[:, None]).flatten())

    def forward(
        self, queries: Float[Tensor, "B Q C"], places: Float[Tensor, "B Q 2"], bev: Float[Tensor, "B C Y X"]
    ) -> Float[Tensor, "B Q C"]:
        """What the queries at these places (column, row; cells) find there."""
        rows, columns = bev.shape[-2:]
        batch, count, _ = queries.shape
        offsets = self.offsets(queries).view(batch, count, self.heads * self.points, 2)
        # grid_sample's corners are at -1 and 1: cell (0, 0) has its middle at (0.5, 0.5) here and there.
        at = (places[:, :, None] + offsets) / places.new_tensor([columns, rows]) * 2 - 1
        # In float32 under autocast too: bfloat16 cannot tell neighbouring cells of a large BEV apart.
        read = F.grid_sample(bev.float(), at.float(), mode="bilinear", padding_mode="zeros", align_corners=False)
        read = read.permute(0, 2, 3, 1).reshape(batch, count, self.heads, self.points, -1)
        weights = self.weights(queries).view(batch, count, self.heads, self.points).softmax(dim=-1)
        summed = (weights[..., None] * read).sum(dim=3)
        out: Tensor = self.output(torch.einsum("bqhc,hcd->bqhd", summed, self.values).flatten(2))
        return out


class QueryDecoderLayer(nn.Module):
    """Self-attention, sampled cross-attention to the BEV, feed-forward; each residual, normalised afterwards."""

    def __init__(self, channels: int, heads: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.around = QueryAttention(channels, heads, points)
        self.feedforward = nn.Sequential(nn.Linear(channels, feedforward), nn.ReLU(), nn.Linear(feedforward, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        positions: Float[Tensor, "B Q C"],
        places: Float[Tensor, "B Q 2"],
        bev: Float[Tensor, "B C Y X"],
    ) -> Float[Tensor, "B Q C"]:
        """Queries with the embeddings of their places to queries."""
        placed = queries + positions
        queries = self.norms[0](queries + self.among(placed, placed, queries, need_weights=False)[0])
        queries = self.norms[1](queries + self.around(queries + positions, places, bev))
        out: Tensor = self.norms[2](queries + self.feedforward(queries))
        return out
