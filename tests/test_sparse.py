import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.sparse import (
    InverseSparseConv,
    SiteNorm,
    SparseConv,
    SparseHourglass,
    SparseResidualBlock,
    SparseTensor,
    check_cells,
)


def _random_sites(shape: tuple[int, ...], channels: int, batch_size: int = 2, seed: int = 0) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(batch_size, *shape, generator=generator) < 0.3
    indices = torch.nonzero(occupied).int()
    features = torch.randn(len(indices), channels, generator=generator)
    return SparseTensor.of(features, indices, shape, batch_size)


def _dense(sparse: SparseTensor) -> Tensor:
    """(B, C, *shape), written without the code under test."""
    dense = torch.zeros(sparse.batch_size, sparse.features.shape[1], *sparse.shape)
    for index, feature in zip(sparse.indices.tolist(), sparse.features, strict=True):
        dense[(index[0], slice(None), *index[1:])] = feature
    return dense


def _dense_weight(conv: SparseConv | InverseSparseConv) -> Tensor:
    # spconv keeps (out, *kernel, in), torch (out, in, *kernel).
    weight: Tensor = conv.conv.weight
    return weight.movedim(-1, 1)


@pytest.mark.parametrize("shape", [(7, 9), (5, 7, 9)])
def test_strided_convolution_equals_dense(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    torch.manual_seed(0)
    conv = SparseConv(4, 6, (3,) * dims, stride=(2,) * dims, padding=(1,) * dims)
    sparse = _random_sites(shape, 4)
    out = conv(sparse)
    dense_conv = F.conv2d if dims == 2 else F.conv3d
    expected = dense_conv(_dense(sparse), _dense_weight(conv), stride=2, padding=1)
    assert out.shape == tuple(expected.shape[2:])
    torch.testing.assert_close(_dense(out), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9), (5, 7, 9)])
