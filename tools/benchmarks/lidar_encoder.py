"""The LiDAR encoders beside the same networks built of spconv's own layers, called directly, on one thread."""

import warnings
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.samples.batch import PointBatch
from perception.lidar_branch import PillarEncoder, VoxelEncoder
from perception.sparse import SiteNorm, SparseConv, SparseResidualBlock, SparseTensor
from perception.voxelize import voxelize
from tools.benchmarks.side_by_side import Agreement, Comparison, interleaved

# As a share of the largest number: the same products, added up in the same order, must give nearly the same.
_BOUND = 1e-5


def bench_lidar_encoder(
    encoder: PillarEncoder | VoxelEncoder, points: PointBatch, rounds: int, repeats: int
) -> Comparison:
    """From the sites of the points, with random features, to the dense BEV; forward, without gradients."""
    voxels = voxelize(points, encoder.grid)
    first = next(layer for layer in encoder.layers.modules() if isinstance(layer, SparseConv))
    channels = first.conv.in_channels
    if isinstance(encoder, VoxelEncoder):
        indices = voxels.indices
        shape: tuple[int, ...] = encoder.shape
    else:
        indices, shape = voxels.indices[:, [0, 2, 3]].contiguous(), encoder.grid.shape[1:]
    features = torch.randn(len(indices), channels, generator=torch.Generator().manual_seed(0))
    direct = _Direct(encoder.layers)

    def bevel() -> Tensor:
        with torch.no_grad():
            sites = SparseTensor.of(features, indices, shape, points.batch_size)
            encoded: SparseTensor = encoder.layers(sites)
            return encoded.dense_bev()

    def by_spconv() -> Tensor:
        with torch.no_grad():
            return cast(Tensor, direct(features, indices, shape, points.batch_size))

    # spconv indexes with a list, of which torch warns.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
    ours, theirs = bevel(), by_spconv()
    if theirs.dim() == 5:
        # spconv's cells in height lie in an axis of their own.
        theirs = theirs.transpose(1, 2).flatten(1, 2)
    off = float((ours - theirs).abs().max() / theirs.abs().max())
    agreement = Agreement(f"outputs within {off:.1e}, bound {_BOUND:.0e}", off <= _BOUND)
    cells = " x ".join(str(length) for length in shape)
    work = f"{type(encoder).__name__} of {len(indices)} sites in {cells} cells, forward"
    ways = {"bevel": bevel, "spconv called directly": by_spconv}
    return Comparison.of(work, interleaved(ways, rounds, repeats), agreement)


class _Direct(nn.Module):
    """spconv's layers in a row, with the weights of ours."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_direct(layer) for layer in layers])

    def forward(self, features: Tensor, indices: Tensor, shape: tuple[int, ...], batch_size: int) -> Tensor:
        import spconv.pytorch as spconv

        sparse: Any = spconv.SparseConvTensor(features, indices, list(shape), batch_size)
        for layer in self.layers:
            sparse = layer(sparse)
        return cast(Tensor, sparse.dense())


class _DirectNorm(nn.Module):
    def __init__(self, norm: SiteNorm) -> None:
        super().__init__()
        self.of = norm

    def forward(self, sparse: Any) -> Any:
        features = self.of.norm(sparse.features + self.of.offset)
        return sparse.replace_feature(F.relu(features) if self.of.relu else features)


class _DirectBlock(nn.Module):
    def __init__(self, block: SparseResidualBlock) -> None:
        super().__init__()
        inner = (block.first, block.first_norm, block.second, block.second_norm)
        self.layers = nn.ModuleList([_direct(layer) for layer in inner])

    def forward(self, sparse: Any) -> Any:
        out = sparse
        for layer in self.layers:
            out = layer(out)
        return out.replace_feature(F.relu(out.features + sparse.features))


def _direct(layer: nn.Module) -> nn.Module:
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo

    match layer:
        case SiteNorm():
            return _DirectNorm(layer)
        case SparseResidualBlock():
            return _DirectBlock(layer)
        case SparseConv():
            dims = len(layer.kernel)
            sizes = (layer.conv.in_channels, layer.conv.out_channels, list(layer.kernel))
            made: Any
            if layer.stride is None or layer.padding is None:
                kind = spconv.SubMConv2d if dims == 2 else spconv.SubMConv3d
                made = kind(*sizes, bias=False, indice_key=layer.conv.indice_key, algo=ConvAlgo.Native)
            else:
                kind = spconv.SparseConv2d if dims == 2 else spconv.SparseConv3d
                made = kind(*sizes, list(layer.stride), list(layer.padding), bias=False, algo=ConvAlgo.Native)
            made.weight = layer.conv.weight
            return cast(nn.Module, made)
    raise TypeError(f"spconv has nothing like a {type(layer).__name__}")
