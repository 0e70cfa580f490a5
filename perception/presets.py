"""Complete detector configurations. A preset is a function; nothing inherits from anything."""

from perception.backbone import BackboneConfig
from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraConfig
from perception.detector import DetectorConfig
from perception.fusion.transformer import FusionTransformerConfig
from perception.grid import BevGrid
from perception.heads.center_head import CenterHeadConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.lidar_branch import LidarConfig, PillarEncoderConfig, VoxelEncoderConfig
from perception.pose_encoder import PoseConfig
from perception.radar_branch import RadarConfig
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.perspective import PerspectiveConfig
from perception.view_transform.lift_splat import LiftSplatConfig


def tiny() -> DetectorConfig:
    """Learns on two CPU cores in minutes: +-51.2 m, BEV cells of 0.8 m, pillars and peaks of 0.4 m.

    Made for pictures of about 128 x 352.
    """
    return DetectorConfig(
        grid=BevGrid((-51.2, 51.2), (-51.2, 51.2), 0.8),
        channels=32,
        camera=CameraConfig(
            backbone=BackboneConfig(
                layer="basic", embedding=16, widths=(16, 32, 64, 96), depths=(1, 1, 1, 1), stride=8, channels=48
            ),
            view=LiftSplatConfig(depth_range=(1.0, 57.0), depth_bins=56),
            width=24,
            neck=BevNeckConfig((24, 48), (1, 1)),
        ),
        lidar=LidarConfig(PillarEncoderConfig((24, 32), (1, 1)), BevNeckConfig((32, 64), (1, 2))),
        radar=RadarConfig(width=16, blocks=1, neck=BevNeckConfig((16, 32), (1, 1)), velocity_windows=(1, 3, 5)),
        pose=PoseConfig(width=32),
        fusion=FusionTransformerConfig(layers=2, width=48, heads=4, window=8, stride=2),
        # The published weights let the heatmap learn first; in a thousand steps the boxes cannot wait that long.
        head=CenterHeadConfig(
            channels=32,
            hidden=64,
            upsample=2,
            box_weight=1.0,
            velocity_weight=0.4,
            front_weight=1.0,
            attribute_weight=0.5,
        ),
        perspective=PerspectiveConfig(),
    )


def small() -> DetectorConfig:
    """A GPU of 8 to 12 GB: +-54 m, 180 x 180 cells of 0.6 m, ResNet-18, pillars of 0.3 m, depth bins of 0.8 m.

    After CRN (Kim et al. 2023), which has ResNet-18 and such bins at 256 x 704, and HEDNet (Zhang et al. 2023), whose
    pillars of 0.3 m are as accurate as small voxels. Made for pictures of 256 x 704.
    """
    return DetectorConfig(
        grid=BevGrid((-54.0, 54.0), (-54.0, 54.0), 0.6),
        channels=96,
        camera=CameraConfig(
            backbone=BackboneConfig(
                layer="basic", embedding=64, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), stride=16, channels=128
            ),
            view=LiftSplatConfig(depth_range=(2.0, 58.0), depth_bins=70),
            width=64,
            neck=BevNeckConfig((64, 128), (2, 2)),
        ),
        lidar=LidarConfig(PillarEncoderConfig((48, 96), (2, 2)), BevNeckConfig((96, 160), (2, 3))),
        radar=RadarConfig(width=32, blocks=1, neck=BevNeckConfig((32, 64), (1, 2)), velocity_windows=(1, 3, 7)),
        pose=PoseConfig(width=64),
        fusion=FusionTransformerConfig(layers=2, width=128, heads=8, window=10, stride=2),
        head=CenterHeadConfig(channels=64, hidden=128, upsample=1),
    )


def base() -> DetectorConfig:
    """The published scale (BEVFusion, Liu et al. 2023): +-54 m, 180 x 180 cells of 0.6 m, voxels of 0.075 m, ResNet-50.

    Made for pictures of 256 x 704 and ten LiDAR sweeps, trained on GPUs.
    """
    return DetectorConfig(
        grid=BevGrid((-54.0, 54.0), (-54.0, 54.0), 0.6),
        channels=256,
        camera=CameraConfig(
            backbone=BackboneConfig(stride=8),
            view=LiftSplatConfig(depth_range=(1.0, 60.0), depth_bins=118),
            width=80,
            neck=BevNeckConfig((80, 160), (2, 4)),
        ),
        lidar=LidarConfig(VoxelEncoderConfig((16, 32, 64, 128)), BevNeckConfig((128, 256), (6, 6))),
        radar=RadarConfig(width=64, blocks=2, neck=BevNeckConfig((64, 128), (2, 3)), velocity_windows=(1, 3, 7)),
        pose=PoseConfig(width=128),
        fusion=FusionTransformerConfig(layers=4, width=256, heads=8, window=10, stride=2),
        head=CenterHeadConfig(channels=128, hidden=256, upsample=1),
    )


def large() -> DetectorConfig:
    """Beyond `base` in every branch: ResNet-101, the depth net sees and learns LiDAR depth, wider voxels, 300 queries.

    Pictures of 384 x 1056 as IS-Fusion (Yin et al. 2024) has them; LiDAR depth as an input as in BEVFusion (Liu et al.
    2023), and learnt with bins of 0.5 m as in BEVDepth (Li et al. 2022); the query head with a quality branch and 300
    queries as HEDNet (Zhang et al. 2023) runs its TransFusion head on the test set. For several GPUs of 40 GB or more.
    """
    return DetectorConfig(
        grid=BevGrid((-54.0, 54.0), (-54.0, 54.0), 0.6),
        channels=384,
        camera=CameraConfig(
            backbone=BackboneConfig(depths=(3, 4, 23, 3), stride=8, channels=256),
            view=LiftSplatConfig(depth_range=(1.0, 60.0), depth_bins=118, lidar_depth=True),
            width=128,
            neck=BevNeckConfig((128, 256), (2, 4)),
        ),
        lidar=LidarConfig(VoxelEncoderConfig((24, 48, 96, 192)), BevNeckConfig((192, 384), (6, 6))),
        radar=RadarConfig(width=96, blocks=3, neck=BevNeckConfig((96, 192), (2, 3)), velocity_windows=(1, 3, 7)),
        pose=PoseConfig(width=192),
        fusion=FusionTransformerConfig(layers=6, width=384, heads=12, window=10, stride=2),
        head=QueryHeadConfig(
            channels=192, hidden=384, queries=300, layers=2, heads=8, feedforward=512, quality=QualityConfig()
        ),
        depth=DepthTaskConfig(),
    )
