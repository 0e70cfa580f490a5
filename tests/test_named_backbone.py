"""Backbones by name or folder: where their features lie in the picture, their sizes, and what weights they take."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoBackbone,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    Dinov2Config,
    DINOv3ConvNextConfig,
    FocalNetConfig,
    PvtV2Config,
    ResNetConfig,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
)

from calibration.cameras import project
from calibration.transforms import invert, transform_points
from datasets.faults import InputRefused
from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraBranch, CameraConfig
from perception.detector import Detector
from perception.fusion.early import sample_features
from perception.grid import BevGrid
from perception.image_pyramid import Normalization
from perception.named_backbone import PUBLISHED, NamedBackbone, NamedBackboneConfig
from perception.tasks.depth import DepthTaskConfig, depth_targets
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import Sampling, SamplingConfig
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.run_config import config_from_json, config_to_json

WIDTHS, ONE_EACH = [8, 16, 24, 32], [1, 1, 1, 1]
# Of each kind of network that Bevel knows, one so small that it is built in no time.
KINDS: dict[str, Any] = {
    "resnet": ResNetConfig(layer_type="basic", embedding_size=8, hidden_sizes=WIDTHS, depths=ONE_EACH),
    "convnext": ConvNextConfig(hidden_sizes=WIDTHS, depths=ONE_EACH),
    "convnextv2": ConvNextV2Config(hidden_sizes=WIDTHS, depths=ONE_EACH),
    "dinov3_convnext": DINOv3ConvNextConfig(hidden_sizes=WIDTHS, depths=ONE_EACH),
    "swin": SwinConfig(embed_dim=8, depths=ONE_EACH, num_heads=[1, 1, 2, 2]),
    "swinv2": Swinv2Config(embed_dim=8, depths=ONE_EACH, num_heads=[1, 1, 2, 2]),
    "pvt_v2": PvtV2Config(hidden_sizes=WIDTHS, depths=ONE_EACH, num_attention_heads=[1, 1, 2, 2]),
    "dinov2": Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def folder_of(kind: str, path: Path) -> str:
    KINDS[kind].save_pretrained(path)
    return str(path)


def strides_of(kind: str) -> list[int]:
    return [14] if kind == "dinov2" else [8, 16, 32]


def without_attention(network: nn.Module) -> None:
    """Attention looks at the whole window or picture: what is left lies where the feature lies."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("o_proj", "attention.output.dense", "attention.proj")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


@every_kind
def test_a_feature_lies_where_its_level_says(kind: str, tmp_path: Path) -> None:
    """The pixels that have any influence on a feature: their middle is the feature's pixel, for each stride."""
    config = NamedBackboneConfig(folder_of(kind, tmp_path), stride=strides_of(kind)[0], channels=8)
    torch.manual_seed(0)
    backbone = NamedBackbone(config).eval()
    without_attention(backbone.network)
    side = 14 * 24 if kind == "dinov2" else 512
    pixels = torch.randn(1, 3, side, side, requires_grad=True)
    assert [level.stride for level in backbone.levels] == strides_of(kind)
    for level, features in zip(backbone.levels, backbone.network(pixels).feature_maps, strict=True):
        row, column = features.shape[2] // 2, features.shape[3] // 2 + 1
        value = (features[0, :, row, column] * torch.randn(level.channels)).sum()
        (influence,) = torch.autograd.grad(value, pixels, retain_graph=True)
        for dimensions, index in (((0, 2), row), ((0, 1), column)):
            touched = torch.nonzero(influence[0].abs().amax(dim=dimensions))[:, 0]
            first, last = int(touched.min()), int(touched.max())
            assert 0 < first <= last < side - 1  # the picture's edge did not cut it off
            assert (first + last) / 2 == index * level.stride + level.offset, (level, first, last)