def test_submanifold_convolution_equals_dense_at_its_sites(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    torch.manual_seed(0)
    conv = SparseConv(4, 6, (3,) * dims, level="a")
    sparse = _random_sites(shape, 4)
    out = conv(sparse)
    dense_conv = F.conv2d if dims == 2 else F.conv3d
    expected = dense_conv(_dense(sparse), _dense_weight(conv), padding=1)
    occupied = _dense(sparse.with_features(torch.ones(len(sparse.indices), 1))) > 0
    torch.testing.assert_close(_dense(out), expected * occupied, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_dense_convolution() -> None:
    torch.manual_seed(0)
    conv = SparseConv(4, 6, (3, 3), stride=(2, 2), padding=(1, 1))
    sparse = _random_sites((7, 9), 4)
    features = sparse.features.clone().requires_grad_()
    weights_out = torch.randn(2, 6, 4, 5)
    (conv(sparse.with_features(features)).dense_bev() * weights_out).sum().backward()

    dense = _dense(sparse).requires_grad_()
    weight = _dense_weight(conv).detach().clone().requires_grad_()
    (F.conv2d(dense, weight, stride=2, padding=1) * weights_out).sum().backward()
    assert features.grad is not None
    assert dense.grad is not None
    assert weight.grad is not None
    batch, y, x = sparse.indices.long().unbind(1)
    torch.testing.assert_close(features.grad, dense.grad[batch, :, y, x], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(conv.conv.weight.grad.movedim(-1, 1), weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9), (8, 6), (5, 7, 9)])
def test_the_way_back_equals_the_dense_transposed_convolution_at_the_sites(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    torch.manual_seed(0)
    down = SparseConv(4, 6, (3,) * dims, stride=(2,) * dims, padding=(1,) * dims, pairs="a")
    up = InverseSparseConv(6, 4, (3,) * dims, pairs="a")
    sparse = _random_sites(shape, 4)
    features = sparse.features.clone().requires_grad_()
    coarse = down(sparse.with_features(features))
    out = up(coarse, sparse)
    assert out.shape == shape
    assert torch.equal(out.indices, sparse.indices)
    expected = _transposed(_dense(coarse), up, shape) * _sites(sparse)
    torch.testing.assert_close(_dense(out), expected, atol=1e-5, rtol=1e-5)

    weights_out = torch.randn(expected.shape)
    (_dense(out) * weights_out).sum().backward()
    dense = _dense(sparse).requires_grad_()
    convolve = F.conv2d if dims == 2 else F.conv3d
    strided = convolve(dense, _dense_weight(down).detach(), stride=2, padding=1)
    weight = up.conv.weight.detach().clone().requires_grad_()
    (_transposed(strided, up, shape, weight) * _sites(sparse) * weights_out).sum().backward()
    assert features.grad is not None
    assert dense.grad is not None
    batch, *place = sparse.indices.long().unbind(1)
    torch.testing.assert_close(features.grad, dense.grad[(batch, slice(None), *place)], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(up.conv.weight.grad, weight.grad, atol=1e-4, rtol=1e-4)


def _sites(sparse: SparseTensor) -> Tensor:
    """(B, 1, *shape): 1 where there is a site."""
    return _dense(sparse.with_features(torch.ones(len(sparse.indices), 1)))


def _transposed(coarse: Tensor, up: InverseSparseConv, shape: tuple[int, ...], weight: Tensor | None = None) -> Tensor:
    """torch's transposed convolution, of stride 2 and padding 1, to this shape; its weight is (in, out, *kernel)."""
    dense_weight = (up.conv.weight if weight is None else weight).movedim(-1, 0)
    back = F.conv_transpose2d if len(shape) == 2 else F.conv_transpose3d
    extra = [(size - 1) % 2 for size in shape]
    return back(coarse, dense_weight, stride=2, padding=1, output_padding=extra)


def _dense_norm(dense: Tensor, module: SiteNorm, mask: Tensor) -> Tensor:
    normed: Tensor = module.norm(dense.movedim(1, -1) + module.offset).movedim(-1, 1) * mask
    return F.relu(normed) if module.relu else normed


def _dense_block(dense: Tensor, block: SparseResidualBlock, mask: Tensor) -> Tensor:
    hidden = _dense_norm(F.conv2d(dense, _dense_weight(block.first), padding=1) * mask, block.first_norm, mask)
    hidden = _dense_norm(F.conv2d(hidden, _dense_weight(block.second), padding=1) * mask, block.second_norm, mask)
    return F.relu(hidden + dense)


def test_layers_of_one_level_share_their_rulebook_and_stay_right() -> None:
    torch.manual_seed(0)
    block = SparseResidualBlock(4, 2, "a")
    sparse = _random_sites((7, 9), 4)
    torch.testing.assert_close(
        _dense(block(sparse)), _dense_block(_dense(sparse), block, _sites(sparse)), atol=1e-5, rtol=1e-5
    )


def test_two_hourglasses_equal_dense_ones() -> None:
    """Down, down, back, back, by torch's convolutions, with the sites as masks; twice in a row on the same sites."""
    torch.manual_seed(0)
    sparse = _random_sites((13, 10), 4)
    out, dense = sparse, _dense(sparse)
    for name in ("first", "second"):
        hourglass = SparseHourglass(4, 2, "a", name, (2, 1, 1))
        out = hourglass(out)
        dense = _dense_hourglass(dense, hourglass, _sites(sparse))
        torch.testing.assert_close(_dense(out), dense, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.indices, sparse.indices)
    assert out.shape == (13, 10)


def _dense_hourglass(dense: Tensor, hourglass: SparseHourglass, mask: Tensor) -> Tensor:
    skips, masks = [dense], [mask]
    for depth, blocks in enumerate(hourglass.blocks):
        if depth > 0:
            conv, norm = hourglass.downs[depth - 1]
            # A strided kernel makes a site wherever it touches one.
            masks.append((F.max_pool2d(masks[-1], 3, 2, 1) > 0).float())
            strided = F.conv2d(skips[-1], _dense_weight(conv), stride=2, padding=1)
            skips.append(_dense_norm(strided * masks[-1], norm, masks[-1]))
        for block in blocks:
            skips[-1] = _dense_block(skips[-1], block, masks[-1])
    dense = skips.pop()
    for depth in reversed(range(len(skips))):
        shape = tuple(skips[depth].shape[2:])
        back = _transposed(dense, hourglass.ups[depth], shape) * masks[depth]
        dense = _dense_norm(back + skips[depth], hourglass.up_norms[depth], masks[depth])
    return dense


def test_dense_bev_puts_the_layers_side_by_side() -> None:
    sparse = _random_sites((3, 4, 5), 2)
    bev, dense = sparse.dense_bev(), _dense(sparse)
    assert bev.shape == (2, 6, 4, 5)
    for z in range(3):
        assert torch.equal(bev[:, 2 * z : 2 * z + 2], dense[:, :, z])


def test_no_site_at_all() -> None:
    sparse = SparseTensor.of(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), (5, 8, 8), 3)
    conv = SparseConv(4, 6, (3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1))
    bev = SparseHourglass(6, 3, "b", "c")(SparseResidualBlock(6, 3, "a")(conv(sparse))).dense_bev()
    assert bev.shape == (3, 6 * 3, 4, 4)
    assert not bev.any()


def test_last_sample_without_sites_keeps_its_place() -> None:
    sparse = SparseTensor.of(torch.ones(1, 4), torch.tensor([[0, 1, 1]], dtype=torch.int32), (4, 4), 3)
    bev = SparseConv(4, 2, (3, 3), stride=(2, 2), padding=(1, 1))(sparse).dense_bev()
    assert bev.shape == (3, 2, 2, 2)
    assert bev[0].any()
    assert not bev[1:].any()


def test_one_site_in_training() -> None:
    sparse = SparseTensor.of(torch.randn(1, 4), torch.tensor([[0, 1, 1]], dtype=torch.int32), (4, 4), 1)
    block = SparseResidualBlock(4, 2, "a").train()
    out = block(sparse)
    out.features.sum().backward()
    assert torch.isfinite(out.features).all()


def test_float32_under_autocast() -> None:
    sparse = _random_sites((6, 6), 4)
    block = SparseResidualBlock(4, 2, "a")
    expected = block(sparse).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = block(sparse.with_features(sparse.features)).features
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


def test_more_cells_than_int32_can_number_are_refused() -> None:
    check_cells((41, 1440, 1440), 25)
    with pytest.raises(ValueError, match="41 x 1440 x 1440"):
        check_cells((41, 1440, 1440), 26)
    with pytest.raises(ValueError, match="can number only"):
        SparseTensor.of(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), (2048, 1024, 1024), 1)


@pytest.mark.parametrize("index", [[0, 4, 0], [0, -1, 0], [2, 0, 0], [0, 0, 9]])
def test_an_index_outside_the_grid_is_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        SparseTensor.of(torch.zeros(1, 4), torch.tensor([index], dtype=torch.int32), (4, 4), 2)


def test_features_and_indices_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        SparseTensor.of(torch.zeros(2, 4), torch.zeros(1, 3, dtype=torch.int32), (4, 4), 1)
