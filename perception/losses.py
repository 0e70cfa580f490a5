"""What a loss function gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Counts = Mapping[str, Float[Tensor, ""]]
"""What the losses of a batch are divided by, by name: peaks, objects, pixels. Each batch has the same names.

Where several batches make one step, one after another or in several processes, each of them divides by the mean over
all: then the mean of their losses is the loss of all their samples together, and so are the gradients.
"""


def at_least_one(counts: Counts) -> Counts:
    """The counts of a batch that is a step of its own; without any object a loss is 0 and not 0 / 0."""
    return {name: count.clamp(min=1) for name, count in counts.items()}


@dataclass(frozen=True)
class Losses:
    """`total` is the sum of the weighted `parts`; the parts by name, detached, for the log."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]

    @classmethod
    def of(cls, parts: dict[str, Float[Tensor, ""]]) -> "Losses":
        """The sum of at least one weighted part."""
        total = torch.stack(list(parts.values())).sum()
        return cls(total, {name: part.detach() for name, part in parts.items()})