@every_kind
def test_pictures_of_any_size(kind: str, tmp_path: Path) -> None:
    """As many features as it takes to cover the picture; and what stands at their places does not depend on its end."""
    name = folder_of(kind, tmp_path)
    for stride in strides_of(kind)[:2]:
        backbone = NamedBackbone(NamedBackboneConfig(name, stride=stride, channels=8)).eval()
        images = torch.randint(0, 256, (2, 3, 70, 101), dtype=torch.uint8)
        features = backbone(images)
        assert features.shape == (2, 8, math.ceil(70 / stride), math.ceil(101 / stride))
        assert features.isfinite().all()


def test_padding_is_of_the_mean_colour() -> None:
    """A picture in the mean colour to the right and below is what a smaller one is padded to."""
    torch.manual_seed(0)
    mean = tuple(value / 255 for value in (120.0, 117.0, 104.0))
    config = NamedBackboneConfig("convnextv2-atto", stride=16, channels=8, normalization=Normalization(mean))
    backbone = NamedBackbone(config).eval()
    images = torch.randint(0, 256, (1, 3, 60, 90), dtype=torch.uint8)
    whole = torch.tensor([120, 117, 104], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 64, 96).clone()
    whole[:, :, :60, :90] = images
    torch.testing.assert_close(backbone(images), backbone(whole), atol=1e-4, rtol=1e-4)


def test_published_networks_have_their_size() -> None:
    """Millions of parameters of the published classifiers, less those of their heads (the papers' tables)."""
    published = {
        "resnet-18": 11.69 - 0.51, "resnet-34": 21.80 - 0.51, "resnet-50": 25.56 - 2.05, "resnet-101": 44.55 - 2.05,
        "convnext-tiny": 28.59 - 0.77, "convnext-small": 50.22 - 0.77, "convnextv2-atto": 3.71 - 0.32,
        "convnextv2-pico": 9.07 - 0.51, "convnextv2-nano": 15.62 - 0.64, "convnextv2-tiny": 28.64 - 0.77,
        "swin-tiny": 28.29 - 0.77, "swin-small": 49.61 - 0.77,
    }  # fmt: skip
    assert published.keys() == PUBLISHED.keys()
    for name, millions in published.items():
        with torch.device("meta"):
            network = AutoBackbone.from_config(PUBLISHED[name].architecture(transformers))
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == pytest.approx(millions * 1e6, rel=0.003), name


@pytest.mark.parametrize("name", ["resnet-50", "convnext-tiny", "swin-tiny"])
def test_published_networks_are_built(name: str) -> None:
    with torch.device("meta"):
        backbone = NamedBackbone(NamedBackboneConfig(name, stride=8, channels=4))
        assert backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).shape == (1, 4, 8, 12)


