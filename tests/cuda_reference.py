"""What small networks compute on the CPU, for CUDA to be compared with (tests/test_cuda.py).

Where sparse convolutions have no CPU backend (a CUDA machine with spconv-triton), its results come from elsewhere:

    python -m tests.cuda_reference DIR                             on a machine with spconv, about half a minute
    BEVEL_CPU_REFERENCE=DIR python -m pytest tests/test_cuda.py    on the CUDA machine

A file for each case: `weights/`, `batch/` and `results/`, so that neither random numbers nor initialisation need be the
same there.
"""

import argparse
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from calibration.transforms import from_yaw
from datasets.boxes import Boxes3D
from datasets.samples.batch import Batch
from datasets.samples.sample import MAP_CLASSES
from perception.bev_neck import BevNeckConfig
from perception.cross_modal.alignment import CrossModalConfig, CrossModalKind
from perception.detector import Detector, DetectorConfig
from perception.fusion.build import FusionKind, fusion_config
from perception.heads.center_head import CenterHeadConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.lidar_branch import LidarConfig, PillarEncoderConfig, VoxelEncoderConfig
from perception.modality_dropout import mask_modalities
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.segmentation import SegmentationConfig
from perception.temporal import TemporalConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import SamplingConfig
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.training.config import Precision
from tools.training.optimizer import make_optimizer
from tools.training.processes import Processes
from tools.training.step import LossOfBatch, seed_step, training_step

OptimizerName = Literal["adamw", "muon"]
_OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
_STEPS = 3


@dataclass(frozen=True)
class Case:
    """A detector and the batch that it sees."""

    config: DetectorConfig
    batch: Batch


