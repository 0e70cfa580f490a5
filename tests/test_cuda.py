"""CUDA computes what the CPU does: same weights, same batch. Also where sparse convolutions have no CPU backend: see
tests/cuda_reference.py.

Bounds. float32 has 24 bits; TF32 is off, so that products are as exact as on the CPU, and only the order of sums is
another. A rounding of 6e-8, carried through some dozens of layers with norms between them, was seen to grow to about
1e-5 of the largest number of a tensor when the CPU's weights were moved by one part in 1e7; bounds are ten times that.
Gradients run back through as many layers again, and near a ReLU's corner a unit may change sides. bfloat16 has 8 bits,
float16 11: a layer's rounding is 4e-3 and 5e-4.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from calibration.transforms import from_yaw
from datasets.boxes import Boxes3D
from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.cross_modal.places import seen_cells
from perception.fusion.box_fusion import weighted_box_fusion
from perception.grid import BevGrid
from perception.heads.center_targets import center_targets
from perception.heads.peaks import NMS_RADIUS, circle_nms, highest
from perception.image_features import FeaturePixels, ImageFeatures
from perception.lidar_depth import nearest_depths
from perception.pillars import PillarFeatures
from perception.radar_branch import with_states_apart
from perception.rotated_iou import bev_iou, iou_3d_of_all
from perception.sparse import InverseSparseConv, SparseConv, SparseTensor
from perception.sparse_product import sampled_product, sparse_product
from perception.temporal import FrameBevs, TemporalConfig, TemporalFusion, warped
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.sampling import Sampling, SamplingConfig
from perception.voxelize import VoxelGrid, voxelize
from tests.cuda_reference import NAMES, TRAINING, OptimizerName, driving_batch, reference, results, tensors_in, trained
from tests.random_batch import random_boxes
from tests.small_run import small_config
from tools.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from tools.training.config import Precision
from tools.training.ema import MovingAverage
from tools.training.muon import orthogonalized
from tools.training.optimizer import make_optimizer
from tools.training.processes import Processes
from tools.training.step import LossOfBatch, seed_step, training_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
CUDA = torch.device("cuda", 0)
GRID = BevGrid((-40.0, 40.0), (-40.0, 40.0), 2.0)
EXACT, LAYERS, GRADIENTS = 1e-6, 1e-4, 2e-3


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """TF32 rounds to 11 bits: no bound on it would tell a fault from a rounding."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


def close(found: Tensor, expected: Tensor, bound: float, what: str = "") -> None:
    """The largest difference, as a share of the largest number; what is no floating point number is equal."""
    assert found.shape == expected.shape, what
    found, expected = found.detach().cpu(), expected.detach().cpu()
    if not expected.dtype.is_floating_point:
        assert torch.equal(found, expected), what
        return
    assert torch.equal(found.isfinite(), expected.isfinite()), what
    found, expected = found.double().nan_to_num(0.0, 0.0, 0.0), expected.double().nan_to_num(0.0, 0.0, 0.0)
    if expected.numel():
        difference, largest = (found - expected).abs().max(), expected.abs().max()
        assert difference <= bound * max(1e-2, float(largest)), f"{what}: {difference:.3g} of {largest:.3g}"


