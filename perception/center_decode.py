"""From the centre head's output to boxes."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.center_head import CenterHead, HeadOutputs
from perception.center_targets import GROUP_OF_CLASS, CellIndex, decode_codes
from perception.losses import attributes_allowed

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

# Peaks that are looked at for each box that may be kept: several cells of a crowded class are one object.
_PEAKS_PER_BOX = 2


def decode(head: CenterHead, outputs: HeadOutputs) -> list[Boxes3D]:
    """The boxes (ego) of each sample, best first."""
    peaks = outputs.heatmap_logits.float().sigmoid()
    peaks = torch.where(local_maxima(peaks), peaks, 0.0)
    return [_decode_sample(head, outputs.features, peaks, index) for index in range(len(peaks))]


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


def _decode_sample(
    head: CenterHead, features: Float[Tensor, "B C Y X"], peaks: Float[Tensor, "B 10 Y X"], index: int
) -> Boxes3D:
    rows, columns = peaks.shape[-2:]
    scores, where = _highest(
        peaks[index].flatten(), _PEAKS_PER_BOX * head.config.max_boxes, head.config.score_threshold
    )
    labels = where // (rows * columns)
    cells = CellIndex(
        sample=torch.full_like(where, index),
        group=torch.tensor(GROUP_OF_CLASS, device=where.device)[labels],
        row=where // columns % rows,
        column=where % columns,
    )
    codes, attribute_logits = head.boxes_at(features, cells)
    centers, sizes_wlh, yaws, velocities = decode_codes(codes.float(), cells, head.grid)
    allowed = attributes_allowed(labels)
    best = attribute_logits.float().masked_fill(~allowed, float("-inf")).argmax(dim=1)
    boxes = Boxes3D(
        centers=centers,
        sizes_wlh=sizes_wlh,
        yaws=yaws,
        velocities=velocities,
        labels=labels,
        scores=scores,
        attributes=torch.where(allowed.any(dim=1), best, -1),
    )
    return boxes[circle_nms(centers[:, :2], labels).nonzero().flatten()[: head.config.max_boxes]]


def _highest(scores: Float[Tensor, "N"], count: int, threshold: float) -> tuple[Float[Tensor, "K"], Int64[Tensor, "K"]]:
    """The highest scores that reach the threshold, best first, and where they are; among equals the first ones."""
    least = scores.topk(min(count, len(scores))).values[-1].clamp(min=threshold)
    candidates = torch.nonzero((scores >= least) & (scores > 0)).flatten()
    best = torch.argsort(scores[candidates], descending=True, stable=True)[:count]
    return scores[candidates[best]], candidates[best]