def driving_batch(seed: int = 1, count: int = 2) -> Batch:
    """A random batch whose cameras look along no axis: what lies on a cell's edge may fall to either side of it."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(count, generator, image_size=(32, 64), lidar_points=400, radar_points=60, reach=40.0)
    turn = from_yaw(0.137, (0.31, -0.17, 0.05)).float()
    return replace(
        batch,
        ego_from_cam=turn @ batch.ego_from_cam,
        timestamps_us=torch.full((count,), 1_533_000_000_500_000),
        scene_names=("scene",) * count,
    )


def cases() -> dict[str, Case]:
    """All of them, by name."""
    batch, plain = driving_batch(), small_detector()
    plain = replace(plain, head=CenterHeadConfig(channels=8, hidden=16, upsample=2, quality=QualityConfig()))
    found: dict[str, Case] = {}
    kinds: tuple[FusionKind, ...] = get_args(FusionKind)
    query = QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16, quality=QualityConfig())
    for kind in kinds:
        config = plain if kind == "transformer" else replace(plain, fusion=fusion_config(kind))
        found[f"{kind}-center"] = Case(config, batch)
        found[f"{kind}-query"] = Case(replace(config, head=query), batch)
    found |= {name: Case(_with_lidar(plain, encoder), batch) for name, encoder in _ENCODERS.items()}
    if plain.camera is None:
        raise TypeError("the small detector has a camera")
    camera = replace(plain.camera, view=SamplingConfig(heights=3))
    found["sampling"] = Case(replace(plain, camera=camera), batch)
    camera = replace(plain.camera, view=LiftSplatConfig(depth_bins=8, lidar_depth=True))
    tasks = replace(plain, camera=camera, depth=DepthTaskConfig(max_age=0.5), segmentation=SegmentationConfig(8, 1))
    found["tasks"] = Case(tasks, _with_map(batch))
    losses: tuple[CrossModalKind, ...] = get_args(CrossModalKind)
    found |= {name: Case(replace(plain, cross_modal=CrossModalConfig(kind=name, width=8)), batch) for name in losses}
    temporal = replace(plain, temporal=TemporalConfig(neck=BevNeckConfig((8,), (1,))))
    found["temporal"] = Case(temporal, _with_earlier(batch))
    found |= {f"missing-{name}": Case(plain, poor) for name, poor in _poor_batches(batch).items()}
    late = replace(plain, fusion=fusion_config("late"))
    found["missing-sensors-late"] = Case(late, _poor_batches(batch)["sensors"])
    return found


_ENCODERS: Mapping[str, PillarEncoderConfig | VoxelEncoderConfig] = {
    "hourglass": PillarEncoderConfig((8, 8), (1, 1), block="hourglass"),
    "voxels-mean": VoxelEncoderConfig((8, 8), voxel_height=0.5),
    "voxels-learned": VoxelEncoderConfig((8, 8), features="learned", voxel_height=0.5),
    # Wider than the kernels' narrow tiles.
    "wide": PillarEncoderConfig((24, 40), (1, 1)),
}


def _with_lidar(config: DetectorConfig, encoder: PillarEncoderConfig | VoxelEncoderConfig) -> DetectorConfig:
    return replace(config, lidar=LidarConfig(encoder, BevNeckConfig((8,), (1,))))


def _with_map(batch: Batch) -> Batch:
    generator = torch.Generator().manual_seed(3)
    count = len(batch.tokens)
    masks = torch.rand(count, len(MAP_CLASSES), 16, 16, generator=generator) < 0.3
    return replace(batch, map_masks=masks, map_known=torch.rand(count, 16, 16, generator=generator) < 0.8)


def _with_earlier(batch: Batch) -> Batch:
    """The frame before, half a second and some metres ago."""
    count = len(batch.tokens)
    earlier = replace(driving_batch(seed=2), timestamps_us=batch.timestamps_us - 500_000)
    poses = from_yaw(0.071, (3.17, 0.43, 0.0)).expand(count, 4, 4)
    return replace(batch, global_from_ego=poses.contiguous(), previous=(earlier,))


def _poor_batches(batch: Batch) -> dict[str, Batch]:
    if batch.boxes is None:
        raise TypeError("the batch has boxes")
    kept = torch.tensor([[False, True, True, False], [True, False, True, True]])
    masked = mask_modalities(batch, kept)
    none = replace(batch, lidar=batch.lidar.without_points())  # a LiDAR that is there and saw nothing
    return {
        "sensors": masked,
        "lidar-points": none,
        "camera": batch.without("camera"),
        "everything": batch.without("camera", "lidar", "radar", "pose"),
        "boxes": replace(batch, boxes=(Boxes3D.empty(), batch.boxes[1])),
        "all-boxes": replace(batch, boxes=(Boxes3D.empty(), Boxes3D.empty())),
    }


def results(detector: Detector, batch: Batch) -> dict[str, Tensor]:
    """What a detector computes for a batch in training, its gradients, and the boxes that it finds afterwards."""
    detector.train().zero_grad()
    predictions = detector(batch)
    losses = detector.losses(predictions, batch, torch.Generator().manual_seed(4))
    losses.total.backward()
    found = {"bev": predictions.bev.detach(), "loss": losses.total.detach()}
    found |= {f"loss/{name}": part for name, part in losses.parts.items()}
    found |= {f"head/{name}": value.detach() for name, value in tensors_in(predictions.head).items()}
    if predictions.segmentation_logits is not None:
        found["segmentation"] = predictions.segmentation_logits.detach()
    for name, parameter in detector.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = parameter.grad.clone()
    with torch.no_grad():
        for index, boxes in enumerate(detector.decode(predictions)):
            found |= {f"boxes/{index}/{name}": value for name, value in tensors_in(boxes).items()}
    return {name: value.cpu() for name, value in found.items()}


def trained(detector: Detector, batch: Batch, optimizer: OptimizerName, precision: Precision) -> dict[str, Tensor]:
    """The losses and the gradients' norms of three steps of training on a batch, and the weights afterwards."""
    device = next(detector.parameters()).device
    settings = replace(small_config(_STEPS).training, optimizer=optimizer, precision=precision, learning_rate=2e-3)
    chosen = make_optimizer(detector, settings)
    model = LossOfBatch(detector.train(), precision)
    scaler = GradScaler(device.type, init_scale=1024.0) if precision == "fp16" else None
    losses, norms = [], []
    for step in range(_STEPS):
        result = training_step(
            model,
            chosen,
            [batch],
            settings,
            learning_rate=settings.learning_rate,
            generator=seed_step(0, step, 0),
            processes=Processes(1, 0, device),
            scaler=scaler,
        )
        if not result.finite:
            raise FloatingPointError(f"step {step} in {precision}")
        losses.append(result.loss)
        norms.append(result.gradient_norm)
    found = {"losses": torch.tensor(losses), "norms": torch.tensor(norms)}
    return found | {f"weights/{name}": value.detach().cpu() for name, value in detector.named_parameters()}


