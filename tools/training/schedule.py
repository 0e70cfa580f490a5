"""The learning rate of each step, and the momentum that goes with it."""

import math
from typing import Literal

from torch.optim import Optimizer

Schedule = Literal["cosine", "one_cycle"]

# Of the cosine: where the warm-up begins and where the fall ends, as shares of the highest rate.
_WARMUP_START, _COSINE_END = 0.1, 0.001
# Of one cycle: the same (mmdetection3d's cyclic schedule: rises tenfold, ends at a ten-thousandth of the start).
_CYCLE_START, _CYCLE_END = 0.1, 1e-5
# The momentum is low where the rate is high.
_LOW_MOMENTUM, _HIGH_MOMENTUM = 0.85, 0.95


def learning_rate_at(
    step: int, total_steps: int, peak: float, warmup_fraction: float, schedule: Schedule = "cosine"
) -> float:
    """The learning rate of a step, counted from 0; it rises in the first `warmup_fraction` of the steps.

    cosine: linearly from a tenth of the peak, then down along half a cosine to a thousandth of it. one_cycle (Smith
    and Topin 2018): along half cosines from a tenth up, and down to a hundred-thousandth.
    """
    if schedule == "one_cycle":
        return peak * _cycle(step, total_steps, warmup_fraction, _CYCLE_START, 1.0, _CYCLE_END)
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return peak * (_WARMUP_START + (1.0 - _WARMUP_START) * step / warmup_steps)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * _half_cosine(1.0, _COSINE_END, done)


def momentum_at(step: int, total_steps: int, warmup_fraction: float, schedule: Schedule) -> float | None:
    """The momentum of a step, of one_cycle: from 0.95 to 0.85 and back. None: the optimiser keeps its own."""
    if schedule == "cosine":
        return None
    return _cycle(step, total_steps, warmup_fraction, _HIGH_MOMENTUM, _LOW_MOMENTUM, _HIGH_MOMENTUM)


def set_rates(optimizer: Optimizer, learning_rate: float, momentum: float | None) -> None:
    """Give all groups of an optimiser this learning rate and, unless None, this momentum (Adam's first beta)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if momentum is not None and "momentum" in group:
            group["momentum"] = momentum
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def _cycle(step: int, total_steps: int, rising: float, start: float, top: float, end: float) -> float:
    highest = max(rising * total_steps - 1.0, 0.0)
    if step <= highest:
        return _half_cosine(start, top, step / highest) if highest > 0 else top
    return _half_cosine(top, end, (step - highest) / (total_steps - 1.0 - highest))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