def test_a_point_is_painted_and_lifted_where_it_is() -> None:
    """With patches of 16 pixels the middle of a feature is pixel 16 j + 7.5, in painting, depth targets and lifting."""
    torch.manual_seed(0)
    grid = BevGrid((-25.6, 25.6), (-25.6, 25.6), 0.2)
    view = LiftSplatConfig(depth_range=(1.0, 25.0), depth_bins=240)
    config = CameraConfig(NamedBackboneConfig("convnextv2-atto", 16, 8), view, 4, BevNeckConfig((4,), (1,)))
    branch = CameraBranch(config, grid, 4).eval()
    assert branch.backbone.offset == 7.5
    batch = random_batch(1, torch.Generator().manual_seed(0), image_size=(96, 160))
    images = branch.image_features(batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available)
    assert images.pixel_offset == 7.5
    v, u, depth = 2, 6, 12.04  # just inside a bin
    pixel = torch.tensor([u * 16 + 7.5, v * 16 + 7.5])
    ray = torch.linalg.solve(images.intrinsics[0], torch.tensor([*pixel, 1.0]))
    point_ego = transform_points(images.ego_from_cam[0], ray[None] * depth)
    back, _ = project(images.intrinsics[0], transform_points(invert(images.ego_from_cam[0]), point_ego))
    torch.testing.assert_close(back[0], pixel, atol=1e-3, rtol=0.0)
    # The feature itself, not a mixture with its neighbours.
    painted = sample_features(images.features[0], back, images.stride, images.pixel_offset)
    torch.testing.assert_close(painted[0], images.features[0, :, v, u], atol=1e-3, rtol=1e-3)
    # Its depth is the target of that feature, also of points half a patch away on either side.
    for shift in (-7.4, 0.0, 7.4):
        ray = torch.linalg.solve(images.intrinsics[0], torch.tensor([*(pixel + shift), 1.0]))
        cloud = torch.cat([transform_points(images.ego_from_cam[0], ray[None] * depth), torch.zeros(1, 2)], dim=1)
        targets = depth_targets(PointBatch.of([cloud]), images.pixels, view, 0.0)
        assert targets[0, v, u] == int((depth - 1.0) / 0.1), shift
    # And at that depth the feature falls into the cell of the point.
    cells = branch.view.cells(images)
    column, row = torch.floor(grid.cells(point_ego[:, :2]))[0].long().tolist()
    assert int(cells[0, v, u, int((depth - 1.0) / 0.1)]) == row * grid.shape[1] + column
    # And a cell's point, sampled, looks for its features where it is.
    sampling = Sampling(SamplingConfig(), grid, 8, 4)
    places, seen = sampling._seen(images.intrinsics, images.ego_from_cam, images.size, 16, images.pixel_offset)
    points_cam = transform_points(invert(images.ego_from_cam[0].double()), sampling.points_ego.double().view(-1, 3))
    pixels, _ = project(images.intrinsics[0].double(), points_cam)
    assert seen[0].sum() > 100
    torch.testing.assert_close(places[0, seen[0]] * 16 + 7.5, pixels[seen[0]], atol=1e-3, rtol=0.0)


def test_a_detector_with_a_named_backbone_trains() -> None:
    config = small_detector()
    assert config.camera is not None
    backbone = NamedBackboneConfig("convnextv2-atto", stride=16, channels=8)
    torch.manual_seed(0)
    network = Detector(replace(config, camera=replace(config.camera, backbone=backbone), depth=DepthTaskConfig(0.5)))
    batch = random_batch(1, torch.Generator().manual_seed(0), image_size=(40, 72))
    losses = network.losses(network(batch), batch)
    losses.total.backward()
    for name, parameter in network.camera.named_parameters():  # type: ignore[union-attr]
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_a_classifiers_weights_are_taken_whole_or_refused(kind: str, tmp_path: Path) -> None:
    """Weights as the hub has them: written by a classifier of transformers, in the names that its files have."""
    classes = {"swin": SwinForImageClassification, "convnext": ConvNextForImageClassification}
    torch.manual_seed(1)
    classifier = classes[kind](KINDS[kind]).eval()
    classifier.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    config = NamedBackboneConfig(str(tmp_path), stride=8, channels=8, weights=path)
    torch.manual_seed(2)
    backbone = NamedBackbone(config).eval()
    pixels = torch.randn(1, 3, 224, 224)
    # The last stage as the classifier has it, before the norm that only backbones have (it begins as the identity).
    expected = classifier(pixels, output_hidden_states=True)
    hidden = expected.hidden_states[-1]
    if kind == "swin":
        hidden = classifier.swin(pixels, output_hidden_states=True).reshaped_hidden_states[-1]
    normed = nn.functional.layer_norm(hidden.permute(0, 2, 3, 1), hidden.shape[1:2]).permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone.network(pixels).feature_maps[-1], normed, atol=1e-3, rtol=1e-3)

    state = load_file(path)
    first = next(name for name in state if "stages.1" in name or "layers.1" in name)
    for spoilt, message in (
        ({name: value for name, value in state.items() if name != first}, "lacks"),
        ({**state, "no_such_layer": torch.zeros(1)}, "has the unknown no_such_layer"),
        ({**state, first: torch.zeros(1)}, "in another shape"),
    ):
        save_file(spoilt, path)
        with pytest.raises(InputRefused, match=rf"model\.safetensors: the file .*{message}"):
            NamedBackbone(config)
    save_file(state, path)
    with pytest.raises(InputRefused, match="resnet"):
        NamedBackbone(replace(config, name="resnet-18"))


