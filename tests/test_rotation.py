"""A world that is turned gives detections that are turned: through the whole detector, points to boxes.

A network learns this from turned data, if at all. Here it is built in: the weights of every layer are averaged over the
turns of the plane (the Reynolds operator of group-equivariant networks, Cohen & Welling 2016), each layer's channels
standing for what its numbers are: a vector in the plane, numbers that do not turn, or copies that turns permute. Then
everything between the points and the boxes must commute with turns: voxels, offsets, sparse and dense convolutions,
norms, the fusion, heatmaps, the reading of boxes. A wrong axis, sign, half cell or order of rows anywhere shows.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.detector import Detector
from perception.fusion.build import fusion_config
from perception.grid import BevGrid
from perception.heads.center_head import CenterHeadConfig
from perception.lidar_branch import LidarConfig, PillarEncoderConfig
from tests.random_batch import random_batch
from tests.small_run import small_detector

REACH = 9.6


def turn(order: int) -> Tensor:
    """The turn of the plane (x, y) by 360 degrees / order."""
    return {4: torch.tensor([[0.0, -1.0], [1.0, 0.0]]), 2: -torch.eye(2)}[order]


def copies(channels: int, order: int) -> Tensor:
    """Channels of which each `order` in a row are one kernel in all its turns: a turn moves them on by one."""
    return torch.block_diag(*[torch.eye(order).roll(1, 0)] * (channels // order))


def of_points(order: int) -> Tensor:
    """A pillar point's inputs: place (x, y, z), intensity, age, offsets (x, y, z) to the mean and to the middle."""
    one = torch.eye(1)
    return torch.block_diag(turn(order), one, one, one, *[turn(order), one] * 2)


def of_boxes(order: int) -> Tensor:
    """Six class groups of: offset, height, size, the doubled yaw's sin and cos, front, velocity, attributes.

    A quarter turn takes the doubled yaw to its opposite and leaves the side of the axis alone (it changes it for some
    axes and not for others, which no linear layer can: yaws are compared as axes). A half turn leaves the axis alone,
    and the front changes sides.
    """
    axis, front = (-torch.eye(2), torch.eye(1)) if order == 4 else (torch.eye(2), -torch.eye(1))
    return torch.block_diag(*[turn(order), torch.eye(4), axis, front, turn(order), torch.eye(8)] * 6)


def turned_map(maps: Tensor, order: int, times: int) -> Tensor:
    """Maps (..., Y, X), or kernels, of a world turned so many times: what stood at (x, y) stands at (-y, x)."""
    return maps.rot90(-times * (4 // order), (-2, -1))


@torch.no_grad()
def symmetrise(network: Detector, order: int) -> None:
    for name, parameter in network.named_parameters():
        # (out, in, Y, X), whatever the layer: spconv keeps (out, Y, X, in).
        sparse = name.startswith("lidar.encoder.layers") and parameter.dim() == 4
        value = parameter.movedim(-1, 1) if sparse else parameter
        rows = copies(len(value), order)
        if name == "fusion.logits":  # (sensors, channels)
            value, rows = value.T, copies(value.shape[1], order)
        elif name.startswith("head.trunk.heatmap"):
            rows = torch.eye(len(value))
        elif name.startswith("head.regress.2"):
            rows = of_boxes(order)
        columns = torch.eye(1)
        if name == "lidar.encoder.points.linear.weight":
            columns = of_points(order)
        elif name == "fusion.logits":
            columns = torch.eye(3)
        elif value.dim() > 1 and value.shape[1] > 1:
            columns = copies(value.shape[1], order)
        whole = value[(...,) + (None,) * (4 - value.dim())]
        turns = []
        for times in range(order):
            out, back = torch.linalg.matrix_power(rows, times), torch.linalg.matrix_power(columns.T, times)
            turns.append(torch.einsum("po,oiyx,iq->pqyx", out, turned_map(whole, order, times), back))
        mean = torch.stack(turns).mean(dim=0).reshape(value.shape)
        if name == "fusion.logits":
            mean = mean.T
        parameter.copy_(mean.movedim(1, -1) if sparse else mean)


def toy(kind: str) -> Detector:
    """Points only, on a square around the vehicle; no stride: a strided kernel starts at one corner of the map."""
    config = replace(
        small_detector(),
        grid=BevGrid((-REACH, REACH), (-REACH, REACH), 0.8),
        camera=None,
        radar=None,
        pose=None,
        lidar=LidarConfig(PillarEncoderConfig((8,), (1,)), BevNeckConfig((8,), (1,))),
        fusion=fusion_config(kind),  # type: ignore[arg-type]
        head=CenterHeadConfig(channels=8, hidden=16, upsample=1, score_threshold=0.0, max_boxes=5000),
    )
    torch.manual_seed(0)
    network = Detector(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "offset")) or parameter.dim() > 1:
                parameter += torch.randn_like(parameter) * 0.3
        network.head.regress[2].weight.mul_(5.0)  # boxes that differ from one another
    return network


def detect(network: Detector, cloud: Tensor) -> Boxes3D:
    batch = random_batch(1, torch.Generator().manual_seed(0), image_size=(8, 8))
    (boxes,) = network.detect(replace(batch, lidar=PointBatch.of([cloud])))
    return boxes


def turned_boxes_are_found(network: Detector, order: int) -> bool:
    generator = torch.Generator().manual_seed(1)
    # So many that no two cells are alike: which of equal cells is a peak is left to rounding.
    cloud = (torch.rand(3000, 5, generator=generator) * 2 - 1) * torch.tensor([REACH, REACH, 2.0, 1.0, 0.4])
    turned = cloud.clone()
    turned[:, :2] = cloud[:, :2] @ turn(order).T
    before, after = detect(network, cloud), detect(network, turned)
    if len(before) != len(after):
        return False
    assert len(before) > 50
    assert before.velocities.norm(dim=1).std() > 0.1
    assert before.yaws.std() > 0.1
    expected = before.centers.clone()
    expected[:, :2] = before.centers[:, :2] @ turn(order).T
    # A box finds its own by place, class and score: near equal scores may change their order.
    keys = torch.cat([expected, before.labels[:, None] * 10, before.scores[:, None] * 10], dim=1)
    found = torch.cat([after.centers, after.labels[:, None] * 10, after.scores[:, None] * 10], dim=1)
    distance, partner = torch.cdist(keys, found, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    period = math.pi if order == 4 else 2 * math.pi
    yaws = after.yaws[partner] - before.yaws - 2 * math.pi / order
    return (
        len(set(partner.tolist())) == len(before)
        and float(distance.max()) < 1e-3
        and float((yaws - (yaws / period).round() * period).abs().max()) < 1e-3
        and torch.allclose(after.velocities[partner], before.velocities @ turn(order).T, atol=1e-3)
        and torch.allclose(after.sizes_wlh[partner], before.sizes_wlh, rtol=1e-3)
        and torch.equal(after.attributes[partner], before.attributes)
    )


@pytest.mark.parametrize("kind", ["weighted_sum", "early"])
@pytest.mark.parametrize("order", [4, 2], ids=["a quarter turn", "a half turn"])
def test_a_turned_world_gives_turned_detections(order: int, kind: str) -> None:
    network = toy(kind)
    assert not turned_boxes_are_found(network, order)  # not by itself
    symmetrise(network, order)
    assert turned_boxes_are_found(network, order)
