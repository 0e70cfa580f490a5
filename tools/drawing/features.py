"""What the network sees: the fused BEV features and the weights of the modalities as pictures aligned with the BEV."""

import cv2
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def upright(bev: Float[Tensor, "C Y X"]) -> Float[Tensor, "X Y C"]:
    """A BEV tensor as a picture with ego x up and ego y left, channels last."""
    return bev.permute(2, 1, 0).flip(0, 1)


def principal_colors(bev: Float[Tensor, "C Y X"], patch: int) -> UInt8[Tensor, "X Y 3"]:
    """How each cell's features differ from the ordinary: brightness says how much, hue in which direction, ego x up.

    The ordinary is the median over the grid, for each place in a patch of `patch` x `patch` cells by itself: a fusion
    that works on patches writes its own pattern into them. The hue is the direction of the difference in its first
    three principal components; full brightness is the 99th percentile of the differences' lengths. Cells that are
    not finite are black.
    """
    channels, rows, columns = bev.shape
    finite = torch.isfinite(bev).all(dim=0)
    difference = _without_the_ordinary(torch.where(finite, bev.detach().float(), 0.0), patch)
    cells = difference.reshape(channels, -1).T
    _, vectors = torch.linalg.eigh(cells.T @ cells)
    count = min(3, channels)
    components = torch.zeros(rows * columns, 3)
    # An eigenvector's sign means nothing: the longer tail is taken as positive, so that it does not flip by chance.
    projected = cells @ vectors[:, -count:].flip(1)
    components[:, :count] = projected * torch.where((projected**3).mean(dim=0) < 0, -1.0, 1.0)
    lengths = cells.norm(dim=1)
    brightness = (lengths / torch.quantile(_thinned(lengths), 0.99).clamp(min=1e-6)).clamp(max=1.0) ** 0.8
    hue = 0.5 + 0.5 * components / components.norm(dim=1, keepdim=True).clamp(min=1e-9)
    colors = hue / hue.amax(dim=1, keepdim=True) * brightness[:, None] * finite.reshape(-1, 1)
    picture = upright(colors.T.reshape(3, rows, columns))
    return (picture * 255).round().to(torch.uint8).contiguous()


def _without_the_ordinary(bev: Float[Tensor, "C Y X"], patch: int) -> Float[Tensor, "C Y X"]:
    """The features less the median of those cells that have the same place in their patch."""
    difference = bev.clone()
    for row in range(patch):
        for column in range(patch):
            cells = bev[:, row::patch, column::patch]
            if cells.numel():
                median = cells.flatten(1).median(dim=1).values
                difference[:, row::patch, column::patch] = cells - median[:, None, None]
    return difference


def _thinned(values: Float[Tensor, "P"]) -> Float[Tensor, "p"]:
    """About 100,000 of the values, evenly taken: torch.quantile refuses more than 16 million."""
    return values[:: max(1, len(values) // 100_000)]


def heat(values: Float[Tensor, "Y X"], low: float, high: float) -> UInt8[Tensor, "X Y 3"]:
    """One value for each cell as a heat map (inferno) from `low` to `high`, ego x up."""
    scaled = ((values.detach().float() - low) / max(high - low, 1e-9)).nan_to_num(0.0).clamp(0.0, 1.0)
    grey = (upright(scaled[None])[..., 0] * 255).round().to(torch.uint8).contiguous()
    colored = cv2.applyColorMap(grey.numpy(), cv2.COLORMAP_INFERNO)
    return torch.from_numpy(cv2.cvtColor(colored, cv2.COLOR_BGR2RGB))
