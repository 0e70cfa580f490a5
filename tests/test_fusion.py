"""The BEV fusion transformer: masks, windows, and that nothing of an absent modality comes through."""

import itertools

import pytest
import torch

from perception.fusion.modality_attention import ModalityAttention
from perception.fusion.transformer import BevFusionTransformer, FusionTransformerConfig
from perception.fusion.window_attention import WindowAttention
from perception.grid import BevGrid

GRID = BevGrid((-9.6, 9.6), (-8.0, 8.0), 0.8)  # 20 rows, 24 columns: neither is a multiple of the window
CHANNELS = 16


def fusion() -> BevFusionTransformer:
    torch.manual_seed(0)
    config = FusionTransformerConfig(layers=2, width=16, heads=4, window=4, stride=2)
    return BevFusionTransformer(config, GRID, CHANNELS)


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    bevs = torch.randn(batch, 3, CHANNELS, *GRID.shape, generator=generator)
    return bevs, torch.randn(batch, CHANNELS, generator=generator)


@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan"), float("inf")])
def test_an_absent_modality_has_no_influence_whatever_its_values(garbage: float) -> None:
    network = fusion()
    for mask in itertools.product([True, False], repeat=4):
        available = torch.tensor([mask, (True, True, True, True)])
        bevs, pose = inputs(2)
        expected_bev, expected_weights = network(bevs, pose, available)
        for index in range(3):
            if not mask[index]:
                bevs[0, index] = garbage
        if not mask[3]:
            pose[0] = garbage
        bev, weights = network(bevs, pose, available)
        assert torch.equal(bev, expected_bev)
        assert torch.equal(weights, expected_weights)
        assert bev.isfinite().all()


def test_garbage_of_an_absent_modality_leaves_gradients_finite() -> None:
    network = fusion()
    bevs, pose = inputs(1)
    bevs[0, 1] = float("nan")
    bevs.requires_grad_()
    bev, _ = network(bevs, pose, torch.tensor([[True, False, True, True]]))
    bev.square().sum().backward()
    assert bevs.grad is not None
    assert bevs.grad.isfinite().all()
    assert (bevs.grad[0, 1] == 0).all()
    for name, parameter in network.named_parameters():
        if "sensors.1" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_every_available_modality_has_influence() -> None:
    network = fusion()
    available = torch.ones(1, 4, dtype=torch.bool)
    bevs, pose = inputs(1)
    bev, _ = network(bevs, pose, available)
    for index in range(3):
        changed = bevs.clone()
        changed[0, index] += 1.0
        assert not torch.allclose(network(changed, pose, available)[0], bev)
    assert not torch.allclose(network(bevs, pose + 1.0, available)[0], bev)


def test_all_modalities_absent_gives_one_learned_finite_bev() -> None:
    network = fusion()
    available = torch.zeros(2, 4, dtype=torch.bool)
    bevs, pose = inputs(2)
    bev, weights = network(bevs, pose, available)
    assert bev.isfinite().all()
    assert torch.allclose(bev[0], bev[1], atol=1e-6)
    assert (weights == 0).all()
    bev.sum().backward()
    assert network.at_cells.nothing_value.grad is not None


def test_weights_are_shares_and_zero_where_absent() -> None:
    bevs, pose = inputs(1)
    _, weights = fusion()(bevs, pose, torch.tensor([[True, False, True, True]]))
    assert weights.shape == (1, 4, *GRID.shape)
    assert (weights[:, 1] == 0).all()
    assert (weights[:, [0, 2, 3]] > 0).all()
    assert (weights.sum(dim=1) < 1).all()  # the rest is the share of "nothing seen"


def test_modality_attention_equals_torch_attention() -> None:
    """Against torch's attention in float64, one call for each cell."""
    torch.manual_seed(3)
    attention = ModalityAttention(CHANNELS, heads=4).double()
    sensors = torch.randn(1, 3, 5, CHANNELS, dtype=torch.float64)
    pose = torch.randn(1, CHANNELS, dtype=torch.float64)
    for mask in itertools.product([True, False], repeat=4):
        available = torch.tensor([mask])
        fused, weights = attention(sensors, pose, available)
        present = [index for index in range(4) if mask[index]]
        for cell in range(5):
            parts = [layer(sensors[0, index, cell]) for index, layer in enumerate(attention.sensors)]
            parts.append(attention.pose(pose[0]))
            asked = [part.chunk(3) for part in parts]
            query = attention.query + sum(asked[index][0] for index in present) / max(1, len(present))
            keys = torch.stack([asked[index][1] for index in present] + [attention.nothing_key])
            values = torch.stack([asked[index][2] for index in present] + [attention.nothing_value])
            heads = [part.view(-1, 4, CHANNELS // 4).transpose(0, 1) for part in (query[None], keys, values)]
            expected = torch.nn.functional.scaled_dot_product_attention(*heads)
            expected = attention.output(expected.transpose(0, 1).reshape(CHANNELS))
            assert torch.allclose(fused[0, cell], expected, atol=1e-12)
            share = (heads[0] @ heads[1].transpose(1, 2) / 2.0).softmax(-1).mean(0)[0, :-1]
            assert torch.allclose(weights[0, present, cell], share, atol=1e-12)


@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_equals_a_plain_loop(shifted: bool) -> None:
    torch.manual_seed(4)
    rows, columns, channels, heads, window = 10, 7, 8, 2, 4
    attention = WindowAttention(channels, heads, window, shifted).double()
    torch.nn.init.normal_(attention.position_bias)
    cells = torch.randn(2, rows, columns, channels, dtype=torch.float64)
    shift = window // 2 if shifted else 0
    window_of = {
        (row, column): ((row + shift) // window, (column + shift) // window)
        for row in range(rows)
        for column in range(columns)
    }
    query, key, value = attention.qkv(cells).unflatten(-1, (3, heads, channels // heads)).unbind(-3)
    expected = torch.zeros_like(query)
    for sample in range(2):
        for head in range(heads):
            for row, column in window_of:
                mates = [cell for cell in window_of if window_of[cell] == window_of[row, column]]
                scores = torch.stack(
                    [
                        query[sample, row, column, head] @ key[sample, r, c, head] / (channels // heads) ** 0.5
                        + attention.position_bias.view(heads, 2 * window - 1, 2 * window - 1)[
                            head, row - r + window - 1, column - c + window - 1
                        ]
                        for r, c in mates
                    ]
                )
                shares = scores.softmax(0)
                for share, (r, c) in zip(shares, mates, strict=True):
                    expected[sample, row, column, head] += share * value[sample, r, c, head]
    expected = attention.output(expected.flatten(-2))
    assert torch.allclose(attention(cells), expected, atol=1e-12)


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    network = fusion().eval()
    bevs, pose = inputs(2)
    available = torch.tensor([[True, True, False, True], [False, True, True, False]])
    both, _ = network(bevs, pose, available)
    for index in range(2):
        alone, _ = network(bevs[index : index + 1], pose[index : index + 1], available[index : index + 1])
        assert torch.allclose(both[index], alone[0], atol=1e-5)


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        ModalityAttention(channels=10, heads=4)
    odd = BevGrid((-4.0, 4.0), (-4.0, 4.8), 0.8)
    with pytest.raises(ValueError, match="whole number of the fusion's patches"):
        BevFusionTransformer(FusionTransformerConfig(stride=2), odd, CHANNELS)