def close_in_length(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    """The length of the difference, as a share of the length."""
    assert found.shape == expected.shape, what
    difference, length = (found.double() - expected.double()).norm(), expected.double().norm()
    assert difference <= bound * max(1e-3, float(length)), f"{what}: {difference:.3g} of {length:.3g}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != TRAINING])
def test_detectors_losses_gradients_and_boxes(name: str) -> None:
    """Every fusion, head, encoder, view, task and gap in the sensors; see cases()."""
    expected = reference(name)
    found = results(expected.network().to(CUDA), expected.batch.to(CUDA))
    assert found.keys() == expected.results.keys()
    for key, value in expected.results.items():
        if key.startswith("gradient/"):
            # The triplet loss looks at one of many negatives, and at the next best if that comes a rounding nearer.
            close_in_length(found[key], value, 0.1 if name == "triplet" else GRADIENTS, key)
        elif not key.startswith("boxes/"):
            close(found[key], value, LAYERS, key)
    for index in range(len(expected.batch.tokens)):
        same_boxes(found, expected.results, index)


def same_boxes(found: dict[str, Tensor], expected: dict[str, Tensor], sample: int) -> None:
    """The same number of boxes with the same scores, and nearly all the same boxes.

    An untrained network gives hundreds of boxes scores that differ in the sixth digit: two of them may trade places,
    and with that which of two neighbours suppresses the other.
    """
    one, other = (_box_rows(held, sample) for held in (found, expected))
    assert abs(len(one) - len(other)) <= 0.02 * len(other)
    if not len(other):
        return
    shared = min(len(one), len(other))
    close(one[:shared, 0], other[:shared, 0], 1e-3, f"scores of sample {sample}")
    there = (one[None] - other[:, None]).abs().amax(dim=2) <= 2e-3
    assert there.any(dim=1).double().mean() >= 0.98, f"boxes of sample {sample}"


def _box_rows(held: dict[str, Tensor], sample: int) -> Tensor:
    """Score, centre, size, direction, velocity, label and attribute in a row for each box."""
    boxes = {name: held[f"boxes/{sample}/{name}"] for name in Boxes3D.__dataclass_fields__ if name != "tokens"}
    columns = [boxes["scores"][:, None], boxes["centers"], boxes["sizes_wlh"], boxes["yaws"][:, None].sin()]
    columns += [boxes["yaws"][:, None].cos(), boxes["velocities"]]
    columns += [boxes[name][:, None].float() for name in ("labels", "attributes")]
    return torch.cat(columns, dim=1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_three_steps_of_training_in_float32(optimizer: OptimizerName) -> None:
    expected = reference(TRAINING)
    found = trained(expected.network().to(CUDA), expected.batch, optimizer, "fp32")
    close(found["losses"], expected.results[f"{optimizer}/losses"], 10 * LAYERS, "losses")
    close(found["norms"], expected.results[f"{optimizer}/norms"], GRADIENTS * 10, "norms")
    # Adam's first steps are as long for a gradient of 1e-9 as for one of 1: weights that hardly matter may part.
    for key, value in found.items():
        if key.startswith("weights/"):
            assert (value - expected.results[f"{optimizer}/{key}"]).abs().mean() < 5e-4, key


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_three_steps_of_training_in_half_precision(optimizer: OptimizerName, precision: Precision) -> None:
    """bfloat16, and float16 with its loss scaled: the losses of float32 to 3 %."""
    expected = reference(TRAINING)
    found = trained(expected.network().to(CUDA), expected.batch, optimizer, precision)
    close(found["losses"], expected.results[f"{optimizer}/losses"], 0.03, "losses")
    assert found["losses"][-1] < found["losses"][0]
    for key, value in found.items():
        assert value.isfinite().all(), key


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_goes_to_the_cpu_and_back(optimizer: OptimizerName, tmp_path: Path) -> None:
    """All bits of weights and moments arrive on either side, and training goes on as if nothing had been."""
    expected = reference(TRAINING)
    settings = replace(small_config(4).training, optimizer=optimizer)
    detector = expected.network().to(CUDA).train()
    average, chosen = MovingAverage(detector, 0.9), make_optimizer(detector, settings)

    def step(network: torch.nn.Module, optimiser: torch.optim.Optimizer, number: int) -> float:
        result = training_step(
            LossOfBatch(network),
            optimiser,
            [expected.batch],
            settings,
            learning_rate=1e-3,
            generator=seed_step(0, number, 0),
            processes=Processes(1, 0, CUDA),
        )
        assert result.finite
        return result.loss

    step(detector, chosen, 0)
    average.update(detector, 0)
    first = save_checkpoint(tmp_path / "a", _state(), detector, average, chosen, "{}")
    other = expected.network()
    other_average, other_chosen = MovingAverage(other, 0.9), make_optimizer(other, settings)
    assert load_checkpoint(first, other, other_average, other_chosen) == _state()
    for name, value in detector.state_dict().items():
        assert torch.equal(value.cpu(), other.state_dict()[name]), name
    second = save_checkpoint(tmp_path / "b", _state(), other, other_average, other_chosen, "{}")
    for file in ("weights.safetensors", "raw_weights.safetensors", "optimizer.safetensors"):
        one, there = load_file(first / file), load_file(second / file)
        assert one.keys() == there.keys()
        assert all(torch.equal(one[name], there[name]) for name in one), file
    back = expected.network().to(CUDA)
    back_average, back_chosen = MovingAverage(back, 0.9), make_optimizer(back, settings)
    load_checkpoint(second, back, back_average, back_chosen)
    assert step(back.train(), back_chosen, 1) == pytest.approx(step(detector, chosen, 1), rel=LAYERS)


def _state() -> TrainingState:
    return TrainingState(1, 1, 0, 1, "data", "order")


@pytest.mark.parametrize("channels", [(5, 8), (24, 40), (64, 64)])
@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse"])
@pytest.mark.parametrize("shape", [(17, 19), (7, 17, 19)])
def test_sparse_convolutions_equal_dense_ones(shape: tuple[int, ...], kind: str, channels: tuple[int, int]) -> None:
    """With their gradients; below 16 channels, above, and beyond a tile."""
    dims, (inner, outer) = len(shape), channels
    torch.manual_seed(0)
    occupied = torch.rand(2, *shape) < 0.3
    indices = torch.nonzero(occupied).int().to(CUDA)
    features = torch.randn(len(indices), inner, device=CUDA, requires_grad=True)
    sites = SparseTensor.of(features, indices, shape, 2)
    kernel, stride, padding = (3,) * dims, (2,) * dims, (1,) * dims
    layer: SparseConv | InverseSparseConv
    if kind == "submanifold":
        layer = SparseConv(inner, outer, kernel, level="a").to(CUDA)
        out = layer(sites)
    else:
        layer = SparseConv(inner, outer, kernel, stride=stride, padding=padding, pairs="way").to(CUDA)
        out = layer(sites)
        if kind == "inverse":
            down, layer = layer, InverseSparseConv(outer, inner, kernel, pairs="way").to(CUDA)
            out = layer(out, sites)
    weight = layer.conv.weight.detach().movedim(-1, 1).clone().requires_grad_()
    dense_in = torch.zeros(2, *shape, inner, device=CUDA)
    batch, *place = indices.long().unbind(1)
    dense_in[(batch, *place)] = features.detach()
    dense_in = dense_in.movedim(-1, 1).requires_grad_()
    convolve = F.conv2d if dims == 2 else F.conv3d
    if kind == "inverse":
        between = convolve(dense_in, down.conv.weight.detach().movedim(-1, 1), stride=2, padding=1)
        # What the transposed convolution of torch calls its input channels comes first.
        turn = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
        spare = [length - (2 * (small - 1) + 1) for length, small in zip(shape, between.shape[2:], strict=True)]
        expected = turn(between, weight.transpose(0, 1), stride=2, padding=1, output_padding=spare)
    else:
        step = 1 if kind == "submanifold" else 2
        expected = convolve(dense_in, weight, stride=step, padding=1)
    batch, *place = out.indices.long().unbind(1)
    at_sites = expected.movedim(1, -1)[(batch, *place)]
    close(out.features, at_sites, LAYERS, "forward")
    pull = torch.randn_like(at_sites)
    (out.features * pull).sum().backward()
    (at_sites * pull).sum().backward()
    assert layer.conv.weight.grad is not None
    assert weight.grad is not None
    assert features.grad is not None
    assert dense_in.grad is not None
    close(layer.conv.weight.grad.movedim(-1, 1), weight.grad, LAYERS, "gradient of the weights")
    batch, *place = indices.long().unbind(1)
    close(features.grad, dense_in.grad.movedim(1, -1)[(batch, *place)], LAYERS, "gradient of the features")


@pytest.mark.parametrize("layers", [1, 4])
def test_points_fall_into_the_same_voxels(layers: int) -> None:
    """To the last bit, on cell edges too, with points that are broken and a last sample that has none."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(5000, 5, generator=generator) * 100 - 50
    points[:1000] = (points[:1000] / 2).round() * 2
    points[7, 2], points[8, 0], points[9, 4] = torch.nan, torch.inf, -torch.inf
    cloud = PointBatch.of([points[:3000], points[3000:], points[:0]])
    grid = VoxelGrid(GRID, (-40.0, 40.0), layers)
    expected, found = voxelize(cloud, grid), voxelize(cloud.to(CUDA), grid)
    assert torch.equal(found.occupied_samples().cpu(), torch.tensor([1.0, 1.0, 0.0]))
    for name in ("indices", "points", "voxel_of_point", "counts"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
    close(found.mean(found.points), expected.mean(expected.points), EXACT)
    with torch.autocast("cuda", torch.bfloat16):
        close(found.mean(found.points), expected.mean(expected.points), EXACT, "under autocast")


def test_pillars_and_the_full_fields_of_radars() -> None:
    torch.manual_seed(0)
    batch, layer = driving_batch(), PillarFeatures((1.0, 0.5), 8)
    grid = VoxelGrid(GRID, (-5.0, 3.0), 1)
    gradients, outputs = [], []
    for device in (torch.device("cpu"), CUDA):
        layer.to(device).zero_grad()
        out = layer(voxelize(batch.lidar.to(device), grid))
        outputs.append(out.dense_bev().detach().cpu())
        out.features.square().sum().backward()
        # The layer itself moves: what .cpu() gives back of gradients on the CPU are those gradients.
        gradients.append(
            {name: value.grad.cpu().clone() for name, value in layer.named_parameters() if value.grad is not None}
        )
    close(outputs[1], outputs[0], LAYERS)
    for name, value in gradients[0].items():
        close_in_length(gradients[1][name], value, GRADIENTS, name)
    points = torch.randint(0, 8, (50, 20)).float()
    assert torch.equal(with_states_apart(points.to(CUDA)).cpu(), with_states_apart(points))


def image_features(seed: int = 0) -> ImageFeatures:
    batch = driving_batch()
    torch.manual_seed(seed)
    sample, camera = torch.nonzero(batch.camera_available, as_tuple=True)
    poses = batch.ego_from_cam[sample, camera]
    return ImageFeatures(
        torch.randn(len(sample), 6, 4, 8), batch.intrinsics[sample, camera], poses, sample, 2, (32, 64), 8
    )


def on_cuda(images: ImageFeatures) -> ImageFeatures:
    tensors = {name: value.to(CUDA) for name, value in tensors_in(images).items()}
    return replace(images, **tensors)


@pytest.mark.parametrize("view", ["lift_splat", "sampling"])
@pytest.mark.parametrize("autocast", [False, True])
def test_view_transforms_with_new_and_kept_geometry(view: str, autocast: bool) -> None:
    torch.manual_seed(0)
    layer: LiftSplat | Sampling
    if view == "lift_splat":
        layer = LiftSplat(LiftSplatConfig(depth_bins=12), GRID, 6, 5)
    else:
        layer = Sampling(SamplingConfig(heights=3), GRID, 6, 5)
    found: list[dict[str, Tensor]] = []
    for _ in range(2):
        for device, images in ((torch.device("cpu"), image_features()), (CUDA, on_cuda(image_features()))):
            layer.to(device).zero_grad()
            features = images.features.requires_grad_()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                bev = layer(replace(images, features=features))
            (bev * torch.linspace(-1, 1, bev.numel()).view(bev.shape).to(device)).sum().backward()
            assert features.grad is not None
            held = {"bev": bev.detach().cpu(), "features": features.grad.cpu()}
            held |= {name: value.grad.cpu() for name, value in layer.named_parameters() if value.grad is not None}
            found.append(held)
    for name in found[0]:
        for index in (1, 3):
            # Of bfloat16: two layers' roundings.
            close(found[index][name], found[0][name], 0.03 if autocast else LAYERS, name)
    if view == "sampling" and isinstance(layer, Sampling) and not autocast:
        images = on_cuda(image_features())
        shaped = [value.unflatten(0, (2, 6)) for value in (images.features, images.intrinsics, images.ego_from_cam)]
        dense = layer.dense(*shaped, torch.ones(2, 6, dtype=torch.bool, device=CUDA), 8)
        close(dense, found[3]["bev"], LAYERS, "the dense form")


def test_sparse_products_in_and_out_of_order() -> None:
    """Empty rows, a column twice in a row, no entry at all; the deterministic way beside cuSPARSE."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 0, 8, 1, 0])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    columns = torch.randint(0, 4, (12,), generator=generator).int()
    values, dense = torch.randn(12, generator=generator), torch.randn(4, 3, generator=generator)
    left = torch.randn(5, 3, generator=generator)
    moved = [tensor.to(CUDA) for tensor in (starts, columns, values, dense, left)]
    none = [torch.zeros_like(moved[0]), moved[1][:0], moved[2][:0]]
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            close(sparse_product(*moved[:4]), sparse_product(starts, columns, values, dense), EXACT * 10)
            close(sampled_product(*moved[:2], moved[4], moved[3]), sampled_product(starts, columns, left, dense), 1e-5)
            assert (sparse_product(*none, moved[3]) == 0).all()
            assert len(sampled_product(*none[:2], moved[4], moved[3])) == 0
        finally:
            torch.use_deterministic_algorithms(False)


def test_lidar_depths_and_seen_cells() -> None:
    batch = driving_batch()
    sample, camera = torch.nonzero(batch.camera_available, as_tuple=True)
    geometry = (batch.intrinsics[sample, camera], batch.ego_from_cam[sample, camera], sample)
    expected = nearest_depths(batch.lidar, FeaturePixels(*geometry, (4, 8), 8))
    found = nearest_depths(batch.lidar.to(CUDA), FeaturePixels(*(part.to(CUDA) for part in geometry), (4, 8), 8))
    assert expected.isfinite().any()
    assert torch.equal(found.isfinite().cpu(), expected.isfinite())
    close(found, expected, EXACT)
    assert torch.equal(seen_cells(batch.to(CUDA), GRID).cpu(), seen_cells(batch, GRID))


def test_targets_of_boxes_and_of_none() -> None:
    boxes = [random_boxes(30, torch.Generator().manual_seed(5), 45.0), Boxes3D.empty()]
    expected = center_targets(boxes, GRID, 2, 1, torch.device("cpu"))
    for given in (boxes, [each.to(CUDA) for each in boxes]):
        found = tensors_in(center_targets(given, GRID, 2, 1, CUDA))
        assert len(found["cells.row"]) > 30
        for name, value in tensors_in(expected).items():
            close(found[name], value, 1e-5, name)
    nothing = center_targets(boxes[1:], GRID, 2, 1, CUDA)
    assert len(nothing.cells) == 0
    assert (nothing.heatmap == 0).all()


def test_overlaps_suppression_and_fusion_of_boxes() -> None:
    generator = torch.Generator().manual_seed(6)
    boxes = random_boxes(300, generator, 12.0)
    boxes = replace(boxes, scores=torch.rand(300, generator=generator).sort(descending=True).values)
    others = boxes[torch.randperm(300, generator=generator)]
    there, others_there = boxes.to(CUDA), others.to(CUDA)
    close(bev_iou(there, others_there), bev_iou(boxes, others), 1e-9)
    expected = iou_3d_of_all(boxes[torch.arange(40)], others)
    assert (expected > 0.1).sum() > 40
    close(iou_3d_of_all(there[torch.arange(40, device=CUDA)], others_there), expected, 1e-9)
    assert iou_3d_of_all(there, Boxes3D.empty().to(CUDA)).shape == (300, 0)
    kept = circle_nms(boxes.centers[:, :2], boxes.labels)
    assert 50 < kept.sum() < 290
    assert torch.equal(circle_nms(there.centers[:, :2], there.labels).cpu(), kept)
    fused, expected_fused = (
        weighted_box_fusion([there, others_there], NMS_RADIUS),
        weighted_box_fusion([boxes, others], NMS_RADIUS),
    )
    for name, value in tensors_in(expected_fused).items():
        close(getattr(fused, name), value, 1e-5, name)
    scores = (torch.rand(1000, generator=generator) * 50).round() / 50  # many are equal
    for one, other in zip(highest(scores.to(CUDA), 100, 0.3), highest(scores, 100, 0.3), strict=True):
        assert torch.equal(one.cpu(), other)


def test_a_memory_is_warped_and_fused() -> None:
    generator = torch.Generator().manual_seed(7)
    bev = torch.randn(2, 8, 40, 40, generator=generator)
    poses = from_yaw(0.3, (3.3, 0.7, 0.0)).expand(2, 4, 4).contiguous()
    for found, expected in zip(warped(bev.to(CUDA), poses.to(CUDA), GRID), warped(bev, poses, GRID), strict=True):
        close(found, expected, 1e-5)
    now = FrameBevs(bev, torch.tensor([True, True]), ("a", "a"), torch.tensor([10, 10]) * 500_000, poses)
    before = torch.eye(4, dtype=torch.float64).expand(2, 4, 4).contiguous()
    earlier = replace(now, bev=bev.flip(0), timestamps_us=now.timestamps_us - 500_000, global_from_ego=before)
    torch.manual_seed(0)
    fusion = TemporalFusion(TemporalConfig(neck=BevNeckConfig((8,), (1,))), GRID, 8)
    expected_bev = fusion(now, [earlier])
    assert not torch.equal(expected_bev, bev)

    def moved(frame: FrameBevs) -> FrameBevs:
        return replace(frame, **{name: value.to(CUDA) for name, value in tensors_in(frame).items()})

    close(fusion.to(CUDA)(moved(now), [moved(earlier)]), expected_bev, LAYERS)


def test_orthogonalised_matrices() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (2, 64, 24)):
        matrices = torch.randn(shape)
        close(orthogonalized(matrices.to(CUDA)), orthogonalized(matrices), 1e-4)
