"""What the network sees: the fused BEV features and the weights of the modalities as pictures aligned with the BEV."""

import cv2
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tools.drawing.canvas import enlarged


def upright(bev: Float[Tensor, "C Y X"]) -> Float[Tensor, "H W C"]:
    """A BEV tensor as a picture with ego x up and ego y left, channels last."""
    return bev.permute(2, 1, 0).flip(0, 1)


def principal_colors(bev: Float[Tensor, "C Y X"]) -> UInt8[Tensor, "X Y 3"]:
    """The first three principal components over all cells as red, green and blue, ego x up.

    Each runs from its 1st to its 99th percentile; a component's sign is chosen so that its longest tail is bright.
    Cells that are not finite are black; with fewer than three channels the missing colours stay dark.
    """
    channels, rows, columns = bev.shape
    cells = bev.detach().float().reshape(channels, -1).T
    finite = torch.isfinite(cells).all(dim=1)
    shown = torch.zeros(rows * columns, 3)
    count = min(3, channels)
    if int(finite.sum()) > 3 and count > 0:
        centered = cells[finite] - cells[finite].mean(dim=0)
        _, vectors = torch.linalg.eigh(centered.T @ centered)
        components = centered @ vectors[:, -count:].flip(1)
        components = components * torch.sign((components**3).mean(dim=0) + 1e-20)
        low, high = torch.quantile(_thinned(components), torch.tensor([0.01, 0.99]), dim=0)
        shown[finite, :count] = ((components - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
    picture = upright(shown.T.reshape(3, rows, columns))
    return (picture * 255).round().to(torch.uint8).contiguous()


def _thinned(values: Float[Tensor, "P C"]) -> Float[Tensor, "p C"]:
    """At most 100,000 rows, evenly taken: torch.quantile refuses more than 16 million values."""
    return values[:: max(1, len(values) // 100_000)]


def heat(values: Float[Tensor, "Y X"], low: float, high: float) -> UInt8[Tensor, "X Y 3"]:
    """One value for each cell as a heat map (inferno) from `low` to `high`, ego x up."""
    scaled = ((values.detach().float() - low) / max(high - low, 1e-9)).nan_to_num(0.0).clamp(0.0, 1.0)
    grey = (upright(scaled[None])[..., 0] * 255).round().to(torch.uint8).contiguous()
    colored = cv2.applyColorMap(grey.numpy(), cv2.COLORMAP_INFERNO)
    return torch.from_numpy(cv2.cvtColor(colored, cv2.COLOR_BGR2RGB))


def feature_norm(bev: Float[Tensor, "C Y X"]) -> UInt8[Tensor, "X Y 3"]:
    """The length of each cell's feature vector as a heat map: the same meaning in every frame."""
    norm = bev.detach().float().norm(dim=0)
    finite = norm[torch.isfinite(norm)]
    if len(finite) == 0:
        return heat(torch.zeros_like(norm), 0.0, 1.0)
    low, high = torch.quantile(_thinned(finite[:, None])[:, 0], torch.tensor([0.02, 0.995])).tolist()
    return heat(norm, low, high)


def enlarged_cells(picture: UInt8[Tensor, "H W 3"], height: int, width: int) -> UInt8[Tensor, "h w 3"]:
    """The picture of the cells at a larger size."""
    return enlarged(picture, height, width)
