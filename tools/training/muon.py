"""Muon (Jordan et al. 2024): momentum whose singular values are all made 1, for matrices and convolutions."""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

# A quintic iteration that brings every singular value into about 0.7..1.2 in five rounds (Jordan et al. 2024).
_ROUNDS, _A, _B, _C = 5, 3.4445, -4.7750, 2.0315
# The root mean square of AdamW's updates over its learning rate (Liu et al. 2025): with it, one rate serves both.
_UPDATE_SIZE = 0.2
# With fewer rows or columns there are too few directions for making them equal to mean something.
_FEWEST = 8


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a module's own parameter of this name is a layer's matrix, or a convolution's, unfolded."""
    return name == "weight" and parameter.dim() >= 2 and min(as_matrix(parameter).shape) >= _FEWEST


def as_matrix(weight: Tensor) -> Float[Tensor, "R K"]:
    """The weight with a row for each output: dense and sparse convolutions both have their output channels first."""
    return weight.flatten(1)


class Muon(Optimizer):
    """Muon for the groups with `matrix` True, AdamW for the others; weight decay is decoupled in both.

    Matrices: Nesterov momentum, orthogonalised, scaled to the size that AdamW's update would have.
    Raises ValueError for a parameter in a matrix group that is none.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0})
        matrices = [parameter for group in self.param_groups if group["matrix"] for parameter in group["params"]]
        if any(parameter.dim() < 2 for parameter in matrices):
            raise ValueError("Muon is for matrices and convolutions only")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group["matrix"]:
                self._adamw(parameters, group)
                continue
            # Matrices of one shape are orthogonalised together: a small network has dozens of them.
            by_shape: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in parameters:
                by_shape[as_matrix(parameter).shape].append(parameter)
            for alike in by_shape.values():
                self._muon(alike, group)

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        pushed = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(momentum).add_(gradient)
            pushed.append(as_matrix(gradient + momentum * state["momentum"]))
        updates = orthogonalized(torch.stack(pushed))
        size = _UPDATE_SIZE * max(updates.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, updates.unbind(0), strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-rate * size)

    def _adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] |= {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalized(matrices: Float[Tensor, "N R K"]) -> Float[Tensor, "N R K"]:
    """The matrices with the same singular vectors and singular values near 1; a matrix of zeros stays as it is."""
    tall = matrices.shape[1] > matrices.shape[2]
    now: Tensor = matrices.transpose(1, 2) if tall else matrices
    # The norm bounds the largest singular value, as the iteration wants it.
    now = now / matrices.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ROUNDS):
        gram = now @ now.transpose(1, 2)
        now = _A * now + (_B * gram + _C * gram @ gram) @ now
    return now.transpose(1, 2) if tall else now
