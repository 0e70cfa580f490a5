"""Dense parts of the network as compiled kernels."""

import os
import shutil

from torch import nn

from datasets.faults import InputRefused
from perception.camera_pretraining import CameraPretraining
from perception.detector import Detector
from perception.fusion.late import SensorHeads
from perception.heads.trunk import HeatmapTrunk
from tools.training.network import Network


def compile_dense_parts(network: Network, *, backend: str = "inductor") -> None:
    """Let torch.compile make kernels of the image backbone, the necks, the fusion and the head's trunk, at their first
    step and for each shape once. Sparse convolutions, voxels, the view transform and losses stay as they are.

    The modules stay where they are: weights keep their names, copies (the moving average) are not compiled.
    Raises InputRefused where there is no C++ compiler for kernels of the CPU.
    """
    if next(network.parameters()).device.type == "cpu" and not _has_compiler():
        raise InputRefused(
            "training.compile needs a C++ compiler on the CPU, and there is none: install g++ (or name one in CXX), or "
            "set training.compile to false."
        )
    for module in _dense_parts(network):
        module.compile(dynamic=False, backend=backend)


def _dense_parts(network: Network) -> list[nn.Module]:
    parts: list[nn.Module] = []
    if network.camera is not None:
        parts += [network.camera.backbone, network.camera.neck]
    if not isinstance(network, CameraPretraining):
        parts += [branch.neck for branch in (network.lidar, network.radar) if branch is not None]
    if isinstance(network, Detector):
        heads = network.head.heads if isinstance(network.head, SensorHeads) else [network.head]
        parts.append(network.fusion)
        parts += [trunk for head in heads for trunk in head.children() if isinstance(trunk, HeatmapTrunk)]
    return parts


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
