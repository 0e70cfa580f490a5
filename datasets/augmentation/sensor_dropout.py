"""Sensors that fail in training, so that a network does not come to rely on one of them."""

from dataclasses import dataclass, fields, replace

import torch

from datasets.frames import LogFrame


@dataclass(frozen=True)
class SensorDropout:
    """With which probability a single sensor of a frame is as if it had not been recorded.

    Each sensor is drawn on its own; whole modalities at once are `TrainingConfig.modality_dropout`. Where all that a
    frame has would be gone, nothing is.
    """

    camera: float = 0.0
    lidar: float = 0.0
    radar: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0.0 <= getattr(self, field.name) <= 1.0:
                raise ValueError(f"{field.name} must lie in [0, 1], not {getattr(self, field.name)}")

    def draw(self, frame: LogFrame, generator: torch.Generator) -> frozenset[str]:
        """The channels that are dropped."""
        recorded = (
            [(channel, self.camera) for channel in sorted(frame.images)]
            + [(channel, self.lidar) for channel in sorted(frame.lidar_sweeps.keys() | frame.merged_lidar.keys())]
            + [(channel, self.radar) for channel in sorted(frame.radar_sweeps)]
        )
        draws = torch.rand(len(recorded), generator=generator, dtype=torch.float64).tolist()
        dropped = {channel for (channel, probability), draw in zip(recorded, draws, strict=True) if draw < probability}
        return frozenset(dropped if len(dropped) < len(recorded) else ())


def without_channels(frame: LogFrame, dropped: frozenset[str]) -> LogFrame:
    """The frame as if these channels had not been recorded. No fault is told of them: they were taken on purpose."""
    if not dropped:
        return frame
    return replace(
        frame,
        images={channel: image for channel, image in frame.images.items() if channel not in dropped},
        lidar_sweeps={channel: sweeps for channel, sweeps in frame.lidar_sweeps.items() if channel not in dropped},
        merged_lidar={channel: sweeps for channel, sweeps in frame.merged_lidar.items() if channel not in dropped},
        radar_sweeps={channel: sweeps for channel, sweeps in frame.radar_sweeps.items() if channel not in dropped},
    )
