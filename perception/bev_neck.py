"""The dense convolutions after each sensor's encoder, on the BEV grid."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CellNorm(nn.Module):
    """LayerNorm over the channels of each BEV cell (ConvNeXt, Liu et al. 2022).

    What happens in one place, in another sample or with another sensor never shifts it, and training and inference
    are the same. Fast where the map is laid out channels last, as all maps here are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Y X"]:
        """The same map, normalised."""
        out: Tensor = self.norm(bev.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class CellLinear(nn.Module):
    """A 1x1 convolution, as the matrix product it is: on the CPU, torch's convolution is slow at it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B D Y X"]:
        """The same cells with other channels."""
        out: Tensor = self.linear(bev.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Convolution, CellNorm, ReLU.

    The norm takes the length of a feature vector away; against the convolution's bias, weak features (a cell that the
    cameras hardly reach) stay different from strong ones.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.norm = CellNorm(out_channels)

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B D V U"]:
        """The convolved map."""
        out: Tensor = self.norm(self.conv(bev))
        return F.relu(out)


@dataclass(frozen=True)
class BevNeckConfig:
    """Level i works at 1/2**i of the grid's resolution: widths[i] channels, depths[i] convolutions of kernel 3."""

    widths: tuple[int, ...] = (128, 256)
    depths: tuple[int, ...] = (6, 6)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths or min(*self.widths, *self.depths) < 1:
            raise ValueError(f"widths {self.widths} and depths {self.depths} must be as many, each at least 1")


class BevNeck(nn.Module):
    """Convolutions at falling resolutions, all brought back to the grid's and added up.

    The published necks (SECOND with its FPN, Yan et al. 2018) upsample by transposed convolutions and concatenate;
    a 1x1 convolution at the low resolution, nearest upsampling and a sum cost a fraction of it.
    """

    def __init__(self, config: BevNeckConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.laterals = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            first = ConvBlock(in_channels, width, stride=1 if level == 0 else 2)
            rest = [ConvBlock(width, width) for _ in range(depth - 1)]
            self.levels.append(nn.Sequential(first, *rest))
            self.laterals.append(CellLinear(width, out_channels))
            in_channels = width
        self.norm = CellNorm(out_channels)

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B D Y X"]:
        """The map at the same resolution."""
        size = bev.shape[-2:]
        total: Tensor | None = None
        for level, lateral in zip(self.levels, self.laterals, strict=True):
            bev = level(bev)
            out = lateral(bev)
            out = out if out.shape[-2:] == size else F.interpolate(out, size=size, mode="nearest")
            total = out if total is None else total + out
        normed: Tensor = self.norm(total)
        return F.relu(normed)
