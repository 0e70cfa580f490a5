"""How many operations a training does beside those that the card can do: its share of the measured matrix rate."""

from collections.abc import Sequence

import torch

from datasets.samples.batch import Batch
from perception.detector import Detector
from tools.benchmarks.branches import part_costs
from tools.training.config import Precision

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE, _WARM_UP, _PRODUCTS = 8192, 3, 10
# The gradients of a product are two products of its size: of a step, forward and backward, one third is forward. (Of
# the first layers' inputs none is needed: a per cent or so too many.)
_FORWARD_AND_BACKWARD = 3


def matrix_rate(device: torch.device, precision: Precision) -> float:
    """Operations a second (two for each multiply-add) of products of two 8192 x 8192 matrices of random numbers."""
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(_SIDE, _SIDE, generator=generator, device=device) for _ in range(2))
    left, right = left.to(_DTYPES[precision]), right.to(_DTYPES[precision])
    for _ in range(_WARM_UP):
        left @ right
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    for _ in range(_PRODUCTS):
        left @ right
    ended.record()
    ended.synchronize()
    seconds = float(began.elapsed_time(ended)) * 1e-3
    return 2 * _SIDE**3 * _PRODUCTS / seconds


def step_operations(detector: Detector, batches: Sequence[Batch]) -> float:
    """Operations of training steps on these batches, all together: those of `part_costs`, forward and backward."""
    gflop = sum(cost.gflop for batch in batches for cost in part_costs(detector, batch).values())
    return _FORWARD_AND_BACKWARD * gflop * 1e9
