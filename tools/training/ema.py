"""The moving average of a network's weights."""

import copy

import torch

from tools.training.network import Network
from tools.training.sharding import own_rows


class MovingAverage:
    """An exponential moving average of all parameters and floating point buffers (batch norm's statistics too).

    Early on the average forgets faster, min(decay, (1 + n) / (10 + n)), or the random weights of the start would
    stay in it for thousands of steps.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: Network, updates: int) -> None:
        """Move towards the network's present weights; `updates` counts the calls before this one."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        present = network.state_dict()
        for name, average in self.network.state_dict().items():
            if average.dtype.is_floating_point:
                own_rows(average).lerp_(own_rows(present[name]), 1.0 - decay)
            else:
                average.copy_(present[name])
