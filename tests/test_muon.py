"""Muon: its updates against torch's own Muon and AdamW, and what it is given of a detector."""

import pytest
import torch
from torch import nn

from perception.detector import Detector
from tests.small_run import small_detector
from tools.training.config import TrainingConfig
from tools.training.muon import Muon, orthogonalized
from tools.training.optimizer import make_optimizer


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_singular_values_become_nearly_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = orthogonalized(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.transpose(1, 2) @ made @ right.transpose(1, 2)  # diagonal if the singular vectors are the same
    values = torch.diagonal(turned, dim1=1, dim2=2)
    assert bool((values > 0.3).all())
    assert bool((values < 1.3).all())
    assert torch.allclose(turned, torch.diag_embed(values), atol=1e-9)
    assert torch.equal(orthogonalized(torch.zeros(1, 8, 9)), torch.zeros(1, 8, 9))


def test_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    start, vector = torch.randn(24, 40, generator=generator), torch.randn(24, generator=generator)
    ours = [nn.Parameter(start.clone()), nn.Parameter(vector.clone())]
    theirs = [nn.Parameter(start.clone()), nn.Parameter(vector.clone())]
    mixed = Muon(
        [
            {"params": ours[:1], "weight_decay": 0.1, "matrix": True},
            {"params": ours[1:], "weight_decay": 0.2, "matrix": False},
        ],
        lr=0.01,
    )
    muon = torch.optim.Muon(theirs[:1], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[1:], lr=0.01, betas=(0.9, 0.99), weight_decay=0.2)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        mixed.step()
        muon.step()
        adamw.step()
    assert torch.equal(ours[1], theirs[1])
    # torch's Muon iterates in bfloat16, ours in the parameters' precision.
    moved, expected = ours[0].detach() - start, theirs[0].detach() - start
    assert float(nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0)) > 0.99
    assert float(moved.norm() / expected.norm()) == pytest.approx(1.0, abs=0.05)


def test_a_convolution_is_its_unfolded_matrix() -> None:
    weight = torch.randn(12, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    results = []
    for shape in ((12, 4, 3, 3), (12, 36)):
        parameter = nn.Parameter(weight.reshape(shape).clone())
        parameter.grad = gradient.reshape(shape).clone()
        Muon([{"params": [parameter], "matrix": True}], lr=0.1).step()
        results.append(parameter.detach().reshape(weight.shape))
    assert torch.equal(*results)


def test_layers_get_muon_and_everything_else_adamw() -> None:
    detector = Detector(small_detector())
    settings = TrainingConfig(2, 1e-3, 2, optimizer="muon", steps=1)
    matrices, others, vectors = make_optimizer(detector, settings).param_groups
    assert matrices["matrix"]
    assert matrices["weight_decay"] == others["weight_decay"] == settings.weight_decay
    assert not others["matrix"]
    assert not vectors["matrix"]
    assert vectors["weight_decay"] == 0.0
    names = {parameter: name for name, parameter in detector.named_parameters()}
    given = [parameter for group in (matrices, others, vectors) for parameter in group["params"]]
    assert sorted(names[parameter] for parameter in given) == sorted(names.values())
    assert all(names[parameter].endswith("weight") for parameter in matrices["params"])
    assert "fusion.row_position" in {names[parameter] for parameter in others["params"]}
    assert all(parameter.dim() <= 1 for parameter in vectors["params"])


def test_vectors_are_no_matrices() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([{"params": [nn.Parameter(torch.zeros(8))], "matrix": True}], lr=0.1)
