"""Across cells: attention inside windows of cells that shift from layer to layer."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Every cell attends to the cells of its window (Swin, Liu et al. 2021), with a learned relative position bias.

    With `shifted` the windows' corners lie half a window further up and left. Swin rolls the picture round its edges
    and masks what met there by accident; here windows reach over the edge into padding that no cell may attend to,
    which is the same partition of the cells, and it fits any number of rows and columns.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads, self.window = heads, window
        self.shift = window // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("offset_index", _offset_index(window), persistent=False)

    offset_index: Int64[Tensor, "L L"]

    def forward(self, cells: Float[Tensor, "B Y X C"]) -> Float[Tensor, "B Y X C"]:
        """Cells (Y, X, C) to cells (Y, X, C)."""
        batch, rows, columns, channels = cells.shape
        window, shift = self.window, self.shift
        pad = (shift, -(columns + shift) % window, shift, -(rows + shift) % window)
        qkv = F.pad(self.qkv(cells), (0, 0, *pad))
        down, across = qkv.shape[1] // window, qkv.shape[2] // window
        windows = qkv.reshape(batch, down, window, across, window, 3, self.heads, channels // self.heads)
        windows = windows.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, batch, down * across, self.heads, window * window, channels // self.heads
        )
        real = F.pad(torch.ones(rows, columns, dtype=torch.bool, device=cells.device), pad)
        real = real.reshape(down, window, across, window).transpose(1, 2).reshape(down * across, 1, 1, window * window)
        attended = F.scaled_dot_product_attention(windows[0], windows[1], windows[2], attn_mask=self._mask(real))
        attended = attended.reshape(batch, down, across, self.heads, window, window, channels // self.heads)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * window, across * window, channels)
        out: Tensor = self.output(attended[:, shift : shift + rows, shift : shift + columns])
        return out

    def _mask(self, real: Bool[Tensor, "W 1 1 L"]) -> Float[Tensor, "W heads L L"]:
        """What is added to the scores: the position bias, and -inf for padding (no window is padding throughout)."""
        bias = self.position_bias[:, self.offset_index]
        return torch.where(real, bias, float("-inf"))


class WindowLayer(nn.Module):
    """Window attention, then a feed-forward with a depthwise 3x3 convolution; both residual, norm first."""

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, expansion: int) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shifted)
        hidden = channels * expansion
        self.widen, self.narrow = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.neighbours = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)

    def forward(self, cells: Float[Tensor, "B Y X C"]) -> Float[Tensor, "B Y X C"]:
        """Cells (Y, X, C) to cells (Y, X, C)."""
        cells = cells + self.attention(self.attention_norm(cells))
        hidden = self.widen(self.feedforward_norm(cells)).permute(0, 3, 1, 2)
        hidden = F.gelu(self.neighbours(hidden)).permute(0, 2, 3, 1)
        out: Tensor = cells + self.narrow(hidden)
        return out


def _offset_index(window: int) -> Int64[Tensor, "L L"]:
    """For each pair of cells of a window: which of the (2 window - 1)^2 relative positions it is."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None] + window - 1
    across = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + across
