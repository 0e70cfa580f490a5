"""The optimiser of a config."""

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from tools.training.config import TrainingConfig
from tools.training.muon import Muon, is_matrix

_SGD_MOMENTUM = 0.9


def make_optimizer(detector: nn.Module, config: TrainingConfig) -> Optimizer:
    """The optimiser of the config. Biases, norms and other vectors are not decayed: pulling them to zero regularises
    nothing.
    """
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    matrices = {
        parameter
        for module in detector.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if config.optimizer == "muon" and is_matrix(name, parameter)
    }
    others = [parameter for parameter in trained if parameter not in matrices]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": config.weight_decay, "matrix": False},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "matrix": False},
    ]
    match config.optimizer:
        case "adamw":
            return AdamW(groups, lr=config.learning_rate)
        case "sgd":
            return SGD(groups, lr=config.learning_rate, momentum=_SGD_MOMENTUM, nesterov=True)
        case "muon":
            chosen = [parameter for parameter in trained if parameter in matrices]
            first = {"params": chosen, "weight_decay": config.weight_decay, "matrix": True}
            return Muon([first, *groups], lr=config.learning_rate)
