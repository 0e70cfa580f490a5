"""Which tiles spconv-triton's kernels work in: by rule, where it would try some forty variants of each.

For each size of layer, forward and backward, spconv-triton compiles and times every variant it knows before the first
step: a thousand compilations for `base`. What wins depends on the moment, and with it the order of sums: two runs of
one seed would part in the last bits, and a resumed run from the one that was never stopped.
"""

import importlib
from typing import Any

# Tiles, warps and stages for layers of at most 16 channels, and for wider ones. Of the forward pass and the gradient
# of the input: rows x out channels, in steps of in channels; of the weights' gradient: in x out channels, in steps of
# rows. Larger tiles take several times as long to compile in float32.
_NARROW = 16
_FORWARD = ((128, 16, 16, 4, 4), (64, 32, 32, 2, 4))
_OF_WEIGHTS = ((128, 16, 16, 2, 4), (64, 32, 32, 2, 5))
# Numbers of sites, which differ from batch to batch. Triton would compile a kernel once more where one divides by 16.
_COUNTS = ("M", "s_pk", "splits")


def choose_tiles_by_rule() -> None:
    """Let spconv-triton take one variant for each number of channels. Raises ImportError where it is not installed."""
    kernels: Any = importlib.import_module("spconv_triton.pytorch._impl.gemm")
    forward, of_weights = kernels._gather_gemm_kernel, kernels._dweight_masked_kernel
    forward.early_config_prune = lambda configs, sizes, **_: [
        _variant(configs, _FORWARD, max(sizes["N_dim"], sizes["R_dim"]), ("BLOCK_M", "BLOCK_N", "BLOCK_R"))
    ]
    of_weights.early_config_prune = lambda configs, sizes, **_: [
        _variant(configs, _OF_WEIGHTS, max(sizes["K_dim"], sizes["C_dim"]), ("BLOCK_P", "BLOCK_K", "BLOCK_C"))
    ]
    for kernel in (forward, of_weights):
        for parameter in kernel.fn.params:
            parameter.do_not_specialize |= parameter.name in _COUNTS


def _variant(
    configs: list[Any], rule: tuple[tuple[int, ...], tuple[int, ...]], channels: int, names: tuple[str, str, str]
) -> Any:
    """The variant for so many channels. Raises ValueError where this spconv-triton has none with those tiles."""
    tiles = rule[channels > _NARROW]
    for config in configs:
        if (*(config.kwargs[name] for name in names), config.num_warps, config.num_stages) == tiles:
            return config
    raise ValueError(f"this spconv-triton has no variant with tiles {tiles}: install version 1.0.0")