def test_a_torch_file_may_hold_tensors_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = NamedBackbone(NamedBackboneConfig("convnextv2-atto", 32, 8))
    path = tmp_path / "weights.pth"
    config = NamedBackboneConfig("convnextv2-atto", 32, 8, weights=path)
    torch.save(trained.network.state_dict(), path)
    for name, value in NamedBackbone(config).network.state_dict().items():
        assert torch.equal(value, trained.network.state_dict()[name]), name
    torch.save({"code": print}, path)
    with pytest.raises(InputRefused, match="cannot be read"):
        NamedBackbone(config)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputRefused, match="dictionary of tensors"):
        NamedBackbone(config)


def test_without_a_network_the_hubs_weights_are_refused_with_the_way_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    address = "https://huggingface.co/microsoft/swin-tiny-patch4-window7-224"
    with pytest.raises(InputRefused, match=f"download model.safetensors from {address}"):
        NamedBackbone(NamedBackboneConfig("swin-tiny", weights="hub"))


def test_the_folder_says_the_mean_and_the_config_may_say_another(tmp_path: Path) -> None:
    name = folder_of("convnext", tmp_path)
    config = NamedBackboneConfig(name, 16, 8)
    assert NamedBackbone(config).mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert NamedBackbone(config).std.flatten().tolist() == [63.75, 127.5, 127.5]
    other = replace(config, normalization=Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))
    assert NamedBackbone(other).mean.flatten().tolist() == pytest.approx([25.5, 51.0, 76.5])
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1]}')
    with pytest.raises(InputRefused, match="expected image_mean"):
        NamedBackbone(config)


def test_names_folders_and_strides_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"no-such-net is neither a backbone .*resnet-18"):
        NamedBackbone(NamedBackboneConfig("no-such-net"))
    with pytest.raises(InputRefused, match=r"its config\.json describes no network"):
        NamedBackbone(NamedBackboneConfig(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(InputRefused, match=r"its config\.json describes no network"):
        NamedBackbone(NamedBackboneConfig(str(tmp_path)))
    FocalNetConfig().save_pretrained(tmp_path)
    with pytest.raises(InputRefused, match="where the features of a focalnet lie"):
        NamedBackbone(NamedBackboneConfig(str(tmp_path)))
    with pytest.raises(ValueError, match="stages of stride 4, 8, 16, 32, and none of 12"):
        NamedBackbone(NamedBackboneConfig("resnet-18", stride=12))
    with pytest.raises(ValueError, match="for my-folder name their file"):
        NamedBackboneConfig("my-folder", weights="hub")


@pytest.mark.parametrize("weights", [None, "hub", Path("some/model.safetensors")])
def test_the_config_returns_from_its_file(weights: Any) -> None:
    config = small_config(1)
    backbone = NamedBackboneConfig("swin-tiny", 16, 8, weights, Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert config.detector.camera is not None
    camera = replace(config.detector.camera, backbone=backbone)
    config = replace(config, detector=replace(config.detector, camera=camera))
    assert config_from_json(config_to_json(config), "a file") == config
    given = json.loads(config_to_json(config))
    given["detector"]["camera"]["backbone"] = {"name": "resnet-18"}
    read = config_from_json(json.dumps(given), "a file")
    assert read.detector.camera is not None
    assert read.detector.camera.backbone == NamedBackboneConfig("resnet-18")


def test_frozen_norms_keep_their_statistics() -> None:
    backbone = NamedBackbone(NamedBackboneConfig("resnet-18", 32, 8, frozen_norms=True)).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    backbone(torch.full((2, 3, 64, 96), 200, dtype=torch.uint8))
    assert norms
    assert all(torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms)
