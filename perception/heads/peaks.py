"""The peaks of heatmaps, and which of the boxes found there are one object."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datasets.classes import DETECTION_CLASSES

# Two detections of a class nearer than this (metres, centre to centre) are one object. From CenterPoint's radii for
# its groups ([4, 12, 10, 1, 0.85, 0.175], in square metres), with those of barriers and cycles made smaller than
# the distances that nuScenes' annotations keep (0.6 m and 0.8 m).
NMS_RADIUS: tuple[float, ...] = (2.0, 3.5, 3.5, 3.2, 3.2, 0.5, 0.75, 0.75, 0.42, 0.42)

# Objects that stand so close that the neighbouring cell may be another one. Of these classes every cell may be a peak
# whose score is at least this share of its neighbours' highest, and the radius above does the rest. (TransFusion, Bai
# et al. 2022, takes every cell for the last two, which doubles boxes as long as the network is not sure of itself.)
CROWDED_CLASSES: tuple[int, ...] = tuple(
    DETECTION_CLASSES.index(name) for name in ("barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone")
)
CROWDED_SHARE = 0.7


def local_maxima(heatmap: Float[Tensor, "B 10 Y X"]) -> Bool[Tensor, "B 10 Y X"]:
    """Cells that no neighbour exceeds; for the crowded classes also those that come near their neighbours' highest."""
    share = torch.ones(len(DETECTION_CLASSES), 1, 1, device=heatmap.device)
    share[list(CROWDED_CLASSES)] = CROWDED_SHARE
    return heatmap >= F.max_pool2d(heatmap, kernel_size=3, stride=1, padding=1) * share


def circle_nms(centers_xy: Float[Tensor, "K 2"], labels: Int64[Tensor, "K"]) -> Bool[Tensor, "K"]:
    """Which boxes to keep; given best first. A box falls if a kept, better box of its class is within NMS_RADIUS."""
    radius = torch.tensor(NMS_RADIUS, device=labels.device)[labels]
    distance = (centers_xy[:, None] - centers_xy[None]).norm(dim=-1)
    beats = ((distance < radius[:, None]) & (labels[:, None] == labels[None])).triu(diagonal=1)
    keep = torch.ones_like(labels, dtype=torch.bool)
    # Whether box i stays is settled once all before it are: at most K rounds, in practice a handful.
    while True:
        settled = ~(beats & keep[:, None]).any(dim=0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def highest(scores: Float[Tensor, "N"], count: int, threshold: float) -> tuple[Float[Tensor, "K"], Int64[Tensor, "K"]]:
    """The highest scores that reach the threshold, best first, and where they are; among equals the first ones."""
    least = scores.topk(min(count, len(scores))).values[-1].clamp(min=threshold)
    candidates = torch.nonzero((scores >= least) & (scores > 0)).flatten()
    best = torch.argsort(scores[candidates], descending=True, stable=True)[:count]
    return scores[candidates[best]], candidates[best]
