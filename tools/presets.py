"""The presets: complete configs, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.images import ImageAugmentation
from datasets.faults import InputRefused
from datasets.samples.make_sample import SampleConfig
from perception import presets
from tools.run_config import RunConfig, read_config
from tools.training.config import TrainingConfig


def tiny() -> RunConfig:
    """Learns on two CPU cores in minutes."""
    return RunConfig(
        sample=SampleConfig(image_height=128, image_width=352, lidar_sweeps=5, radar_sweeps=4),
        detector=presets.tiny(),
        training=TrainingConfig(
            batch_size=1,
            learning_rate=6e-3,
            reference_batch_size=1,
            optimizer="muon",
            steps=1000,
            ema_decay=0.99,
            modality_dropout=0.1,
            # A camera branch so small does not know a picture's scale: depths would be wrong by as much.
            augmentation=Augmentation(bev=BevAugmentation(), image=ImageAugmentation(scale_range=(0.95, 1.05))),
            workers=1,
            checkpoint_interval=100,
        ),
    )


def small() -> RunConfig:
    """A GPU of 8 to 12 GB, pictures of 256x704 (after CRN with ResNet-18, Kim et al. 2023, and HEDNet's pillars)."""
    return RunConfig(
        sample=SampleConfig(image_height=256, image_width=704, lidar_sweeps=10, radar_sweeps=6),
        detector=presets.small(),
        training=TrainingConfig(
            batch_size=4,
            learning_rate=4e-4,
            reference_batch_size=16,
            epochs=24.0,
            augmentation=Augmentation(bev=BevAugmentation()),
            workers=4,
            checkpoint_interval=1000,
        ),
    )


def base() -> RunConfig:
    """The published scale (BEVFusion, Liu et al. 2022; CRN, Kim et al. 2023): pictures of 256x704, ten sweeps."""
    return RunConfig(
        sample=SampleConfig(image_height=256, image_width=704, lidar_sweeps=10, radar_sweeps=6),
        detector=presets.base(),
        training=TrainingConfig(
            batch_size=4,
            learning_rate=4e-4,
            reference_batch_size=32,
            epochs=24.0,
            augmentation=Augmentation(bev=BevAugmentation()),
            workers=4,
            checkpoint_interval=1000,
        ),
    )


def large() -> RunConfig:
    """Beyond the published scale: pictures of 384x1056 (IS-Fusion, Yin et al. 2024), ResNet-101, 300 queries."""
    return RunConfig(
        sample=SampleConfig(image_height=384, image_width=1056, lidar_sweeps=10, radar_sweeps=6),
        detector=presets.large(),
        training=TrainingConfig(
            batch_size=2,
            learning_rate=3e-4,
            reference_batch_size=32,
            epochs=24.0,
            augmentation=Augmentation(bev=BevAugmentation()),
            workers=4,
            checkpoint_interval=1000,
        ),
    )


PRESETS: Mapping[str, Callable[[], RunConfig]] = {"tiny": tiny, "small": small, "base": base, "large": large}


def preset(name: str) -> RunConfig:
    """The preset of this name. Raises InputRefused for an unknown one, with those that there are."""
    if name not in PRESETS:
        raise InputRefused(f"there is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]()


def preset_or_config(name: str) -> RunConfig:
    """The preset of this name, or the config in the file of this name. Raises InputRefused for anything else."""
    if name in PRESETS:
        return preset(name)
    if Path(name).is_file():
        return read_config(Path(name))
    raise InputRefused(f"{name} is neither a preset ({', '.join(PRESETS)}) nor a config file: see bevel train --help.")
