"""The dense part of a detector as one function of tensors of fixed shapes: what can be exported.

Pictures go in as they are, LiDAR and radar as the BEVs of their branches (sparse convolutions have no operator outside
of spconv); the head's raw outputs come out, and whoever runs the graph decodes them (peaks, codes) as the head does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from datasets.samples.sample import EGO_MOTION_FIELDS
from perception.detector import Detector
from perception.fusion.early import EarlyFusionConfig
from perception.fusion.late import LateFusionConfig
from perception.heads.center_head import CenterHead
from perception.view_transform.sampling import Sampling


@dataclass(frozen=True)
class DenseInputs:
    """One sample (B is 1), as a Sample has it; `lidar_bev`, `radar_bev`, `radar_velocities`: what these branches give
    (the last of no columns where the config has no windows), of any content where the sensor is not available.
    """

    images: UInt8[Tensor, "B N 3 H W"]
    intrinsics: Float32[Tensor, "B N 3 3"]
    ego_from_cam: Float32[Tensor, "B N 4 4"]
    camera_available: Bool[Tensor, "B N"]
    lidar_bev: Float[Tensor, "B C Y X"]
    lidar_available: Bool[Tensor, "B"]
    radar_bev: Float[Tensor, "B C Y X"]
    radar_velocities: Float[Tensor, "B W Y X"]
    radar_available: Bool[Tensor, "B"]
    ego_motion: Float32[Tensor, "B T 11"]
    ego_motion_valid: Bool[Tensor, "B T"]


class DensePart(nn.Module):
    """Camera branch (by `Sampling.dense`), pose encoder, fusion and heads.

    Raises ValueError, with what to do instead, for a detector that has no such part.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        _check(detector)
        self.detector = detector
        self.output_names: tuple[str, ...] = (
            ("heatmap_logits", "box_numbers")
            if isinstance(detector.head, CenterHead)
            else ("heatmap_logits", "rows", "columns", "heights", "class_logits", "numbers")
        )
        if detector.segmentation is not None:
            self.output_names += ("segmentation_logits",)
        self.eval()  # itself too: the exporter puts the mode of the whole back afterwards

    def forward(
        self,
        images: Tensor,
        intrinsics: Tensor,
        ego_from_cam: Tensor,
        camera_available: Tensor,
        lidar_bev: Tensor,
        lidar_available: Tensor,
        radar_bev: Tensor,
        radar_velocities: Tensor,
        radar_available: Tensor,
        ego_motion: Tensor,
        ego_motion_valid: Tensor,
    ) -> tuple[Tensor, ...]:
        """The outputs in the order of `output_names`, from the fields of DenseInputs."""
        camera = self.detector.camera
        if camera is None or not isinstance(camera.view, Sampling):
            raise TypeError("the detector was changed")
        features = camera.backbone(images.flatten(0, 1)).unflatten(0, (images.shape[0], images.shape[1]))
        view = camera.view.dense(
            features, intrinsics, ego_from_cam, camera_available, camera.backbone.stride, camera.backbone.offset
        )
        bev = camera.neck(view)
        return self.fused(
            torch.stack([bev, lidar_bev, radar_bev], dim=1),
            radar_velocities,
            (camera_available, lidar_available, radar_available),
            ego_motion,
            ego_motion_valid,
        )

    def fused(
        self,
        bevs: Float[Tensor, "B 3 C Y X"],
        velocities: Float[Tensor, "B W Y X"],
        sensors: tuple[Tensor, Tensor, Tensor],
        ego_motion: Float32[Tensor, "B T 11"],
        ego_motion_valid: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, ...]:
        """From the sensors' BEVs on. sensors: which cameras (B, N), LiDAR (B) and radar (B) are there."""
        detector = self.detector
        pose = torch.zeros_like(bevs[:, 0, :, 0, 0])
        if detector.pose is not None:
            pose = detector.pose(ego_motion, ego_motion_valid)
        there = torch.stack([sensors[0].any(dim=1), sensors[1], sensors[2], ego_motion_valid.any(dim=1)], dim=1)
        built = torch.tensor([b is not None for b in (detector.camera, detector.lidar, detector.radar, detector.pose)])
        fused, _ = detector.fusion(bevs, pose, there & built)
        around = None
        if velocities.shape[1]:
            around = torch.where(sensors[2][:, None, None, None], velocities, 0.0)
        outputs = detector.head(fused, around)
        found: tuple[Tensor, ...]
        if isinstance(detector.head, CenterHead):
            # The head reads boxes at its peaks; where those are the graph does not know: it reads one at every cell.
            if around is not None:
                scale = detector.head.config.upsample
                around = around.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3).permute(0, 2, 3, 1)
            numbers = detector.head.regress(outputs.features.permute(0, 2, 3, 1), around)
            found = (outputs.heatmap_logits, numbers.permute(0, 3, 4, 1, 2))
        else:
            layer = (outputs.class_logits[-1], outputs.numbers[-1])
            found = (outputs.heatmap_logits, outputs.rows, outputs.columns, outputs.heights, *layer)
        return found if detector.segmentation is None else (*found, detector.segmentation(fused))


