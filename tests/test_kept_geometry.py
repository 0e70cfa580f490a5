"""What is kept of the cameras' geometry: found again by the same bits only, no part of the state, never in the way."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.sparse_product import product_in_order, sparse_product
from perception.view_transform.build import build_view
from perception.view_transform.kept_geometry import KeptGeometry
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import SamplingConfig
from perception.view_transform.view_transform import ViewTransform
from tests.random_batch import random_batch

GRID = BevGrid((-8.0, 8.0), (-6.0, 6.0), 2.0)
KINDS = {"lift_splat": LiftSplatConfig(depth_bins=6, depth_range=(1.0, 13.0)), "sampling": SamplingConfig(heights=2)}
each_kind = pytest.mark.parametrize("kind", KINDS)


def images_of(seed: int = 0) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(1, generator)
    features = torch.randn(6, 4, 4, 6, generator=generator)
    owner = torch.zeros(6, dtype=torch.int64)
    intrinsics = batch.intrinsics[0] + seed * torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    return ImageFeatures(features, intrinsics, batch.ego_from_cam[0], owner, 1, (64, 96), 16)


def view_of(kind: str) -> ViewTransform:
    torch.manual_seed(0)
    return build_view(KINDS[kind], GRID, 4, 3)  # type: ignore[arg-type]


def kept_of(view: ViewTransform) -> KeptGeometry[Any]:
    return next(value for value in vars(view).values() if isinstance(value, KeptGeometry))


def test_the_same_bits_are_found_again_and_nothing_else() -> None:
    kept, made, images = KeptGeometry[int](), [], images_of()

    def of(images: ImageFeatures) -> int:
        return kept.of(images, lambda _: made.append(0) or len(made))  # type: ignore[func-returns-value]

    assert of(images) == 1
    assert of(replace(images, features=images.features + 1, ego_from_cam=images.ego_from_cam.clone())) == 1
    nearly = images.ego_from_cam.clone()
    nearly[3, 0, 3] = torch.nextafter(nearly[3, 0, 3], torch.tensor(9.0))
    focal = images.intrinsics.clone()
    focal[0, 0, 0] += 1
    others = [
        replace(images, ego_from_cam=nearly),
        replace(images, intrinsics=focal),
        replace(images, sample_index=torch.tensor([0, 0, 0, 1, 1, 1]), batch_size=2),
        replace(images, batch_size=2),
        replace(images, stride=8),
        replace(images, features=images.features[..., :3]),
    ]
    for number, other in enumerate(others):
        assert of(other) == number + 2
        assert len(kept) <= 3
    # The oldest went; the newest are still there, also those that hold no number.
    assert of(others[-2]) == 6
    assert of(images) == 8
    broken = replace(images, ego_from_cam=torch.full((6, 4, 4), math.nan))
    assert of(broken) == of(broken) == 9


def results(view: ViewTransform, images: ImageFeatures) -> list[Tensor]:
    features = images.features.clone().requires_grad_()
    out = view(replace(images, features=features))
    return [
        out,
        *torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), [features, *view.parameters()]),
    ]


@each_kind
def test_results_are_the_same_to_the_last_bit_with_and_without_what_is_kept(kind: str) -> None:
    view = view_of(kind)
    one, other = images_of(0), images_of(1)
    new = [results(view_of(kind), images) for images in (one, other)]
    for images, expected in ((one, new[0]), (other, new[1]), (one, new[0]), (other, new[1])):
        for a, b in zip(results(view, images), expected, strict=True):
            assert torch.equal(a, b)
    assert len(kept_of(view)) == 2


@each_kind
def test_what_is_kept_is_no_state_and_does_not_follow_copies(kind: str) -> None:
    view, images = view_of(kind), images_of()
    names = set(view.state_dict())
    out = view(images)
    assert set(view.state_dict()) == names
    assert len(kept_of(view)) == 1
    # A moving average; and all that goes to a process of its own.
    copied = copy.deepcopy(view)
    assert len(kept_of(copied)) == 0
    assert torch.equal(copied(images), out)
    assert kept_of(view).__reduce__() == (KeptGeometry, ())


@each_kind
def test_what_an_inference_left_serves_a_training(kind: str) -> None:
    view, images = view_of(kind), images_of()
    with torch.inference_mode():
        view(images_of())
    assert len(kept_of(view)) == 1
    for a, b in zip(results(view, images), results(view_of(kind), images), strict=True):
        assert torch.equal(a, b)
    assert len(kept_of(view)) == 1


def test_sums_in_order_are_the_product() -> None:
    """What stands in for cuSPARSE where an order is asked for; rows without any entry, too."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 0, 5, 1, 0])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    columns = torch.randint(0, 4, (9,), generator=generator).int()
    values = torch.randn(9, generator=generator)
    dense = torch.randn(4, 3, generator=generator)
    expected = torch.zeros(5, 3)
    for row, entries in enumerate(torch.arange(9).split(counts.tolist())):
        for entry in entries.tolist():
            expected[row] += values[entry] * dense[columns[entry]]
    torch.testing.assert_close(product_in_order(starts, columns, values, dense), expected)
    torch.testing.assert_close(sparse_product(starts, columns, values, dense), expected)


def test_autocast_leaves_sums_in_the_numbers_own_type() -> None:
    """Under autocast cuSPARSE would take bfloat16, in which a place 50 m away is known to a quarter of a metre."""
    starts, columns = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1])
    values, places = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([[50.03, -1.0], [50.11, 3.0]])
    with torch.autocast("cpu", torch.bfloat16):
        sums = sparse_product(starts, columns, values, places)
    torch.testing.assert_close(sums, torch.tensor([[50.07, 1.0], [50.11, 3.0]]), atol=1e-5, rtol=0.0)
