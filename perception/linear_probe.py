"""Linear probe: what one linear layer can read of objects in a sensor's frozen BEV, cell by cell.

The usual test of self-supervised features (Zhang et al. 2016; Chen et al. 2020): the layer is too weak to find
anything by itself, so what it finds was in the features.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.grid import BevGrid

_STEPS = 50  # of L-BFGS; the problem is convex
_DECAY = 1e-4  # of the squared weights, for features that say the same twice


def object_cells(boxes: Boxes3D, grid: BevGrid) -> Bool[Tensor, "L Y X"]:
    """Where the objects (ego) of each of the ten classes stand: the cells whose middle lies below a box, and the cell
    of each box's centre, for objects smaller than a cell.
    """
    rows, columns = grid.shape
    out = torch.zeros(len(DETECTION_CLASSES), rows * columns, dtype=torch.bool)
    middles = torch.cat([grid.centers().view(-1, 2), torch.zeros(rows * columns, 1)], dim=1)
    boxes = boxes.to(torch.float32)
    # All in one plane: only x and y matter.
    on_ground = replace(boxes, centers=boxes.centers * boxes.centers.new_tensor([1.0, 1.0, 0.0]))
    inside = on_ground.points_inside(middles)
    for label in sorted(set(boxes.labels.tolist())):
        out[label] = inside[boxes.labels == label].any(dim=0)
    column, row = grid.cells(boxes.centers[:, :2]).floor().long().unbind(1)
    there = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    out[boxes.labels[there], (row * columns + column)[there]] = True
    return out.view(-1, rows, columns)


class LinearProbe:
    """A linear layer (a logistic regression for each class) fitted to cells, which then scores cells."""

    def __init__(
        self, features: Float[Tensor, "N C"], targets: Bool[Tensor, "N L"], weights: Float[Tensor, "N"]
    ) -> None:
        """features: of N cells. weights: how many cells of the data each of them stands for."""
        self.mean = features.mean(dim=0)
        self.spread = features.std(dim=0).clamp(min=1e-6)
        self.layer = nn.Linear(features.shape[1], targets.shape[1])
        nn.init.zeros_(self.layer.weight)
        inputs, truth = self._scaled(features), targets.float()
        # It begins with each class as frequent as it is: only the features are left to learn.
        share = (truth * weights[:, None]).sum(dim=0) / weights.sum()
        self.layer.bias.data = share.clamp(1e-7, 1 - 1e-7).logit()
        optimizer = torch.optim.LBFGS(self.layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            each = nn.functional.binary_cross_entropy_with_logits(self.layer(inputs), truth, reduction="none")
            # A sum over the classes, each by the number of its cells: rare ones are fitted as closely as frequent ones.
            loss = ((each * weights[:, None]).sum(dim=0) / (share * weights.sum()).clamp(min=1.0)).sum()
            loss = loss + _DECAY * self.layer.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def __call__(self, features: Float[Tensor, "N C"]) -> Float[Tensor, "N L"]:
        """Logits."""
        logits: Tensor = self.layer(self._scaled(features))
        return logits

    def _scaled(self, features: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return (features - self.mean) / self.spread


def average_precision(scores: Float[Tensor, "N"], truth: Bool[Tensor, "N"]) -> float:
    """The sum over the ranks of precision times gain in recall (scikit-learn's definition); NaN without a positive.

    Equal scores are one rank.
    """
    if not truth.any():
        return float("nan")
    scores, order = torch.sort(scores, descending=True, stable=True)
    hits = truth[order].double().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    hits, rank = hits[last], torch.arange(1, len(scores) + 1, dtype=torch.float64)[last]
    gains = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return float((gains * hits / rank).sum())


def drawn_cells(
    occupied: Bool[Tensor, "N"], empty_cells: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "K"], Float[Tensor, "K"]]:
    """Which of N cells a probe learns from, and how many each stands for: all occupied ones, and so many others."""
    full, empty = occupied.nonzero().flatten(), (~occupied).nonzero().flatten()
    drawn = empty[torch.randperm(len(empty), generator=generator)[:empty_cells]]
    weight = torch.full((len(drawn),), len(empty) / max(1, len(drawn)))
    return torch.cat([full, drawn]), torch.cat([torch.ones(len(full)), weight])
