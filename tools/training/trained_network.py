"""A network with everything that a step of training changes, and its way to a checkpoint and back."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from datasets.samples.batch import Batch
from tools.run_config import RunConfig, config_to_json
from tools.training.activations import recompute_activations
from tools.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from tools.training.compiled_parts import compile_dense_parts
from tools.training.ema import MovingAverage
from tools.training.network import Network, network_of
from tools.training.optimizer import make_optimizer
from tools.training.processes import Processes
from tools.training.sharding import ShardedModel, whole_tensors
from tools.training.step import LossOfBatch, StepResult, put_scale_back, training_step


class TrainedNetwork:
    """The weights, their moving average, the optimiser's moments and fp16's scale of one training."""

    def __init__(self, network: Network, config: RunConfig, processes: Processes) -> None:
        """Trains the network itself, whose parameters are in shares then, if `processes` are `sharded`."""
        settings = config.training
        self._config, self._processes = config, processes
        self._network = network.to(processes.device).train()
        self._average = MovingAverage(network, settings.ema_decay)
        if settings.checkpoint_activations:
            recompute_activations(network)
        if settings.compile:
            compile_dense_parts(network)
        self._model: nn.Module = LossOfBatch(network, settings.precision)
        if processes.sharded:
            self._model = ShardedModel(self._model, self._average.network, processes)
        # After the parameters were divided: its moments are of shares.
        self._optimizer = make_optimizer(network, settings)
        self.scaler = GradScaler(processes.device.type) if settings.precision == "fp16" else None
        if processes.count > 1 and not processes.sharded:
            # A branch whose modality is missing from the whole batch gets no gradient in that step.
            self._model = DistributedDataParallel(self._model, find_unused_parameters=True)

    @property
    def average(self) -> Network:
        """The network with the averaged weights, in eval mode; in shares, if they are."""
        return self._average.network

    def step(
        self,
        batches: Sequence[Batch],
        *,
        learning_rate: float,
        generator: torch.Generator,
        updates: int,
        momentum: float | None = None,
    ) -> StepResult:
        """One step of training, and of the average; `updates`: how many steps have changed the weights before this one.

        What `training_step` says, holds.
        """
        result = training_step(
            self._model,
            self._optimizer,
            batches,
            self._config.training,
            learning_rate=learning_rate,
            momentum=momentum,
            generator=generator,
            processes=self._processes,
            scaler=self.scaler,
        )
        if result.finite:
            self._average.update(self._network, updates)
        return result

    def whole_average(self) -> Network:
        """The averaged network of the first process, which is saved, as one that works by itself; all must call this.

        A copy, where weights are in shares. Otherwise batch norm's statistics are those of each process's samples
        before this, and the others would detect with another network than the one that is saved.
        """
        if not self._processes.sharded:
            self._processes.take_first(self._average.network.state_dict().values())
            return self._average.network
        network = network_of(self._config, pretrained=False)
        network.load_state_dict(dict(whole_tensors(self._average.network)))
        return network.to(self._processes.device).eval().requires_grad_(False)

    def save(self, folder: Path, state: TrainingState) -> None:
        """Write a checkpoint; the first process does, all must call it where weights are in shares.

        Raises as `save_checkpoint` does.
        """
        writes = self._processes.first
        if writes or self._processes.sharded:
            config_json = config_to_json(self._config)
            save_checkpoint(folder, state, self._network, self._average, self._optimizer, config_json, writes=writes)

    def load(self, checkpoint: Path) -> TrainingState:
        """Put a checkpoint's tensors in place and return its state. Raises as `load_checkpoint` does."""
        state = load_checkpoint(checkpoint, self._network, self._average, self._optimizer)
        if self.scaler is not None:
            put_scale_back(self.scaler, state.loss_scale, state.loss_scale_steps)
        return state
