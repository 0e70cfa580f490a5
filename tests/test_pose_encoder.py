import math

import pytest
import torch

from datasets.samples.sample import EGO_MOTION_FIELDS
from perception.pose_encoder import PoseConfig, PoseEncoder


def _encoder() -> PoseEncoder:
    torch.manual_seed(0)
    return PoseEncoder(PoseConfig(16), 6)


def _motion(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(seed))


def test_shape_and_a_gradient_for_every_parameter() -> None:
    encoder = _encoder()
    out = encoder(_motion(), torch.ones(2, 4, dtype=torch.bool))
    assert out.shape == (2, 6)
    (out * torch.randn(2, 6)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_no_valid_state_gives_zeros_and_changes_no_other_sample() -> None:
    encoder, motion = _encoder(), _motion()
    valid = torch.tensor([[True] * 4, [False] * 4])
    out = encoder(motion, valid)
    assert not out[1].any()
    torch.testing.assert_close(out[0], encoder(motion[:1], valid[:1])[0], atol=1e-6, rtol=1e-5)
    out.sum().backward()
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in encoder.parameters()
    )


def test_what_stands_in_an_invalid_row_plays_no_part() -> None:
    encoder, motion = _encoder(), _motion()
    valid = torch.tensor([[False, True, True, True], [False, False, True, True]])
    spoilt = motion.clone()
    spoilt[~valid] = 1e6
    assert torch.equal(encoder(spoilt, valid), encoder(motion, valid))


def test_a_state_that_is_not_finite_counts_as_invalid() -> None:
    encoder, motion = _encoder(), _motion()
    valid = torch.ones(2, 4, dtype=torch.bool)
    spoilt, without = motion.clone(), valid.clone()
    spoilt[1, 2, 4], without[1, 2] = math.nan, False
    assert torch.equal(encoder(spoilt, valid), encoder(motion, without))


@pytest.mark.parametrize("field", EGO_MOTION_FIELDS)
def test_each_field_matters(field: str) -> None:
    encoder, motion = _encoder(), _motion()
    valid = torch.ones(2, 4, dtype=torch.bool)
    changed = motion.clone()
    changed[..., EGO_MOTION_FIELDS.index(field)] += 0.1
    assert not torch.equal(encoder(changed, valid), encoder(motion, valid))


def test_the_order_in_time_matters() -> None:
    encoder, motion = _encoder(), _motion()
    valid = torch.ones(2, 4, dtype=torch.bool)
    age = EGO_MOTION_FIELDS.index("age")
    motion[..., age] = torch.tensor([1.5, 1.0, 0.5, 0.0])
    swapped = motion.flip(1)
    swapped[..., age] = motion[..., age]
    assert not torch.allclose(encoder(swapped, valid), encoder(motion, valid), atol=1e-4)
