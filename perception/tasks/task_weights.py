"""Several tasks' losses to one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from perception.losses import Losses

Task = Literal["detection", "segmentation", "depth", "perspective", "cross_modal"]


@dataclass(frozen=True)
class TaskWeightsConfig:
    """What each task's loss is multiplied by. `learned`: and by a factor that is learnt with the network."""

    learned: bool = False
    detection: float = 1.0
    segmentation: float = 1.0
    depth: float = 0.5
    perspective: float = 1.0
    cross_modal: float = 0.1

    def __post_init__(self) -> None:
        for name in get_args(Task):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")


class TaskWeights(nn.Module):
    """The weighted sum of the losses of some tasks.

    Learnt weights are those of Kendall et al. (2018): a task's loss L counts weight * (exp(-s) * L + s), where s stands
    for the logarithm of the task's variance, 0 at first. At rest exp(-s) is 1 / L: hard tasks count less. A task that
    has nothing to learn from in a batch (a loss of 0) leaves its s alone.
    """

    def __init__(self, config: TaskWeightsConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config, self.tasks = config, tuple(tasks)
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks))) if config.learned else None

    def forward(self, losses: Mapping[Task, Losses]) -> Losses:
        """One Losses with the parts of all; those of detection keep their names, the others' begin with the task."""
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for index, task in enumerate(self.tasks):
            of_task, weight = losses[task], getattr(self.config, task)
            factor = weight * torch.ones_like(of_task.total)
            if self.log_variances is not None:
                log_variance = self.log_variances[index]
                factor = weight * torch.exp(-log_variance)
                spread = weight * torch.where(of_task.total.detach() != 0, log_variance, 0.0)
                totals.append(spread)
                parts[f"{task}_spread"] = spread.detach()
            totals.append(factor * of_task.total)
            for name, part in of_task.parts.items():
                parts[name if task == "detection" else f"{task}_{name}"] = factor.detach() * part
        return Losses(torch.stack(totals).sum(), parts)