def network(config: DetectorConfig, weights: Mapping[str, Tensor] | None = None) -> Detector:
    """A detector with these weights; without any, with the random ones of the references."""
    torch.manual_seed(0)
    detector = Detector(config)
    for name, parameter in detector.named_parameters():
        if name.endswith("offsets.bias"):
            # At first attention looks at the middles of cells, where bilinear sampling has a corner.
            parameter.data += 0.1 + 0.4 * torch.rand(parameter.shape)
    if weights is not None:
        detector.load_state_dict(weights)
    return detector


def tensors_in(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors in dataclasses, tuples and dictionaries, by their path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, tuple):
        parts = dict(enumerate(value))
    elif is_dataclass(value):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
    else:
        return {}
    start = f"{prefix}." if prefix else ""
    return {name: tensor for key, part in parts.items() for name, tensor in tensors_in(part, f"{start}{key}").items()}


def with_tensors(value: Any, tensors: Mapping[str, Tensor], prefix: str = "") -> Any:
    """The same structure with other tensors: the inverse of `tensors_in`."""
    start = f"{prefix}." if prefix else ""
    if isinstance(value, Tensor):
        return tensors[prefix]
    if isinstance(value, tuple):
        return tuple(with_tensors(part, tensors, f"{start}{index}") for index, part in enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        names = [part.name for part in fields(value)]
        return replace(value, **{name: with_tensors(getattr(value, name), tensors, f"{start}{name}") for name in names})
    return value


@dataclass(frozen=True)
class Reference:
    """A case with weights and what the CPU computes: `results`, or for `training`, `trained` with each optimiser."""

    config: DetectorConfig
    batch: Batch
    weights: dict[str, Tensor]
    results: dict[str, Tensor]

    def network(self) -> Detector:
        """The detector, on the CPU."""
        return network(self.config, self.weights)


TRAINING = "training"
NAMES = (*cases(), TRAINING)


@cache
def reference(name: str) -> Reference:
    """What the CPU computes: out of BEVEL_CPU_REFERENCE, or here. Skips the test where neither can be."""
    case = cases()["transformer-center" if name == TRAINING else name]
    folder = os.environ.get("BEVEL_CPU_REFERENCE")
    if folder is not None:
        return _read(Path(folder) / f"{name}.safetensors", case)
    if importlib.util.find_spec("spconv") is None:
        pytest.skip("sparse convolutions have no CPU backend here: set BEVEL_CPU_REFERENCE (tests/cuda_reference.py)")
    return _computed(name, case)


def _computed(name: str, case: Case) -> Reference:
    weights = {key: value.clone() for key, value in network(case.config).state_dict().items()}
    if name == TRAINING:
        found = {
            f"{optimizer}/{key}": value
            for optimizer in _OPTIMIZERS
            for key, value in trained(network(case.config, weights), case.batch, optimizer, "fp32").items()
        }
    else:
        found = results(network(case.config, weights), case.batch)
    return Reference(case.config, case.batch, weights, found)


def _read(path: Path, case: Case) -> Reference:
    tensors = load_file(path)

    def under(folder: str) -> dict[str, Tensor]:
        return {key.removeprefix(folder): value for key, value in tensors.items() if key.startswith(folder)}

    batch: Batch = with_tensors(case.batch, under("batch/"))
    return Reference(case.config, batch, under("weights/"), under("results/"))


def write_references(folder: Path, names: Sequence[str] = NAMES) -> None:
    """A file for each of these cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        made = _computed(name, cases()["transformer-center" if name == TRAINING else name])
        parts = {"batch": tensors_in(made.batch), "weights": made.weights, "results": made.results}
        tensors = {f"{part}/{key}": v.contiguous().clone() for part, held in parts.items() for key, v in held.items()}
        save_file(tensors, folder / f"{name}.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write what the CPU computes, for tests/test_cuda.py elsewhere.")
    parser.add_argument("folder", type=Path)
    torch.set_num_threads(1)
    write_references(parser.parse_args().folder)
