"""Weighted box fusion (Solovyev et al. 2021), for boxes in bird's eye view from several sensors."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.compiled import compiled


def weighted_box_fusion(sets: Sequence[Boxes3D], radii: Sequence[float]) -> Boxes3D:
    """The boxes of N >= 1 sensors that look at one scene, to one set, best first.

    As published: boxes are taken from the best to the worst, over all sensors; each joins the nearest cluster of its
    class whose fused centre is within the class's radius (metres; here centre distance, nuScenes' own measure, stands
    in for overlap), else it begins one. Other than published, a cluster takes one box of each sensor only: two boxes
    that one sensor's head kept apart are two objects. So a crowd stays a crowd however wide the radius.

    Centre, size and velocity of a cluster are means weighted by score; a velocity that is not known has no say. Of the
    yaws the axis is averaged on the circle (as doubled angles), and its front is where the weighted majority has it:
    two sensors that agree on the axis and not on the front would have a mean heading across it. The attribute is the
    best box's. The score is the sum over the cluster divided by N: what one of three sensors sees counts a third.
    """
    boxes = Boxes3D.concatenated(sets)
    sensor = torch.cat([torch.full_like(each.labels, index) for index, each in enumerate(sets)])
    order = torch.argsort(boxes.scores, descending=True, stable=True)
    boxes, sensor = boxes[order], sensor[order]
    clusters = clusters_of_boxes(
        boxes.centers[:, :2].double().cpu().contiguous().numpy(),
        boxes.scores.double().cpu().numpy(),
        boxes.labels.cpu().numpy(),
        sensor.cpu().numpy(),
        np.asarray(radii, np.float64),
    )
    fused = _fused(boxes, torch.from_numpy(clusters).to(boxes.labels.device), len(sets))
    return fused[torch.argsort(fused.scores, descending=True, stable=True)]


def _fused(boxes: Boxes3D, cluster: Int64[Tensor, "M"], sensors: int) -> Boxes3D:
    """One box for each cluster; `boxes` best first. In float64: a box that stands alone stays as it is."""
    count = int(cluster.max()) + 1 if len(cluster) else 0
    weight = boxes.scores.double()

    def total(values: Float[Tensor, "M"] | Float[Tensor, "M D"]) -> Float[Tensor, "K"] | Float[Tensor, "K D"]:
        return values.new_zeros(count, *values.shape[1:]).index_add(0, cluster, values)

    def mean(values: Float[Tensor, "M D"], weights: Float[Tensor, "M"]) -> Float[Tensor, "K D"]:
        return total(values.double() * weights[:, None]) / total(weights)[:, None]

    known = boxes.velocities.isfinite().all(dim=1)
    yaws = boxes.yaws.double()
    axis = torch.atan2(total((2 * yaws).sin() * weight), total((2 * yaws).cos() * weight)) / 2
    ahead = total((yaws - axis[cluster]).cos() * weight)
    turned = torch.where(ahead >= 0, axis, axis + torch.pi)
    # The first, and so the best, box of each cluster.
    first = cluster.new_full((count,), len(cluster)).scatter_reduce(
        0, cluster, torch.arange(len(cluster), device=cluster.device), "amin"
    )
    dtype = boxes.centers.dtype
    return Boxes3D(
        centers=mean(boxes.centers, weight).to(dtype),
        sizes_wlh=mean(boxes.sizes_wlh, weight).to(dtype),
        yaws=torch.atan2(turned.sin(), turned.cos()).to(dtype),
        velocities=mean(boxes.velocities.nan_to_num(), weight * known).to(dtype),  # 0 / 0 is NaN: unknown
        labels=boxes.labels[first],
        scores=(total(weight) / sensors).to(dtype),
        attributes=boxes.attributes[first],
    )


@compiled
def clusters_of_boxes(
    centers: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    sensors: NDArray[np.int64],
    radii: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The cluster (M; int64, numbered as they begin) of each box; centers (M, 2), given best first.

    scores (M) positive. sensors (M): 0 to 62. radii: of each label.
    """
    count = 0
    cluster_of_box = np.empty(len(labels), np.int64)
    sums = np.zeros((len(labels), 3))  # of score * x, score * y, score
    label_of_cluster, members = np.empty(len(labels), np.int64), np.zeros(len(labels), np.int64)  # members: bit by bit
    for box in range(len(labels)):
        bit = np.int64(1) << sensors[box]
        chosen, nearest = -1, radii[labels[box]]
        for cluster in range(count):
            if label_of_cluster[cluster] != labels[box] or members[cluster] & bit:
                continue
            x, y = sums[cluster, 0] / sums[cluster, 2], sums[cluster, 1] / sums[cluster, 2]
            distance = np.hypot(centers[box, 0] - x, centers[box, 1] - y)
            if distance < nearest:
                chosen, nearest = cluster, distance
        if chosen < 0:
            chosen = count
            label_of_cluster[chosen] = labels[box]
            count += 1
        cluster_of_box[box] = chosen
        members[chosen] |= bit
        sums[chosen, 0] += scores[box] * centers[box, 0]
        sums[chosen, 1] += scores[box] * centers[box, 1]
        sums[chosen, 2] += scores[box]
    return cluster_of_box
