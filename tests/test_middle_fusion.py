"""The small middle fusions against what they are by definition: loops, sums by hand."""

import math

import torch

from perception.fusion.attention import SampledAttention
from perception.fusion.concat import ConcatFusion, ConcatFusionConfig
from perception.fusion.early import EarlyFusion
from perception.fusion.weighted_sum import WeightedSumFusion


def test_sampled_attention_equals_a_plain_loop() -> None:
    """Cell by cell, head by head, place by place, bilinear by hand, in float64; one map of one sample is absent."""
    torch.manual_seed(0)
    rows, columns, channels, heads, points = 5, 4, 6, 2, 3
    width = channels // heads
    attention = SampledAttention(channels, heads, points, maps=2).double()
    query = torch.randn(2, rows, columns, channels, dtype=torch.float64)
    maps = torch.randn(2, 2, rows, columns, channels, dtype=torch.float64)
    available = torch.tensor([[True, True], [True, False]])
    found, weights = attention(query, maps, available)

    def bilinear(value: torch.Tensor, x: float, y: float) -> torch.Tensor:
        total = torch.zeros(value.shape[-1], dtype=torch.float64)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < rows and 0 <= column < columns:
                    total += (1 - abs(y - row)) * (1 - abs(x - column)) * value[row, column]
        return total

    values = [layer(maps[:, index]) for index, layer in enumerate(attention.values)]
    for sample in range(2):
        for row in range(rows):
            for column in range(columns):
                asked = query[sample, row, column]
                offsets = attention.offsets(asked).view(heads, 2, points, 2)
                scores = attention.scores(asked).view(heads, 2 * points + 1)
                expected, share_of_map = [], torch.zeros(2, dtype=torch.float64)
                for head in range(heads):
                    part = slice(head * width, (head + 1) * width)
                    present = [m for m in range(2) if available[sample, m]]
                    keys = [m * points + p for m in present for p in range(points)] + [2 * points]
                    shares = scores[head, keys].softmax(0)
                    total = shares[-1] * attention.nothing[part]
                    for share, key in zip(shares[:-1], keys[:-1], strict=True):
                        x, y = (offsets[head, key // points, key % points]).tolist()
                        total = total + share * bilinear(values[key // points][sample, :, :, part], column + x, row + y)
                        share_of_map[key // points] += share / heads
                    expected.append(total)
                torch.testing.assert_close(found[sample, row, column], attention.output(torch.cat(expected)))
                torch.testing.assert_close(weights[sample, :, row, column], share_of_map)


def bevs_and_pose() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 4, 5, 6, generator=generator), torch.randn(1, 4, generator=generator)


def test_weighted_sum_shares_each_channel_among_those_that_are_there() -> None:
    fusion, (bevs, pose) = WeightedSumFusion(4), bevs_and_pose()
    with torch.no_grad():
        fusion.logits.copy_(
            torch.tensor([[0.0, 1.0, 2.0, 3.0], [9.0, 9.0, 9.0, 9.0], [0.0, 1.0, 0.0, 3.0 + math.log(3)]])
        )
    available = torch.tensor([[True, False, True, True]])
    camera = torch.tensor([0.5, 0.5, 1 / (1 + math.exp(-2.0)), 0.25])[:, None, None]
    expected = fusion.norm((camera * bevs[:, 0] + (1 - camera) * bevs[:, 2]) + fusion.pose(pose)[:, :, None, None])
    bev, weights = fusion(bevs, pose, available)
    torch.testing.assert_close(bev, expected)
    mean = float(camera.mean())
    torch.testing.assert_close(weights[0, :, 2, 3], torch.tensor([mean, 0.0, 1 - mean]))


def test_early_fusion_takes_the_mean_of_those_that_are_there() -> None:
    fusion, (bevs, pose) = EarlyFusion(4), bevs_and_pose()
    bev, _ = fusion(bevs, pose, torch.tensor([[False, True, True, False]]))
    torch.testing.assert_close(bev, fusion.norm((bevs[:, 1] + bevs[:, 2]) / 2))


def test_concatenation_tells_a_missing_sensor_from_an_empty_one() -> None:
    torch.manual_seed(0)
    fusion, (bevs, pose) = ConcatFusion(ConcatFusionConfig(), 4), bevs_and_pose()
    bevs[:, 1] = 0.0
    empty, _ = fusion(bevs, pose, torch.tensor([[True, True, True, True]]))
    missing, _ = fusion(bevs, pose, torch.tensor([[True, False, True, True]]))
    assert not torch.allclose(empty, missing, atol=1e-2)
    pose_shift = fusion.pose(pose)[:, :, None, None]
    inputs = torch.cat([bevs[:, 0], bevs[:, 1], bevs[:, 2], torch.ones(1, 4, 5, 6)], dim=1)
    torch.testing.assert_close(empty, fusion.norm(fusion.conv(inputs) + pose_shift).relu())
