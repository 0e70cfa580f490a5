"""Sparse convolutions: the only door to spconv.

The algorithm follows the device: `Native` on the CPU (the only one that trains there), spconv's own choice (implicit
GEMM) on CUDA. Where spconv is not installed, `spconv-triton` serves CUDA devices. The weights have the same names and
the same layout in all three, so a checkpoint moves freely.

spconv aborts the process on mismatched lengths, drops indices outside the shape in silence, refuses an empty tensor,
numbers its sites in int32 and has no bfloat16. All of that is settled here, before it sees anything.

The norm over sites is a LayerNorm over channels, each site on its own, and not the batch norm of the published
encoders: a lone site, an empty sample beside a full one and the step from training to inference change nothing.
"""

import importlib
import logging
import math
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32
from torch import Tensor, nn

from perception.triton_tiles import choose_tiles_by_rule

# spconv numbers the cells of batch x shape in int32.
_MAX_CELLS = 2**31 - 1


@cache
def _backend() -> tuple[Any, Any]:
    """The sparse convolution module, and spconv's ConvAlgo.Native (None where the backend is CUDA only)."""
    # spconv's tensors ask torch.fx whether it traces; torch 2.13 answers with a line in the log that concerns nobody.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # spconv 2.3 writes torch.cuda.amp in its older form.
            warnings.simplefilter("ignore", FutureWarning)
            native = importlib.import_module("spconv.core").ConvAlgo.Native
            if not torch.cuda.is_available():
                _list_no_cuda_kernels()
            return importlib.import_module("spconv.pytorch"), native
    except ImportError:
        pass
    try:
        choose_tiles_by_rule()
        return importlib.import_module("spconv_triton.pytorch"), None
    except ImportError:
        raise ImportError(
            "no sparse convolution is installed: pip install spconv-cu120 (CPU and CUDA, Python up to 3.11) "
            "or spconv-triton (CUDA only)"
        ) from None


def _list_no_cuda_kernels() -> None:
    """Spare the import of spconv its list of 2,000 CUDA kernels, six seconds, where there is no CUDA to run them."""
    core: Any = importlib.import_module("spconv.core")
    core.ALL_IMPGEMM_PARAMS = []
    core.ALL_NATIVE_PARAMS = []


def check_cells(shape: tuple[int, ...], batch_size: int = 1) -> None:
    """Raise ValueError where spconv could not number the cells of `batch_size` grids of this shape in int32."""
    cells = batch_size * math.prod(shape)
    if cells > _MAX_CELLS:
        size = " x ".join(str(length) for length in shape)
        raise ValueError(
            f"a batch of {batch_size} grids of {size} cells has {cells} cells, and sparse convolutions can number only "
            f"{_MAX_CELLS}: take larger cells, a smaller range or a smaller batch"
        )


@dataclass(frozen=True)
class SparseTensor:
    """Features at the V active cells (sites) of `batch_size` grids of one shape, two- or three-dimensional.

    features (V, C) float32. indices (V, 1 + D) int32: (batch, y, x) or (batch, z, y, x), each cell at most once.
    rulebooks: spconv's own record of which sites meet in a kernel; layers of one level share it.
    """

    features: Float32[Tensor, "V C"]
    indices: Int32[Tensor, "V K"]
    shape: tuple[int, ...]
    batch_size: int
    rulebooks: dict[str, Any]

    @classmethod
    def of(
        cls, features: Float[Tensor, "V C"], indices: Int32[Tensor, "_ K"], shape: tuple[int, ...], batch_size: int
    ) -> "SparseTensor":
        """Checked sites. Raises ValueError for an index outside the grids, unequal lengths, or too many cells."""
        if len(features) != len(indices) or indices.shape[1] != len(shape) + 1 or batch_size < 1:
            raise ValueError(
                f"features {tuple(features.shape)}, indices {tuple(indices.shape)}, a grid of {len(shape)} dimensions "
                f"and a batch of {batch_size} do not belong together"
            )
        check_cells(shape, batch_size)
        if len(indices):
            limit = torch.tensor([batch_size, *shape], dtype=torch.int32, device=indices.device)
            if bool(((indices < 0) | (indices >= limit)).any()):
                raise ValueError(f"a sparse index lies outside {batch_size} grids of shape {shape}")
        return cls(features.float(), indices.contiguous(), shape, batch_size, {})

    def with_features(self, features: Float[Tensor, "V D"]) -> "SparseTensor":
        """The same sites with other features."""
        return replace(self, features=features.float())

    def dense_bev(self) -> Float32[Tensor, "B C Y X"]:
        """Zeros, and the features where there are sites. The z cells of a 3D grid lie side by side in the channels."""
        *layers, rows, columns = self.shape
        depth, channels = math.prod(layers), self.features.shape[1]
        batch, *z, y, x = self.indices.long().unbind(dim=1)
        flat = ((batch * rows + y) * columns + x) * depth + (z[0] if z else 0)
        dense = self.features.new_zeros(self.batch_size * rows * columns * depth, channels)
        dense = dense.index_copy(0, flat, self.features)
        return dense.view(self.batch_size, rows, columns, depth * channels).permute(0, 3, 1, 2)


