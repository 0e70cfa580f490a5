"""A step of the whole: what a skipped one leaves as it was, and what clipping does to the gradients."""

from dataclasses import replace

import pytest
import torch

from perception.detector import Detector
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.training.processes import Processes
from tools.training.step import StepResult, seed_step
from tools.training.trained_network import TrainedNetwork

BATCH = random_batch(2, torch.Generator().manual_seed(0))


def trained(clip_norm: float = 1e9) -> tuple[Detector, TrainedNetwork]:
    torch.manual_seed(3)
    detector = Detector(small_detector())
    config = small_config(1)
    # The first update of sgd without decay is a multiple of the gradient.
    training = replace(config.training, optimizer="sgd", weight_decay=0.0, clip_norm=clip_norm)
    return detector, TrainedNetwork(detector, replace(config, training=training), Processes(1, 0, torch.device("cpu")))


def step(network: TrainedNetwork, updates: int = 0) -> StepResult:
    return network.step([BATCH], learning_rate=1e-4, generator=seed_step(0, 0, 0), updates=updates)


def weights(detector: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in detector.parameters()])


def test_a_skipped_step_leaves_weights_moments_and_average_as_they_were() -> None:
    detector, network = trained()
    assert step(network).finite

    def everything() -> list[torch.Tensor]:
        moments = [value for kept in network._optimizer.state.values() for value in kept.values()]
        tensors = [*detector.state_dict().values(), *network.average.state_dict().values(), *moments]
        return [tensor.clone() for tensor in tensors if isinstance(tensor, torch.Tensor)]

    before = everything()
    hook = next(detector.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    assert not step(network, updates=1).finite
    hook.remove()
    assert all(old.equal(new) for old, new in zip(before, everything(), strict=True))
    average = weights(network.average)
    assert step(network, updates=1).finite
    assert not weights(network.average).equal(average)


def test_the_optimiser_gets_gradients_of_the_configured_norm() -> None:
    detector, network = trained()
    start, norm = weights(detector), step(network).gradient_norm
    whole = weights(detector) - start
    detector, network = trained(clip_norm=norm / 4)
    norms = []
    network._optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            float(torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None]).norm())
        )
    )
    result = step(network)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)  # what is logged is the norm before
    assert norms == [pytest.approx(norm / 4, rel=1e-4)]
    torch.testing.assert_close(weights(detector) - start, whole / 4, rtol=0, atol=2e-3 * float(whole.abs().max()))