def example_inputs(
    detector: Detector, cameras: int, size: tuple[int, int], states: int, generator: torch.Generator
) -> DenseInputs:
    """Random inputs of these shapes (B 1, N cameras, size (H, W), T ego states), cameras looking all round."""
    height, width = size
    shape = (1, detector.config.channels, *detector.config.grid.shape)
    columns = 0 if detector.config.radar is None else detector.config.radar.velocity_columns
    yaw = torch.arange(cameras) * (2 * torch.pi / max(1, cameras))
    poses = torch.zeros(1, cameras, 4, 4)
    poses[..., 0, 0], poses[..., 1, 0], poses[..., 2, 1] = yaw.sin(), -yaw.cos(), -1.0
    poses[..., 0, 2], poses[..., 1, 2], poses[..., 2, 3], poses[..., 3, 3] = yaw.cos(), yaw.sin(), 1.6, 1.0
    focal = 0.8 * width
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return DenseInputs(
        images=torch.randint(0, 256, (1, cameras, 3, height, width), generator=generator, dtype=torch.uint8),
        intrinsics=intrinsics.expand(1, cameras, 3, 3).clone(),
        ego_from_cam=poses,
        camera_available=torch.ones(1, cameras, dtype=torch.bool),
        lidar_bev=torch.rand(shape, generator=generator),
        lidar_available=torch.ones(1, dtype=torch.bool),
        radar_bev=torch.rand(shape, generator=generator),
        radar_velocities=torch.rand(1, columns, *detector.config.grid.shape, generator=generator) * 10,
        radar_available=torch.ones(1, dtype=torch.bool),
        ego_motion=torch.randn(1, states, len(EGO_MOTION_FIELDS), generator=generator),
        ego_motion_valid=torch.ones(1, states, dtype=torch.bool),
    )


@torch.no_grad()
def reference_outputs(part: DensePart, inputs: DenseInputs) -> tuple[Tensor, ...]:
    """The same by the camera branch as the detector runs it, with its sparse product."""
    camera = part.detector.camera
    if camera is None:
        raise TypeError("the detector was changed")
    bev = camera(inputs.images, inputs.intrinsics, inputs.ego_from_cam, inputs.camera_available)
    sensors = (inputs.camera_available, inputs.lidar_available, inputs.radar_available)
    bevs = torch.stack([bev, inputs.lidar_bev, inputs.radar_bev], dim=1)
    return part.fused(bevs, inputs.radar_velocities, sensors, inputs.ego_motion, inputs.ego_motion_valid)


def _check(detector: Detector) -> None:
    config = detector.config
    if isinstance(config.fusion, EarlyFusionConfig):
        raise ValueError(
            "early fusion paints image features on points before their sparse encoders, which cannot be exported: "
            "train with another fusion"
        )
    if isinstance(config.fusion, LateFusionConfig):
        raise ValueError(
            "late fusion chooses the samples of each sensor's head and merges boxes one by one, which cannot be "
            "exported: train with another fusion"
        )
    if config.temporal is not None:
        raise ValueError(
            "fusion over time keeps a memory beside the graph, which is not exported: train with --frames 1"
        )
    if detector.camera is None:
        raise ValueError("there is no camera branch, and sparse encoders cannot be exported: train one with cameras")
    if not isinstance(detector.camera.view, Sampling):
        raise ValueError(
            f"the view transform {detector.camera.view.__class__.__name__} is a sparse product, for which ONNX has no "
            "operator: train with camera.view.kind sampling"
        )