class SparseConv(nn.Module):
    """A sparse convolution without bias: strided (new sites wherever the kernel touches one) or submanifold.

    Submanifold: the sites stay as they are. `level`: submanifold layers with the same kernel on the same sites share
    one rulebook under this name. `pairs`: the name of this layer's own rulebook, by which an InverseSparseConv finds
    the way back; no other layer may have it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        *,
        stride: tuple[int, ...] | None = None,
        padding: tuple[int, ...] | None = None,
        level: str | None = None,
        pairs: str | None = None,
    ) -> None:
        super().__init__()
        if (stride is None) != (padding is None) or (stride is None) == (level is None):
            raise ValueError("a strided sparse convolution needs stride and padding, a submanifold one needs its level")
        spconv, _ = _backend()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.out_channels = out_channels
        dims = len(kernel)
        if stride is None or padding is None:
            layer = {2: spconv.SubMConv2d, 3: spconv.SubMConv3d}[dims]
            self.conv = layer(in_channels, out_channels, list(kernel), bias=False, indice_key=level)
        else:
            layer = {2: spconv.SparseConv2d, 3: spconv.SparseConv3d}[dims]
            self.conv = layer(
                in_channels, out_channels, list(kernel), list(stride), list(padding), bias=False, indice_key=pairs
            )
        self._cuda_algorithm = self.conv.algo

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The grid's shape after this layer."""
        if self.stride is None or self.padding is None:
            return shape
        sizes = zip(shape, self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * padding - kernel) // stride + 1 for n, kernel, stride, padding in sizes)

    def forward(self, sparse: SparseTensor) -> SparseTensor:
        """The convolved sites; no site in, no site out."""
        shape = self.out_shape(sparse.shape)
        if len(sparse.features) == 0:
            features = sparse.features.new_zeros(0, self.out_channels)
            return SparseTensor(features, sparse.indices, shape, sparse.batch_size, {})
        out = _convolve(self.conv, self._cuda_algorithm, sparse)
        return SparseTensor(out.features, out.indices, shape, sparse.batch_size, out.indice_dict)


