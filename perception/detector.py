"""The detector: sensor branches, the fusion, the detection head, and what else is learnt beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from datasets.samples.batch import Batch, Modality, PointBatch
from perception.absent_data import without_absent_data
from perception.camera_branch import CameraBranch, CameraConfig
from perception.cross_modal.alignment import CrossModalAlignment, CrossModalConfig
from perception.cross_modal.places import seen_cells
from perception.fusion.attention import AttentionFusionConfig
from perception.fusion.build import FusionConfig, build_fusion
from perception.fusion.early import EarlyFusionConfig, PointPainting
from perception.fusion.late import LateFusionConfig, SensorHeads, SensorOutputs
from perception.fusion.transformer import FusionTransformerConfig
from perception.grid import BevGrid
from perception.heads.build import HeadConfig, HeadOutputs, build_head
from perception.heads.detection_head import DetectionHead
from perception.image_features import ImageFeatures
from perception.lidar_branch import LidarBranch, LidarConfig
from perception.losses import Counts, Losses
from perception.pose_encoder import PoseConfig, PoseEncoder
from perception.radar_branch import RadarBranch, RadarConfig
from perception.tasks.depth import DepthTaskConfig, depth_losses, depth_targets_of
from perception.tasks.perspective import PerspectiveConfig, PerspectiveHead, check_perspective
from perception.tasks.segmentation import SegmentationConfig, SegmentationHead
from perception.tasks.task_weights import Task, TaskWeights, TaskWeightsConfig
from perception.temporal import FrameBevs, TemporalConfig, TemporalFusion, along_stream


@dataclass(frozen=True)
class DetectorConfig:
    """`grid`: the BEV on which sensors meet, with `channels` channels. A branch that is None is not built.

    `temporal`: the memory of earlier frames; None: every frame is looked at by itself.
    The tasks beside detection: `segmentation` of the map, `depth` of the pictures' pixels, `perspective`: what the
    pictures alone say of the objects, `cross_modal` alignment of the sensors' BEVs; a task that is None is not learnt.
    """

    grid: BevGrid
    channels: int
    camera: CameraConfig | None
    lidar: LidarConfig | None
    radar: RadarConfig | None
    pose: PoseConfig | None
    fusion: FusionConfig
    head: HeadConfig
    temporal: TemporalConfig | None = None
    segmentation: SegmentationConfig | None = None
    depth: DepthTaskConfig | None = None
    perspective: PerspectiveConfig | None = None
    cross_modal: CrossModalConfig | None = None
    task_weights: TaskWeightsConfig = field(default_factory=TaskWeightsConfig)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, not {self.channels}")
        if self.depth is not None and (self.camera is None or self.lidar is None):
            raise ValueError("depth is learnt by the camera branch from LiDAR points: it needs both branches")
        if self.depth is not None and self.camera is not None:
            self.camera.check_has_depths("depth")
        if self.perspective is not None:
            check_perspective(self.camera)
        if self.camera is not None and self.camera.uses_lidar and self.lidar is None:
            raise ValueError(
                "the camera's lidar_depth needs LiDAR points, and samples have them with a lidar branch only"
            )
        if self.cross_modal is not None and len(self.sensors) < 2:
            raise ValueError("cross_modal compares the BEVs of sensors: it needs two of camera, lidar and radar")
        if self.cross_modal is not None and self.cross_modal.teacher not in (None, *self.sensors):
            raise ValueError(f"cross_modal's teacher, {self.cross_modal.teacher}, is no branch of this detector")
        match self.fusion:
            case FusionTransformerConfig():
                self.fusion.check(self.grid, self.channels)
            case AttentionFusionConfig():
                self.fusion.check(self.channels)
            case LateFusionConfig():
                if not self.sensors:
                    raise ValueError("late fusion needs a camera, LiDAR or radar branch, and there is none")
                if self.temporal is not None:
                    raise ValueError("late fusion has no fused BEV to remember: temporal needs another fusion")

    @property
    def sensors(self) -> tuple[Modality, ...]:
        """The sensors that the detector has a branch for, in the order of MODALITIES."""
        branches: tuple[tuple[Modality, object], ...] = (
            ("camera", self.camera),
            ("lidar", self.lidar),
            ("radar", self.radar),
        )
        return tuple(name for name, branch in branches if branch is not None)

    @property
    def earlier_frames(self) -> int:
        """How many frames before a frame have a say in it."""
        return 0 if self.temporal is None else self.temporal.earlier_frames

    @property
    def patch(self) -> int:
        """The fusion works on patches of so many by so many cells, and may leave their pattern in the BEV."""
        return self.fusion.stride if isinstance(self.fusion, FusionTransformerConfig) else 1


@dataclass(frozen=True)
class Predictions:
    """What the network puts out, raw.

    `bev`: what the heads look at, the sensors of now fused and, with `temporal`, the frames before.
    `modality_weights`: how much each modality weighs at each cell; see FusionStrategy. With late fusion `head` is what
    each sensor's head put out, and `bev` a mean that none of them sees. `modality_bevs`: of camera, LiDAR and radar
    before the fusion; zeros for one that no sample has. `availability`: which modalities a sample has and the detector
    was built with, in the order of MODALITIES. `segmentation_logits` of MAP_CLASSES, and `images`, the features that
    depth and perspective are learnt from, are None unless such a task is asked for.
    """

    bev: Float[Tensor, "B C Y X"]
    head: HeadOutputs | SensorOutputs
    modality_weights: Float[Tensor, "B M Y X"] | None
    modality_bevs: Float[Tensor, "B 3 C Y X"]
    availability: Bool[Tensor, "B 4"]
    segmentation_logits: Float[Tensor, "B L Y X"] | None
    images: ImageFeatures | None


@dataclass(frozen=True)
class _Frame:
    """One frame by itself, up to the fusion of its sensors; `motion`: the pose's embedding; `radar`: its returns."""

    bev: Float[Tensor, "B C Y X"]
    modality_weights: Float[Tensor, "B M Y X"] | None
    modality_bevs: Float[Tensor, "B 3 C Y X"]
    motion: Float[Tensor, "B C"]
    radar: PointBatch
    availability: Bool[Tensor, "B 4"]
    images: ImageFeatures | None

    def remembered(self, batch: Batch) -> FrameBevs:
        """What fusion over time needs of this frame of the batch."""
        sensed = self.availability[:, :3].any(dim=1)
        return FrameBevs(self.bev, sensed, batch.scene_names, batch.timestamps_us, batch.global_from_ego)


