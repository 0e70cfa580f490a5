"""Perspective supervision: what pictures alone should say of the objects, and the camera branch that learns it."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.utils.geometry_utils import view_points

from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.samples.batch import Batch
from perception.camera_pretraining import CameraPretraining
from perception.detector import Detector
from perception.image_features import FeaturePixels
from perception.tasks.perspective import PerspectiveConfig, perspective_targets
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import SamplingConfig
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.pretrain import PretrainArguments, pretrain, pretraining_config
from tools.probe import ProbeArguments, probe
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training.run_folder import load_detector

BINS = LiftSplatConfig(depth_range=(1.0, 41.0), depth_bins=20)


def boxes_around(count: int, seed: int) -> Boxes3D:
    """Boxes in all directions, between 6 and 50 metres away."""
    generator = torch.Generator().manual_seed(seed)
    angle, distance = torch.rand(count, generator=generator) * 2 * math.pi, torch.rand(count, generator=generator)
    distance = 6.0 + 44.0 * distance
    return Boxes3D(
        centers=torch.stack([distance * angle.cos(), distance * angle.sin(), torch.full_like(angle, 0.8)], dim=1),
        sizes_wlh=0.5 + 3.0 * torch.rand(count, 3, generator=generator),
        yaws=torch.rand(count, generator=generator) * 6.0,
        velocities=torch.zeros(count, 2),
        labels=torch.randint(10, (count,), generator=generator),
        scores=torch.ones(count),
        attributes=torch.full((count,), -1),
    )


def pixels_of(batch: Batch, stride: int, offset: float = 0.0) -> FeaturePixels:
    """Of all cameras of the first sample."""
    height, width = batch.images.shape[-2:]
    cameras = batch.images.shape[1]
    return FeaturePixels(
        batch.intrinsics[0],
        batch.ego_from_cam[0],
        torch.zeros(cameras, dtype=torch.int64),
        (height // stride, width // stride),
        stride,
        offset,
    )


@pytest.mark.parametrize("offset", [0.0, 3.5])
def test_targets_equal_a_loop_over_boxes_that_the_devkit_projects(offset: float) -> None:
    batch, boxes = random_batch(1, torch.Generator().manual_seed(2), image_size=(64, 96)), boxes_around(80, 5)
    pixels = pixels_of(batch, 8, offset)
    found = perspective_targets([boxes], pixels, BINS)
    heatmap, depth = torch.zeros_like(found.heatmap), torch.full(found.depth_bins.shape, math.inf)
    for k, m in itertools.product(range(len(batch.intrinsics[0])), range(len(boxes))):
        cam_from_ego = torch.linalg.inv(batch.ego_from_cam[0, k].double())
        points = torch.cat([boxes.corners()[m], boxes.centers[m, None]]).double()
        points = points @ cam_from_ego[:3, :3].T + cam_from_ego[:3, 3]
        z = float(points[8, 2])
        if points[:8, 2].min() <= 0.3 or not 1.0 <= z < 41.0:
            continue
        seen = (
            view_points(points.T.numpy(), batch.intrinsics[0, k].double().numpy(), normalize=True)[:2].T - offset
        ) / 8
        low, high, middle = seen[:8].min(0), seen[:8].max(0), np.round(seen[8])
        spread = np.maximum((high - low) / 6, 0.5)
        for v, u in itertools.product(range(pixels.size[0]), range(pixels.size[1])):
            if round(low[0]) <= u <= round(high[0]) and round(low[1]) <= v <= round(high[1]):
                depth[k, v, u] = min(float(depth[k, v, u]), z)
            if 0 <= middle[0] < pixels.size[1] and 0 <= middle[1] < pixels.size[0]:
                value = math.exp(-0.5 * (((u - middle[0]) / spread[0]) ** 2 + ((v - middle[1]) / spread[1]) ** 2))
                label = int(boxes.labels[m])
                heatmap[k, label, v, u] = max(float(heatmap[k, label, v, u]), value)
    assert torch.allclose(found.heatmap, heatmap, atol=1e-4)
    assert torch.equal(found.depth_bins, torch.where(depth.isfinite(), ((depth - 1.0) / 2.0).floor(), -1.0).long())
    assert (found.depth_bins >= 0).sum() > 50
    assert found.counts()["perspective_peaks"] == (heatmap == 1).sum()
    assert found.counts()["perspective_peaks"] > 10


def test_boxes_that_are_not_finite_or_out_of_range_are_left_out() -> None:
    batch, boxes = random_batch(1, torch.Generator().manual_seed(2), image_size=(64, 96)), boxes_around(40, 6)
    pixels = pixels_of(batch, 8)
    expected = perspective_targets([boxes], pixels, BINS)
    broken = boxes_around(4, 7)
    broken.centers[0, 0], broken.sizes_wlh[1, 1], broken.yaws[2] = math.nan, math.inf, math.nan
    broken.centers[3] *= 100.0
    found = perspective_targets([Boxes3D.concatenated([broken, boxes])], pixels, BINS)
    assert torch.equal(found.heatmap, expected.heatmap)
    assert torch.equal(found.depth_bins, expected.depth_bins)
    nothing = perspective_targets([Boxes3D.empty()], pixels, BINS)
    assert not nothing.heatmap.any()
    assert (nothing.depth_bins == -1).all()


def test_the_camera_branch_learns_a_batch_by_heart_and_nothing_else_of_it_moves() -> None:
    torch.manual_seed(0)
    network = CameraPretraining(small_detector()).train()
    batch = random_batch(2, torch.Generator().manual_seed(1), image_size=(32, 64), reach=40.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        losses = network.losses(network(batch), batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values.append({name: float(part) for name, part in losses.parts.items()})
    assert values[-1]["heatmap"] < 0.5 * values[0]["heatmap"]
    assert values[-1]["bins"] < 0.8 * values[0]["bins"]
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("camera.backbone.") for name in moved)
    assert not any(name.startswith("camera.neck.") for name in moved)
    assert network.losses(network(batch.without("camera")), batch.without("camera")).total == 0.0


def test_no_annotations_and_another_view_transform_are_refused() -> None:
    config, batch = small_detector(), random_batch(1, torch.Generator().manual_seed(1))
    network = Detector(replace(config, perspective=PerspectiveConfig()))
    with pytest.raises(ValueError, match="annotations"):
        network.losses(network(batch), replace(batch, boxes=None))
    sampled = replace(config, camera=replace(config.camera, view=SamplingConfig()))
    with pytest.raises(ValueError, match="lift_splat"):
        replace(sampled, perspective=PerspectiveConfig())
    with pytest.raises(ValueError, match="heatmap_weight"):
        PerspectiveConfig(heatmap_weight=-1.0)


@pytest.fixture
def pretrained(nuscenes_root: Path, tmp_path: Path) -> tuple[RunConfig, Path]:
    """A config, and the run of its camera branch."""
    config = small_config(2)
    write_config(tmp_path / "given.json", config)
    run = pretrain(
        PretrainArguments(
            str(tmp_path / "given.json"), nuscenes_root, loss="perspective", output=tmp_path / "run", device="cpu"
        )
    )
    return config, run


def test_a_detector_starts_from_the_pretrained_camera_branch(
    pretrained: tuple[RunConfig, Path], nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = pretrained
    with pytest.raises(InputRefused, match=r"holds pretrained branches and no detector"):
        load_detector(run)
    with pytest.raises(InputRefused, match="needs two of camera, lidar and radar"):
        probe(ProbeArguments((run,), nuscenes_root, device="cpu"))
    given, whole = tmp_path / "whole.json", tmp_path / "whole"
    write_config(given, replace(config, training=replace(config.training, steps=1)))
    capsys.readouterr()
    train(TrainArguments(str(given), nuscenes_root, output=whole, init=(run,), device="cpu"))
    assert "camera" in capsys.readouterr().out
    _, detector = load_detector(whole)
    assert detector.lidar is not None


def test_only_what_the_camera_branch_needs_is_read(tmp_path: Path) -> None:
    config = pretraining_config(PretrainArguments("tiny", ".", loss="perspective"))
    assert config.training.objective == "perspective"
    assert config.sample.lidar_channel is None
    assert config.sample.radar_channels == ()
    assert config.detector.perspective is not None
    blind = replace(small_config(1), detector=replace(small_detector(), camera=None))
    write_config(tmp_path / "blind.json", blind)
    with pytest.raises(InputRefused, match=r"blind\.json: perspective is learnt by the camera branch"):
        pretraining_config(PretrainArguments(str(tmp_path / "blind.json"), ".", loss="perspective"))