class InverseSparseConv(nn.Module):
    """The way back from a strided convolution: the transposed convolution, at that layer's own input sites only.

    `pairs`, `kernel`: those of the strided layer.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...], *, pairs: str) -> None:
        super().__init__()
        spconv, _ = _backend()
        layer = {2: spconv.SparseInverseConv2d, 3: spconv.SparseInverseConv3d}[len(kernel)]
        self.conv = layer(in_channels, out_channels, list(kernel), indice_key=pairs, bias=False)
        self.out_channels = out_channels
        self._cuda_algorithm = self.conv.algo

    def forward(self, sparse: SparseTensor, fine: SparseTensor) -> SparseTensor:
        """From `sparse` to the sites of `fine`, those that went into the strided layer; no site in, no site out."""
        if len(fine.features) == 0:
            return fine.with_features(fine.features.new_zeros(0, self.out_channels))
        out = _convolve(self.conv, self._cuda_algorithm, sparse)
        return SparseTensor(out.features, fine.indices, fine.shape, fine.batch_size, out.indice_dict)


def _convolve(layer: Any, cuda_algorithm: Any, sparse: SparseTensor) -> Any:
    """What a layer of spconv makes of some sites, float32 also under autocast, by the algorithm of their device."""
    spconv, native = _backend()
    device = sparse.features.device.type
    if device == "cpu" and native is None:
        raise RuntimeError("spconv-triton runs on CUDA only: on the CPU, install spconv-cu120")
    layer.algo = native if device == "cpu" else cuda_algorithm
    with torch.autocast(device, enabled=False):
        tensor = spconv.SparseConvTensor(
            sparse.features, sparse.indices, list(sparse.shape), sparse.batch_size, indice_dict=sparse.rulebooks
        )
        return layer(tensor)


class SiteNorm(nn.Module):
    """An offset, LayerNorm over the channels of each site, then ReLU where asked.

    The norm takes the length of a feature vector away; against the offset, weak features stay different from strong.
    """

    def __init__(self, channels: int, *, relu: bool = True) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(channels) * 0.1)
        self.norm = nn.LayerNorm(channels, eps=1e-3)
        self.relu = relu

    def forward(self, sparse: SparseTensor) -> SparseTensor:
        """The same sites, normalised."""
        features = self.norm(sparse.features + self.offset)
        return sparse.with_features(F.relu(features) if self.relu else features)


class SparseResidualBlock(nn.Module):
    """Two submanifold convolutions of kernel 3 around a skip connection (He et al. 2016), in `dims` dimensions."""

    def __init__(self, channels: int, dims: int, level: str) -> None:
        super().__init__()
        kernel = (3,) * dims
        self.first = SparseConv(channels, channels, kernel, level=level)
        self.first_norm = SiteNorm(channels)
        self.second = SparseConv(channels, channels, kernel, level=level)
        self.second_norm = SiteNorm(channels, relu=False)

    def forward(self, sparse: SparseTensor) -> SparseTensor:
        """The same sites."""
        out: SparseTensor = self.second_norm(self.second(self.first_norm(self.first(sparse))))
        return out.with_features(F.relu(out.features + sparse.features))


class SparseHourglass(nn.Module):
    """The sparse encoder-decoder block of HEDNet (Zhang et al. 2023): far sites meet at low resolutions.

    blocks[i]: residual blocks at 1/2**i of the resolution. Down by strided convolutions, back by their inverses, with a
    skip connection at each level. `level`: as of SparseConv, of the sites that come in. `name`: of this block's own
    rulebooks; no other block may have it.
    """

    def __init__(self, channels: int, dims: int, level: str, name: str, blocks: tuple[int, ...] = (2, 1, 1)) -> None:
        super().__init__()
        kernel, stride, padding = (3,) * dims, (2,) * dims, (1,) * dims
        levels = [level, *(f"{name}, level {depth}" for depth in range(1, len(blocks)))]
        ways = [f"{name}, to level {depth}" for depth in range(1, len(blocks))]
        self.blocks = nn.ModuleList(
            nn.Sequential(*[SparseResidualBlock(channels, dims, own) for _ in range(count)])
            for own, count in zip(levels, blocks, strict=True)
        )
        self.downs = nn.ModuleList(
            nn.Sequential(
                SparseConv(channels, channels, kernel, stride=stride, padding=padding, pairs=way), SiteNorm(channels)
            )
            for way in ways
        )
        self.ups = nn.ModuleList(InverseSparseConv(channels, channels, kernel, pairs=way) for way in ways)
        self.up_norms = nn.ModuleList(SiteNorm(channels) for _ in ways)

    def forward(self, sparse: SparseTensor) -> SparseTensor:
        """The same sites."""
        sparse = self.blocks[0](sparse)
        skips = [sparse]
        for down, blocks in zip(self.downs, self.blocks[1:], strict=True):
            sparse = blocks(down(sparse))
            skips.append(sparse)
        for up, norm, skip in zip(reversed(self.ups), reversed(self.up_norms), reversed(skips[:-1]), strict=True):
            back = up(sparse, skip)
            sparse = norm(back.with_features(back.features + skip.features))
        return sparse
