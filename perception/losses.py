"""What a loss function gives."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


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
