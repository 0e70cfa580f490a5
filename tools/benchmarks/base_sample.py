"""What a training sample of `base` costs, with all that a training can do to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.images import ImageAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.object_paste.build import build_object_database
from datasets.object_paste.paste import ObjectPaste
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import SampleConfig, make_sample
from tools.benchmarks.side_by_side import interleaved

_DROPOUT = SensorDropout(camera=0.05, lidar=0.05, radar=0.05)
_DATABASE_FRAMES = 8


@dataclass(frozen=True)
class BaseSampleFigures:
    """`sensors`: pictures, LiDAR sweeps and radars of the frame that samples are made from. `objects`: how many the
    database of objects has; `pasted`: how many of them a sample got, on average. `milliseconds`: CPU time of the steps,
    each with those before it. Reading: files, checks, poses. Making: decoding, moving, filtering.
    """

    sensors: tuple[int, int, int]
    objects: int
    pasted: float
    milliseconds: Mapping[str, float]

    @property
    def per_second(self) -> float:
        """How many complete samples a core makes in a second."""
        return 1e3 / self.milliseconds["all"]

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        cameras, sweeps, radars = self.sensors
        parts = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        return [
            f"base training samples: {self.per_second:.1f} a second on a core ({parts})",
            f"    {cameras} pictures, {sweeps} LiDAR sweeps, {radars} radars; picture and BEV augmentation; "
            f"each sensor dropped in {_DROPOUT.camera:.0%} of the samples; "
            f"{self.pasted:.1f} of {self.objects} objects pasted",
        ]


def _everything(database: Path, frame: LogFrame) -> Augmentation:
    """Every augmentation there is. Of each class as many objects are pasted as in the published trainings, on top of
    those that the frame has; turned about the vehicle, objects of the same place find room.
    """
    counts = torch.tensor(ObjectPaste.counts)
    if frame.annotations is not None:
        counts += torch.bincount(frame.annotations.boxes_global.labels, minlength=len(counts))
    paste = ObjectPaste(str(database), counts=tuple(counts.tolist()), max_turn=math.pi)
    return Augmentation(BevAugmentation(translation_std=0.5), ImageAugmentation(), _DROPOUT, paste)


def bench_base_sample(
    reader: NuScenesReader, token: str, config: SampleConfig, rounds: int, repeats: int
) -> BaseSampleFigures:
    """Measure on one frame, each time with another augmentation, and objects out of the reader's last frames."""
    with TemporaryDirectory() as folder:
        database = Path(folder) / "objects"
        tokens = reader.frame_tokens("all")[-_DATABASE_FRAMES:]
        objects = build_object_database(reader, tokens, config, database, version=reader.version)
        frame, drawn, pasted = reader.frame(token), count(), list[int]()
        plain = make_sample(frame, config)
        dataset = FusionDataset(reader, [token], config, augmentation=_everything(database, frame))

        def whole() -> None:
            sample = dataset.sample(0, epoch=0, repeat=next(drawn))
            if sample.boxes is not None and plain.boxes is not None:
                pasted.append(len(sample.boxes) - len(plain.boxes))

        steps = {
            "read": lambda: reader.frame(token),
            "read and made": lambda: make_sample(reader.frame(token), config),
            "all": whole,
        }
        times = interleaved(steps, rounds, repeats)
    sweeps = sum(count for channel, count in plain.sweep_counts if channel == config.lidar_channel)
    sensors = (len(frame.images), sweeps, len(frame.radar_sweeps))
    return BaseSampleFigures(sensors, objects, fmean(pasted) if pasted else 0.0, times)
