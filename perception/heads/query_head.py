"""The query head: the highest peaks of the heatmap become queries, and each query answers for one object at most."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.grid import BevGrid
from perception.heads.box_codes import BoxRegression, CellIndex, decode_boxes, encode_codes, learnable
from perception.heads.box_losses import UNLIKELY_LOGIT, focal_loss, gaussian_focal_loss, weighted_box_losses
from perception.heads.box_regressor import BoxRegressor
from perception.heads.center_targets import center_targets
from perception.heads.detection_head import DetectionHead
from perception.heads.matching import MatchCosts, cheapest_match, matching_costs
from perception.heads.peaks import local_maxima
from perception.heads.quality import QualityConfig, rescored
from perception.heads.query_decoder import QueryDecoderLayer
from perception.heads.trunk import HeatmapTrunk
from perception.losses import Counts, Losses, at_least_one


@dataclass(frozen=True)
class QueryHeadConfig:
    """`upsample`, `channels`, `min_radius`: as of the centre head. `queries`: of a sample; at most one for each cell
    and class. `layers` of the decoder, each with `heads` that look at `points` places of the BEV.

    `costs`: what decides which query learns which object. Weights: of the parts of the loss.
    """

    kind: Literal["query"] = "query"
    channels: int = 64
    hidden: int = 64
    upsample: int = 1
    queries: int = 200
    layers: int = 1
    heads: int = 4
    points: int = 4
    feedforward: int = 128
    min_radius: int = 2
    costs: MatchCosts = field(default_factory=MatchCosts)
    heatmap_weight: float = 1.0
    class_weight: float = 1.0
    box_weight: float = 0.25
    velocity_weight: float = 0.2
    attribute_weight: float = 0.2
    front_weight: float = 0.2
    score_threshold: float = 0.01
    quality: QualityConfig | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "hidden", "upsample", "queries", "layers", "heads", "points", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels do not divide into {self.heads} heads")
        if self.min_radius < 0:
            raise ValueError(f"min_radius must not be negative, it is {self.min_radius}")


@dataclass(frozen=True)
class QueryOutputs:
    """The heatmap, and of the Q queries of each sample: the cell that each stands in, how high the heatmap of each
    class is there (no gradient), and what it says after each of L layers of the decoder.

    numbers: see `BoxRegression.of`; relative to the query's cell.
    """

    heatmap_logits: Float[Tensor, "B 10 Y X"]
    rows: Int64[Tensor, "B Q"]
    columns: Int64[Tensor, "B Q"]
    heights: Float[Tensor, "B Q 10"]
    class_logits: Float[Tensor, "L B Q 10"]
    numbers: Float[Tensor, "L B Q W"]


class QueryHead(DetectionHead[QueryOutputs]):
    """After TransFusion (Bai et al. 2022), with sampled attention to the BEV. No two queries learn one object, so
    nothing is suppressed afterwards.
    """

    def __init__(self, config: QueryHeadConfig, grid: BevGrid, channels: int, velocities: int = 0) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.trunk = HeatmapTrunk(grid, channels, width, config.upsample)
        self.grid = self.trunk.grid
        self.of_class = nn.Embedding(len(DETECTION_CLASSES), width)
        self.of_place = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            QueryDecoderLayer(width, config.heads, config.points, config.feedforward) for _ in range(config.layers)
        )
        self.classify = nn.Linear(width, len(DETECTION_CLASSES))
        nn.init.constant_(self.classify.bias, UNLIKELY_LOGIT)
        self.regress = BoxRegressor(
            width, config.hidden, groups=1, quality=config.quality is not None, velocities=velocities
        )

    def forward(
        self, bev: Float[Tensor, "B C V U"], velocities: Float[Tensor, "B W V U"] | None = None
    ) -> QueryOutputs:
        """The fused BEV to queries and what they say."""
        logits, features = self.trunk(bev)
        height, width = features.shape[-2:]
        with torch.no_grad():
            heat = logits.float().sigmoid()
            peaks = torch.where(local_maxima(heat), heat, 0.0).flatten(1)
            where = peaks.topk(min(self.config.queries, peaks.shape[1]), dim=1).indices
        labels, rows, columns = where // (height * width), where // width % height, where % width
        sample = torch.arange(len(bev), device=bev.device)[:, None]
        queries = features[sample, :, rows, columns] + self.of_class(labels)
        places = torch.stack([columns, rows], dim=-1) + 0.5
        positions = self.of_place(places / places.new_tensor([width, height]) * 2 - 1)
        scale, around = self.config.upsample, None
        if velocities is not None:
            around = velocities[sample, :, rows // scale, columns // scale]
        class_logits, numbers = [], []
        for layer in self.layers:
            queries = layer(queries, positions, places, features)
            class_logits.append(self.classify(queries))
            numbers.append(self.regress(queries, around).squeeze(-2))
        heights = heat[sample, :, rows, columns]
        return QueryOutputs(logits, rows, columns, heights, torch.stack(class_logits), torch.stack(numbers))

    def counts(self, boxes: Sequence[Boxes3D]) -> Counts:
        """`peaks` of the heatmap and `objects` that a query is left for."""
        return self._counts(*self._targets(boxes))

    def _targets(self, boxes: Sequence[Boxes3D]) -> tuple[Float[Tensor, "B 10 Y X"], list[Boxes3D]]:
        """The heatmap, and of each sample the boxes that can be learnt."""
        device = self.of_class.weight.device
        heatmap = center_targets(boxes, self.grid, self.config.min_radius, 0, device).heatmap
        truth = [given.to(device).to(torch.float32) for given in boxes]
        return heatmap, [given[learnable(given, self.grid)] for given in truth]

    def _counts(self, heatmap: Float[Tensor, "B 10 Y X"], truth: Sequence[Boxes3D]) -> Counts:
        rows, columns = self.grid.shape
        queries = min(self.config.queries, len(DETECTION_CLASSES) * rows * columns)
        objects = float(sum(min(queries, len(given)) for given in truth))
        return {"peaks": (heatmap == 1).sum().float(), "objects": torch.tensor(objects, device=heatmap.device)}

    def losses(self, outputs: QueryOutputs, boxes: Sequence[Boxes3D], counts: Counts | None = None) -> Losses:
        """The weighted losses: the heatmap's divided by the number of peaks, the others by that of matched queries; the
        decoder's layers count alike, each with matches of its own.

        Left out are the boxes that the centre head leaves out, and those for which no query is left.
        """
        heatmap, truth = self._targets(boxes)
        counts = at_least_one(self._counts(heatmap, truth)) if counts is None else counts
        focal = gaussian_focal_loss(outputs.heatmap_logits, heatmap, counts["peaks"])
        parts = {"heatmap": self.config.heatmap_weight * focal}
        for layer in range(len(self.layers)):
            for name, loss in self._layer_losses(outputs, layer, truth, counts["objects"]).items():
                parts[name] = parts.get(name, 0.0) + loss / len(self.layers)
        return Losses.of(parts)

    @torch.no_grad()
    def decode(self, outputs: QueryOutputs) -> list[Boxes3D]:
        """The boxes (ego) of each sample, best first. A query's score of a class is the product of what the heatmap and
        the last layer say, and it stands for its best class.

        (TransFusion holds a query to the class of the peak it comes from; an object that is matched to a query from a
        peak of another class is lost then.)
        """
        found = []
        for index, heights in enumerate(outputs.heights):
            regression = BoxRegression.of(outputs.numbers[-1, index])
            scores, labels = (heights * outputs.class_logits[-1, index].float().sigmoid()).max(dim=1)
            if self.config.quality is not None and regression.quality_logits is not None:
                scores = rescored(scores, regression.quality_logits, labels, self.config.quality)
            boxes = decode_boxes(regression, self._cells(outputs, index), labels, scores, self.grid)
            boxes = boxes[boxes.scores >= self.config.score_threshold]
            found.append(boxes[torch.argsort(boxes.scores, descending=True, stable=True)])
        return found

    def _cells(self, outputs: QueryOutputs, index: int) -> CellIndex:
        rows = outputs.rows[index]
        return CellIndex(torch.full_like(rows, index), torch.zeros_like(rows), rows, outputs.columns[index])

    def _layer_losses(
        self, outputs: QueryOutputs, layer: int, truth: Sequence[Boxes3D], count: Float[Tensor, ""]
    ) -> dict[str, Tensor]:
        config = self.config
        class_logits, numbers = outputs.class_logits[layer], outputs.numbers[layer]
        class_targets = torch.zeros_like(class_logits, dtype=torch.float32)
        matched_numbers, matched_cells, matched_truth = [], [], []
        for index, objects in enumerate(truth):
            cells = self._cells(outputs, index)
            regression = BoxRegression.of(numbers[index].detach())
            scores, labels = class_logits[index].detach().float().sigmoid().max(dim=1)
            found = decode_boxes(regression, cells, labels, scores, self.grid)
            costs = matching_costs(class_logits[index].detach(), found, objects, config.costs)
            query, target = cheapest_match(costs)
            class_targets[index, query, objects.labels[target]] = 1.0
            matched_numbers.append(numbers[index, query])
            matched_cells.append(cells[query])
            matched_truth.append(objects[target])
        of_objects = Boxes3D.concatenated(matched_truth)
        parts = {"class": config.class_weight * focal_loss(class_logits, class_targets).sum() / count}
        matched = BoxRegression.of(torch.cat(matched_numbers))
        return parts | self._box_losses(matched, CellIndex.concatenated(matched_cells), of_objects, count)

    def _box_losses(
        self, found: BoxRegression, cells: CellIndex, objects: Boxes3D, count: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """Of K queries and the objects that they answer for."""
        middle = torch.stack([cells.column, cells.row], dim=1) + 0.5
        targets = encode_codes(objects, self.grid.cells(objects.centers[:, :2]) - middle)
        share = (1.0 / count).expand(len(objects))
        return weighted_box_losses(
            self.config, found, targets, objects.attributes, objects.labels, cells, self.grid, share
        )
