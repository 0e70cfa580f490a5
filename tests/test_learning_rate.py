"""The learning rate of each step, and its momentum: the cosine by its shape, one cycle against torch's."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from perception.detector import Detector
from tests.small_run import small_config, small_detector
from tools.training.config import TrainingConfig
from tools.training.optimizer import make_optimizer
from tools.training.schedule import learning_rate_at, momentum_at, set_rates


@pytest.mark.parametrize("total", [10, 57, 400])
@pytest.mark.parametrize("rising", [0.3, 0.4])
def test_one_cycle_is_torchs(total: int, rising: float) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.9, 0.99))
    theirs = OneCycleLR(
        optimizer, 0.02, total_steps=total, pct_start=rising, div_factor=10.0, final_div_factor=1e4,
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    for step in range(total):
        group = optimizer.param_groups[0]
        assert learning_rate_at(step, total, 0.02, rising, "one_cycle") == pytest.approx(group["lr"], rel=1e-9)
        assert momentum_at(step, total, rising, "one_cycle") == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            theirs.step()
    assert momentum_at(3, total, rising, "cosine") is None


def test_one_cycle_of_very_few_steps() -> None:
    for total in (1, 2, 3):
        rates = [learning_rate_at(step, total, 1.0, 0.4, "one_cycle") for step in range(total)]
        assert all(0 < rate <= 1 for rate in rates)
        assert total == 3 or max(rates) == 1.0


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_momentum_reaches_every_optimiser(name: str) -> None:
    training = replace(small_config(1).training, optimizer=name)
    optimizer = make_optimizer(Detector(small_detector()), training)
    set_rates(optimizer, 0.5, 0.87)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.5
        assert group["momentum" if name == "sgd" or group["matrix"] else "betas"] in (
            0.87,
            (0.87, group.get("betas", (0, 0))[1]),
        )


def test_the_rate_is_scaled_by_the_batch_of_a_step_and_said() -> None:
    training = TrainingConfig(2, 4e-4, 32, epochs=1.0, accumulate=4)
    assert training.effective_batch(4) == 32
    assert training.peak_learning_rate(4) == pytest.approx(4e-4)
    assert training.peak_learning_rate(1) == pytest.approx(2e-4)  # Adam's: a quarter of the batch, half the rate
    assert replace(training, optimizer="sgd").peak_learning_rate(1) == pytest.approx(1e-4)
    assert training.total_steps(samples=100, processes=1) == 13
    assert training.learning_rate_text(2) == (
        "learning rate 0.0004 for batches of 32, scaled by the square root to 0.000282843 for 16 = 2 samples "
        "x 4 accumulated x 2 processes; adamw, cosine, fp32"
    )


def test_epochs_count_batches_of_all_processes() -> None:
    training = TrainingConfig(batch_size=4, learning_rate=1e-3, reference_batch_size=16, epochs=1.5)
    assert training.total_steps(samples=10, processes=1) == 4  # 15 samples in batches of 4
    assert training.total_steps(samples=10, processes=2) == 2
    assert training.peak_learning_rate(1) == pytest.approx(0.5e-3)  # a quarter of the batch, half the rate
    assert training.peak_learning_rate(4) == pytest.approx(1e-3)


def test_the_learning_rate_rises_to_its_peak_and_falls() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate_at(0, 1, 1.0, 0.0) == 1.0
