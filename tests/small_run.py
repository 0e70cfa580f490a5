"""A run so small that a training step takes a fraction of a second."""

from datasets.samples.make_sample import SampleConfig
from perception.backbone import BackboneConfig
from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraConfig
from perception.detector import DetectorConfig
from perception.fusion.transformer import FusionTransformerConfig
from perception.grid import BevGrid
from perception.heads.center_head import CenterHeadConfig
from perception.lidar_branch import LidarConfig, PillarEncoderConfig
from perception.pose_encoder import PoseConfig
from perception.radar_branch import RadarConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from tools.run_config import RunConfig
from tools.training.config import TrainingConfig


def small_detector() -> DetectorConfig:
    # Eight channels at least: the backward pass of torch 2.13 writes past its memory in a channels-last 1x1 convolution
    # of stride 2 with four (oneDNN), and the process aborts.
    return DetectorConfig(
        grid=BevGrid((-51.2, 51.2), (-51.2, 51.2), 6.4),
        channels=8,
        camera=CameraConfig(
            BackboneConfig("basic", embedding=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), stride=16, channels=8),
            LiftSplatConfig(depth_bins=8),
            width=4,
            neck=BevNeckConfig((8,), (1,)),
        ),
        lidar=LidarConfig(PillarEncoderConfig((8, 8), (1, 1)), BevNeckConfig((8,), (1,))),
        radar=RadarConfig(width=8, blocks=1, neck=BevNeckConfig((8,), (1,)), velocity_windows=(1, 3)),
        pose=PoseConfig(8),
        fusion=FusionTransformerConfig(layers=1, width=16, heads=2, window=4),
        head=CenterHeadConfig(channels=8, hidden=16, upsample=4),
    )


def small_config(
    steps: int,
    *,
    learning_rate: float = 5e-3,
    checkpoint_interval: int = 100,
    modality_dropout: float = 0.0,
    workers: int = 0,
    seed: int = 0,
) -> RunConfig:
    return RunConfig(
        sample=SampleConfig(image_height=32, image_width=64, lidar_sweeps=2, radar_sweeps=2),
        detector=small_detector(),
        training=TrainingConfig(
            batch_size=2,
            learning_rate=learning_rate,
            reference_batch_size=2,
            steps=steps,
            ema_decay=0.9,
            modality_dropout=modality_dropout,
            seed=seed,
            workers=workers,
            checkpoint_interval=checkpoint_interval,
            max_nonfinite_steps=3,
        ),
    )
