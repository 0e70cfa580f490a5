"""The moving average against its formula, worked out in float64."""

import pytest
import torch

from perception.detector import Detector
from tests.small_run import small_detector
from tools.training.ema import MovingAverage


def test_the_average_is_the_sum_that_its_formula_gives() -> None:
    torch.manual_seed(0)
    network = Detector(small_detector())
    started = {name: tensor.clone().double() for name, tensor in network.state_dict().items()}
    average = MovingAverage(network, decay=0.5)
    expected, decays = started, []
    for updates in range(12):
        decays.append(min(0.5, (1 + updates) / (10 + updates)))
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) * 5)  # counts of batches become whole numbers
        present = {name: tensor.double() for name, tensor in network.state_dict().items()}
        expected = {name: decays[-1] * expected[name] + (1 - decays[-1]) * present[name] for name in expected}
        average.update(network, updates)
    # The warm-up: a tenth at first, and from the ninth update on what was asked for.
    assert decays[:2] == [0.1, 2 / 11]
    assert decays[7] == pytest.approx(8 / 17)
    assert decays[8:] == [0.5] * 4
    counts = 0
    for name, tensor in average.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)
        else:
            counts += 1
            assert tensor.equal(network.state_dict()[name])
    assert counts > 0
    assert not average.network.training