class Detector(nn.Module):
    """Any subset of camera, LiDAR, radar and pose to 3D boxes in the ego frame.

    What stands in the data of a camera, or of a whole modality, that the batch marks as unavailable has no influence on
    any output. (Radar points do not say which radar they are from: of a single radar that is unavailable the batch must
    hold none, as `make_sample` sees to it.) A sample's output does not depend on the other samples of its batch, but
    for the rounding of matrix products.

    With `temporal` the frames before each have a say: `forward` takes them out of the batch (`Batch.previous`), `step`
    out of what it remembers of a stream. Both come to the same.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        grid, channels = config.grid, config.channels
        self.camera = None if config.camera is None else CameraBranch(config.camera, grid, channels)
        self.painting: PointPainting | None = None
        if isinstance(config.fusion, EarlyFusionConfig) and config.camera is not None:
            self.painting = PointPainting(config.fusion, config.camera.backbone.channels)
        painted = 0 if self.painting is None else self.painting.columns
        self.lidar = None if config.lidar is None else LidarBranch(config.lidar, grid, channels, painted)
        self.radar = None if config.radar is None else RadarBranch(config.radar, grid, channels, painted)
        self.pose = None if config.pose is None else PoseEncoder(config.pose, channels)
        self.fusion = build_fusion(config.fusion, grid, channels)
        self.temporal = None if config.temporal is None else TemporalFusion(config.temporal, grid, channels)
        self.head: DetectionHead[Any] | SensorHeads
        velocities = 0 if config.radar is None else config.radar.velocity_columns
        if isinstance(config.fusion, LateFusionConfig):
            self.head = SensorHeads(config.fusion, config.head, grid, channels, config.sensors, velocities)
        else:
            self.head = build_head(config.head, grid, channels, velocities)
        tasks: list[Task] = ["detection"]
        self.segmentation: SegmentationHead | None = None
        if config.segmentation is not None:
            self.segmentation = SegmentationHead(config.segmentation, channels)
            tasks.append("segmentation")
        if config.depth is not None:
            tasks.append("depth")
        self.perspective: PerspectiveHead | None = None
        if config.perspective is not None and self.camera is not None:
            self.perspective = PerspectiveHead(config.perspective, self.camera.backbone.channels)
            tasks.append("perspective")
        self.cross_modal: CrossModalAlignment | None = None
        if config.cross_modal is not None:
            self.cross_modal = CrossModalAlignment(config.cross_modal, grid, channels)
            tasks.append("cross_modal")
        self.task_weights = TaskWeights(config.task_weights, tasks)

    def forward(self, batch: Batch) -> Predictions:
        """Run the network. A modality that no sample has, or that the detector was built without, is not computed.

        Of earlier frames only what they leave in the memory is computed, as in evaluation and without gradient
        (BEVFormer, Li et al. 2022).
        """
        frame = self._frame(batch)
        if self.temporal is None:
            return self._predictions(frame, frame.bev)
        earlier = self._remembered(batch.previous[: self.config.earlier_frames])
        return self._predictions(frame, self.temporal(frame.remembered(batch), earlier))

    def step(self, batch: Batch, memory: FrameBevs | None) -> tuple[Predictions, FrameBevs | None]:
        """Run the network on the next frames of a stream, in recorded order (on the road: one); `Batch.previous` plays
        no part.

        memory: what the step before returned, None at the start. Scenes may follow one another: what belongs to another
        scene, or lies before a gap, does not count. Returns the memory for the next step, None without `temporal`.
        """
        frame = self._frame(batch)
        if self.temporal is None:
            return self._predictions(frame, frame.bev), None
        now, count = frame.remembered(batch), self.config.earlier_frames
        history = now.detached() if memory is None else memory.followed_by(now.detached())
        bev = self.temporal(now, along_stream(history, len(now), count))
        return self._predictions(frame, bev), history.rows(range(max(len(history) - count, 0), len(history)))

    @torch.no_grad()
    def _remembered(self, batches: Sequence[Batch]) -> list[FrameBevs]:
        with self._evaluating():
            return [self._frame(batch).remembered(batch) for batch in batches]

    def _frame(self, batch: Batch) -> _Frame:
        batch = without_absent_data(batch)
        availability = self._usable(batch)
        camera, lidar, radar, pose = availability.any(dim=0).tolist()
        bevs: list[Tensor | None] = [None, None, None]
        images = None
        if self.camera is not None and camera:
            images = self.camera.image_features(
                batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available, batch.lidar
            )
            bevs[0] = self.camera.bev(images)
        clouds = [batch.lidar, batch.radar]
        if self.painting is not None:
            clouds = self.painting(clouds, images)
        if self.lidar is not None and lidar:
            bevs[1] = self.lidar(clouds[0])
        if self.radar is not None and radar:
            bevs[2] = self.radar(clouds[1])
        if self.pose is not None and pose:
            motion = self.pose(batch.ego_motion, batch.ego_motion_valid)
        else:
            motion = torch.zeros(len(availability), self.config.channels, device=availability.device)
        stacked = self._stack(bevs, availability)
        bev, weights = self.fusion(stacked, motion, availability)
        return _Frame(bev, weights, stacked, motion, batch.radar, availability, images)

    def _predictions(self, frame: _Frame, bev: Float[Tensor, "B C Y X"]) -> Predictions:
        return Predictions(
            bev=bev,
            head=self._head_outputs(bev, frame),
            modality_weights=frame.modality_weights,
            modality_bevs=frame.modality_bevs,
            availability=frame.availability,
            segmentation_logits=None if self.segmentation is None else self.segmentation(bev),
            images=frame.images if self.config.depth or self.config.perspective else None,
        )

    def loss_counts(self, batch: Batch) -> Counts:
        """What the losses of a batch with annotations are divided by, the same names for every batch; see Counts.

        Dice and cross-modal losses are not in it: they are no sums over samples.
        """
        if batch.boxes is None:
            raise ValueError("the losses need a batch with annotations")
        if isinstance(self.head, SensorHeads):
            counts = dict(self.head.counts(batch.boxes, self._usable(batch)))
        else:
            counts = dict(self.head.counts(batch.boxes))
        if self.segmentation is not None and batch.map_known is not None:
            counts["map_cells"] = batch.map_known.sum().float()
        if self.camera is not None and self.config.depth is not None:
            counts["depth_pixels"] = (depth_targets_of(self.config.depth, self.camera, batch) >= 0).sum().float()
        if self.camera is not None and self.perspective is not None:
            counts |= self.perspective.targets(self.camera, batch).counts()
        return counts

    def losses(
        self,
        predictions: Predictions,
        batch: Batch,
        generator: torch.Generator | None = None,
        counts: Counts | None = None,
    ) -> Losses:
        """The weighted losses of all tasks, given the batch that the predictions are of and its annotations.

        generator: a CPU generator for the cells that cross-modal losses look at (None: torch's own). counts: what the
        losses are divided by, instead of the batch's own `loss_counts` (at least 1). Raises ValueError for a batch
        without boxes, or without the map where that is to be learnt.
        """
        if batch.boxes is None:
            raise ValueError("the losses need a batch with annotations")
        losses: dict[Task, Losses] = {"detection": self._detection_losses(predictions, batch.boxes, counts)}
        if self.segmentation is not None and predictions.segmentation_logits is not None:
            if batch.map_masks is None or batch.map_known is None:
                raise ValueError("map segmentation needs a batch with the map (FusionDataset's `maps`)")
            losses["segmentation"] = self.segmentation.losses(
                predictions.segmentation_logits,
                batch.map_masks,
                batch.map_known,
                None if counts is None else counts["map_cells"],
            )
        if self.camera is not None and self.config.depth is not None:
            losses["depth"] = depth_losses(self.config.depth, self.camera, predictions.images, batch, counts)
        if self.camera is not None and self.perspective is not None:
            losses["perspective"] = self.perspective.losses(self.camera, predictions.images, batch, counts)
        if self.cross_modal is not None:
            seen = seen_cells(batch, self.config.grid) & predictions.availability[:, :3, None, None]
            losses["cross_modal"] = self.cross_modal(predictions.modality_bevs, seen, generator)
        weighted: Losses = self.task_weights(losses)
        return weighted

    def _head_outputs(self, bev: Float[Tensor, "B C Y X"], frame: _Frame) -> HeadOutputs | SensorOutputs:
        # Of a sample without any radar they are zeros, as where no return is.
        velocities = None if self.radar is None else self.radar.velocities(frame.radar)
        if isinstance(self.head, SensorHeads):
            of_sensors: SensorOutputs = self.head(frame.modality_bevs, frame.motion, frame.availability, velocities)
            return of_sensors
        outputs: HeadOutputs = self.head(bev, velocities)
        return outputs

    def _detection_losses(self, predictions: Predictions, boxes: Sequence[Boxes3D], counts: Counts | None) -> Losses:
        match self.head, predictions.head:
            case SensorHeads() as heads, SensorOutputs() as outputs:
                return heads.losses(outputs, boxes, counts)
            case DetectionHead() as head, output:
                return head.losses(output, boxes, counts)
        raise TypeError("these predictions are of another detector")

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Boxes3D]:
        """The boxes of each sample in its ego frame, best first; in evaluation mode, whatever mode is set."""
        with self._evaluating():
            return self.decode(self(batch))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In evaluation mode, then in the mode of before."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[Boxes3D]:
        """The boxes in predictions; see `detect`."""
        match self.head, predictions.head:
            case SensorHeads() as heads, SensorOutputs() as outputs:
                return heads.decode(outputs)
            case DetectionHead() as head, output:
                return head.decode(output)
        raise TypeError("these predictions are of another detector")

    def _usable(self, batch: Batch) -> Bool[Tensor, "B 4"]:
        """The modalities that a sample has and the detector was built with."""
        built = [branch is not None for branch in (self.camera, self.lidar, self.radar, self.pose)]
        return batch.availability & torch.tensor(built, device=batch.lidar_available.device)

    def _stack(self, bevs: Sequence[Tensor | None], availability: Bool[Tensor, "B 4"]) -> Float[Tensor, "B 3 C Y X"]:
        """The modalities' BEVs in one tensor, channels last in memory; zeros stand in for those not computed."""
        zeros = torch.zeros(
            len(availability), *self.config.grid.shape, self.config.channels, device=availability.device
        )
        cells = [zeros if bev is None else bev.permute(0, 2, 3, 1).to(zeros.dtype) for bev in bevs]
        return torch.stack(cells, dim=1).permute(0, 1, 4, 2, 3)
