import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from calibration.cameras import project
from calibration.transforms import invert, transform_points
from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.make_sample import SampleConfig, make_sample
from perception.backbone import BackboneConfig, ImageBackbone
from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraBranch, CameraConfig
from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.splat import SplatPlan, splat

GRID = BevGrid((-12.8, 12.8), (-6.4, 6.4), 0.8)
BACKBONE = BackboneConfig("basic", 8, (8, 8, 12, 12), (1, 1, 1, 1), 16, 8)
BINS = LiftSplatConfig(depth_range=(1.0, 13.0), depth_bins=12)
CONFIG = CameraConfig(BACKBONE, BINS, 8, BevNeckConfig((8, 8), (1, 1)))


def _ego_from_cam(yaw: float) -> Tensor:
    """A camera at 1.5 m height that looks along `yaw`."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    ego_from_cam = torch.eye(4)
    ego_from_cam[:3, :3] = torch.tensor([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
    ego_from_cam[:3, 3] = torch.tensor([0.5 * cos, 0.5 * sin, 1.5])
    return ego_from_cam


def _views(batch_size: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch_size, 3, 3, 64, 96), generator=generator, dtype=torch.uint8)
    intrinsics = torch.tensor([[60.0, 0.0, 47.5], [0.0, 60.0, 31.5], [0.0, 0.0, 1.0]]).expand(batch_size, 3, 3, 3)
    ego_from_cam = torch.stack([_ego_from_cam(yaw) for yaw in (0.0, 2.1, -2.1)]).expand(batch_size, 3, 4, 4)
    return images, intrinsics.contiguous(), ego_from_cam.contiguous(), torch.ones(batch_size, 3, dtype=torch.bool)


def _images(size: tuple[int, int], intrinsics: Tensor, ego_from_cam: Tensor) -> ImageFeatures:
    """Cameras of one sample, with features of zeros at stride 16."""
    count = len(intrinsics)
    owner = torch.zeros(count, dtype=torch.int64)
    return ImageFeatures(torch.zeros(count, 4, *size), intrinsics, ego_from_cam, owner, 1, (0, 0), 16)


def _branch() -> CameraBranch:
    torch.manual_seed(0)
    return CameraBranch(CONFIG, GRID, 6)


def test_shape_and_a_gradient_for_every_parameter() -> None:
    branch = _branch().train()
    out = branch(*_views())
    assert out.shape == (2, 6, 16, 32)
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("training", [True, False])
def test_the_pixels_of_a_missing_camera_play_no_part(training: bool) -> None:
    branch = _branch().train(training)
    images, intrinsics, ego_from_cam, available = _views()
    available[0, 1] = False
    black, noise = images.clone(), images.clone()
    black[0, 1], noise[0, 1] = 0, torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    broken = ego_from_cam.clone()
    broken[0, 1] = math.nan
    expected = branch(black, intrinsics, ego_from_cam, available)
    assert torch.equal(branch(noise, intrinsics, ego_from_cam, available), expected)
    assert torch.equal(branch(black, intrinsics, broken, available), expected)
    assert torch.isfinite(expected).all()


def test_a_sample_without_cameras_gets_zeros_and_changes_no_other() -> None:
    branch = _branch().eval()
    images, intrinsics, ego_from_cam, available = _views()
    expected = branch(images[:1], intrinsics[:1], ego_from_cam[:1], available[:1])
    available[1] = False
    out = branch(images, intrinsics, ego_from_cam, available)
    assert not out[1].any()
    # Another batch size takes other kernels, which round otherwise.
    torch.testing.assert_close(out[:1], expected, atol=1e-5, rtol=1e-4)


def test_no_camera_at_all() -> None:
    images, intrinsics, ego_from_cam, available = _views()
    out = _branch().train()(images, intrinsics, ego_from_cam, available & False)
    assert out.shape == (2, 6, 16, 32)
    assert not out.any()


def test_a_broken_calibration_lights_nothing_and_raises_nothing() -> None:
    lift_splat = LiftSplat(BINS, GRID, 4, 3)
    cells = lift_splat.cells(_images((2, 3), torch.eye(3)[None], torch.full((1, 4, 4), math.nan)))
    assert (cells == -1).all()


def _splat_by_loops(depth: Tensor, context: Tensor, cells: Tensor, cell_count: int) -> Tensor:
    rows: list[Tensor] = [torch.zeros(context.shape[1], dtype=context.dtype) for _ in range(cell_count)]
    for pixel in range(depth.shape[0]):
        for depth_bin in range(depth.shape[1]):
            cell = int(cells[pixel, depth_bin])
            if cell >= 0:
                rows[cell] = rows[cell] + depth[pixel, depth_bin] * context[pixel]
    return torch.stack(rows)


def _splat(depth: Tensor, context: Tensor, cells: Tensor, cell_count: int) -> Tensor:
    return splat(depth, context, SplatPlan.of(cells.int(), cell_count))


def test_pooling_equals_loops_forward_and_backward() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(20, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    # Few cells, so that bins of one pixel meet; some outside; one cell that nothing reaches.
    cells = torch.randint(-1, 6, (20, 5), generator=generator)
    weights = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    results = []
    for pool in (_splat, _splat_by_loops):
        depth_in, context_in = depth.clone().requires_grad_(), context.clone().requires_grad_()
        out = pool(depth_in, context_in, cells, 8)
        (out * weights).sum().backward()
        results.append((out.detach(), depth_in.grad, context_in.grad))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-10)


def test_pooling_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    depth = torch.rand(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    context = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    cells = torch.randint(-1, 5, (6, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda d, c: _splat(d, c, cells, 5), (depth, context))


def test_pooling_where_nothing_falls_on_the_grid() -> None:
    depth, context = torch.rand(3, 2, requires_grad=True), torch.rand(3, 4, requires_grad=True)
    out = _splat(depth, context, torch.full((3, 2), -1), 5)
    out.sum().backward()
    assert out.shape == (5, 4)
    assert not out.any()
    assert depth.grad is not None
    assert not depth.grad.any()


def test_a_pixel_with_a_known_depth_lands_where_the_projection_says() -> None:
    config, stride = BINS, 16
    lift_splat = LiftSplat(config, GRID, 4, 3)
    _, intrinsics, ego_from_cam, _ = _views(1)
    cells = lift_splat.cells(_images((4, 6), intrinsics[0], ego_from_cam[0]))
    rows, columns = GRID.shape
    hits = 0
    for camera in range(3):
        cam_from_ego = invert(ego_from_cam[0, camera])
        for v, u, depth_bin in [(2, 3, 4), (1, 0, 7), (3, 5, 2), (2, 2, 11)]:
            cell = int(cells[camera, v, u, depth_bin])
            if cell < 0:
                continue
            hits += 1
            # The pixel's point, found the other way round: along the ray, the point of that depth projects onto it.
            depth = float(config.depths()[depth_bin])
            pixel = torch.tensor([float(u * stride), float(v * stride), 1.0])
            point_cam = torch.linalg.solve(intrinsics[0, camera], pixel) * depth
            point_ego = transform_points(ego_from_cam[0, camera], point_cam[None])
            back, found_depth = project(intrinsics[0, camera], transform_points(cam_from_ego, point_ego))
            torch.testing.assert_close(back[0], pixel[:2], atol=1e-3, rtol=1e-4)
            assert float(found_depth[0]) == pytest.approx(depth, abs=1e-4)
            x, y = point_ego[0, :2].tolist()
            assert divmod(cell, columns) == (math.floor((y + 6.4) / 0.8), math.floor((x + 12.8) / 0.8))
    assert hits >= 6
    assert int(cells.max()) < rows * columns


def _check_points_against_cells(
    points_ego: Tensor, intrinsics: Tensor, ego_from_cam: Tensor, image_size: tuple[int, int], grid: BevGrid
) -> int:
    """Project points with calibration.cameras; the cell of the pixel and depth bin they fall into must be theirs.

    Within what a feature pixel and a depth bin cover. Returns how many points were compared.
    """
    (height, width), stride, config = image_size, 16, LiftSplatConfig(depth_range=(1.0, 57.0), depth_bins=112)
    lift_splat = LiftSplat(config, grid, 4, 3)
    sizes = (height // stride, width // stride)
    cells = lift_splat.cells(_images(sizes, intrinsics, ego_from_cam))
    centers = grid.centers().view(-1, 2)
    compared = 0
    for camera in range(len(intrinsics)):
        points_cam = transform_points(invert(ego_from_cam[camera]), points_ego)
        pixels, depth = project(intrinsics[camera], points_cam)
        # The feature pixel whose middle is nearest; beyond the last one there is none.
        nearest = (pixels / stride).round().long()
        inside = (nearest >= 0).all(dim=1) & (nearest[:, 0] < sizes[1]) & (nearest[:, 1] < sizes[0])
        seen = inside & (depth >= 1.0) & (depth < 57.0)
        depth, expected = depth[seen], points_ego[seen, :2]
        u, v = nearest[seen].unbind(dim=1)
        cell = cells[camera, v, u, ((depth - 1.0) / 0.5).floor().long()]
        lit = cell >= 0
        found, expected, depth = centers[cell[lit]], expected[lit], depth[lit]
        # Half a feature pixel each way, half a depth bin along a ray that leans, half a cell's diagonal.
        focal = float(intrinsics[camera, 0, 0])
        allowed = 1.5 * (stride / 2 / focal) * depth + 0.5 * 0.5 * 2.0 + grid.cell_size * 0.71
        assert ((found - expected).norm(dim=1) <= allowed).all()
        compared += int(lit.sum())
    return compared


def test_points_land_in_the_cell_of_their_pixel_and_depth() -> None:
    generator = torch.Generator().manual_seed(0)
    points_ego = (torch.rand(4000, 3, generator=generator) - 0.5) * torch.tensor([24.0, 12.0, 4.0])
    _, intrinsics, ego_from_cam, _ = _views(1)
    assert _check_points_against_cells(points_ego, intrinsics[0], ego_from_cam[0], (64, 96), GRID) > 500


@pytest.mark.real_data
def test_real_points_land_in_the_cell_of_their_pixel_and_depth(real_data: Path) -> None:
    reader = NuScenesReader(real_data / "nuscenes-keyframe", lidar_sweeps=1, radar_sweeps=1)
    sample = make_sample(reader.frame(reader.frame_tokens("all")[0]), SampleConfig(128, 352, lidar_sweeps=1))
    assert sample.camera_available.all()
    grid = BevGrid((-51.2, 51.2), (-51.2, 51.2), 0.8)
    points_ego = sample.lidar_points[:, :3]
    assert _check_points_against_cells(points_ego, sample.intrinsics, sample.ego_from_cam, (128, 352), grid) > 5000


def test_the_front_camera_lights_cells_ahead_and_a_left_pixel_lights_the_left() -> None:
    lift_splat = LiftSplat(BINS, GRID, 4, 3)
    _, intrinsics, ego_from_cam, _ = _views(1)
    cells = lift_splat.cells(_images((4, 6), intrinsics[0, :1], ego_from_cam[0, :1]))[0]
    left, right = cells[2, 0][cells[2, 0] >= 0], cells[2, 5][cells[2, 5] >= 0]
    assert len(left)
    assert len(right)
    assert (left % 32 >= 16).all()
    assert (right % 32 >= 16).all()
    assert (left // 32 >= 8).all()
    assert (right // 32 < 8).all()


def test_samples_do_not_mix() -> None:
    torch.manual_seed(0)
    lift_splat = LiftSplat(BINS, GRID, 4, 3)
    _, intrinsics, ego_from_cam, _ = _views(1)
    views = _images((4, 6), intrinsics[0, :2], ego_from_cam[0, :2])
    views = replace(views, features=torch.randn(2, 4, 4, 6), sample_index=torch.tensor([0, 2]), batch_size=3)
    together = lift_splat(views)
    assert not together[1].any()
    for camera, sample in ((0, 0), (1, 2)):
        one = _images((4, 6), intrinsics[0, camera : camera + 1], ego_from_cam[0, camera : camera + 1])
        alone = lift_splat(replace(one, features=views.features[camera : camera + 1]))
        torch.testing.assert_close(together[sample], alone[0], atol=1e-6, rtol=1e-5)


def test_float32_pooling_under_autocast() -> None:
    branch = _branch().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = branch(*_views())
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(("stride", "size"), [(8, (8, 12)), (16, (4, 6))])
def test_the_backbone_comes_out_at_its_stride(stride: int, size: tuple[int, int]) -> None:
    backbone = ImageBackbone(BackboneConfig("basic", 8, (8, 8, 12, 12), (1, 1, 1, 1), stride, 8))  # type: ignore[arg-type]
    assert backbone(torch.zeros(2, 3, 64, 96, dtype=torch.uint8)).shape == (2, 8, *size)


def test_pretrained_weights_are_read_and_others_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = ImageBackbone(BACKBONE)
    path = tmp_path / "resnet.safetensors"
    state = {name: tensor.contiguous() for name, tensor in trained.resnet.state_dict().items()}
    save_file(state, path)
    arguments = {**vars(BACKBONE), "weights": path}
    loaded = ImageBackbone(BackboneConfig(**arguments))
    for name, tensor in loaded.resnet.state_dict().items():
        assert torch.equal(tensor, state[name]), name

    # A classifier that transformers itself wrote.
    resnet_config = ResNetConfig(**loaded.resnet.config.to_dict())
    classifier = ResNetForImageClassification(resnet_config)
    classifier.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(path)
    loaded = ImageBackbone(BackboneConfig(**arguments))
    for name, tensor in classifier.resnet.state_dict().items():
        assert torch.equal(loaded.resnet.state_dict()[name], tensor), name

    first = next(iter(state))
    for spoilt in (
        {name: tensor for name, tensor in state.items() if name != first},
        {**state, "no_such_layer": torch.zeros(1)},
        {**state, first: torch.zeros(1)},
    ):
        save_file(spoilt, path)
        with pytest.raises(InputRefused, match=r"resnet\.safetensors"):
            ImageBackbone(BackboneConfig(**arguments))
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(InputRefused, match="cannot be read"):
        ImageBackbone(BackboneConfig(**arguments))
    path.unlink()
    with pytest.raises(InputRefused, match="cannot be read"):
        ImageBackbone(BackboneConfig(**arguments))


def test_frozen_norms_keep_their_statistics() -> None:
    backbone = ImageBackbone(BackboneConfig(**{**vars(BACKBONE), "frozen_norms": True})).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    backbone(torch.full((2, 3, 64, 96), 200, dtype=torch.uint8))
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    assert before
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_second_run_is_bit_equal_forward_and_backward() -> None:
    results = []
    for _ in range(2):
        branch = _branch()
        out = branch(*_views())
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in branch.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
