"""Late fusion: every sensor has a head of its own, and their boxes are fused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from datasets.samples.batch import MODALITIES, Modality
from perception.fusion.box_fusion import weighted_box_fusion
from perception.fusion.strategy import FusionStrategy, mean_of_available, without_absent
from perception.grid import BevGrid
from perception.heads.build import HeadConfig, HeadOutputs, build_head
from perception.heads.detection_head import DetectionHead
from perception.heads.peaks import NMS_RADIUS
from perception.losses import Counts, Losses


@dataclass(frozen=True)
class LateFusionConfig:
    """`match_radius`: two sensors' boxes of a class within this distance (metres, centre to centre), or within the
    distance at which two boxes of one head are one object, may be of one object. `max_boxes`: kept of a sample.
    """

    kind: Literal["late"] = "late"
    match_radius: float = 1.0
    max_boxes: int = 500

    def __post_init__(self) -> None:
        if not self.match_radius > 0 or self.max_boxes < 1:
            raise ValueError("match_radius must be positive and max_boxes at least 1")


class LateFusion(FusionStrategy):
    """The mean of the sensors' BEVs, for pictures: the sensors' heads look at their own (`SensorHeads`)."""

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], None]:
        """See FusionStrategy. Sensors are weighed box by box, not cell by cell: there are no weights."""
        bevs, _ = without_absent(modality_bevs, pose, availability)
        return mean_of_available(bevs, availability), None


@dataclass(frozen=True)
class SensorOutputs:
    """What the heads put out, by sensor, for the samples that have it; `samples`: which of the batch these are.

    A sensor that no sample has is in neither.
    """

    by_sensor: Mapping[Modality, HeadOutputs]
    samples: Mapping[Modality, Int64[Tensor, "_"]]
    batch_size: int


class SensorHeads(nn.Module):
    """A head for each sensor. Each sees its sensor's BEV and the pose; none knows of the other sensors.

    `velocities`: columns of the radars' velocities beside their BEV, for the radar's head alone.
    """

    def __init__(
        self,
        config: LateFusionConfig,
        head: HeadConfig,
        grid: BevGrid,
        channels: int,
        sensors: Sequence[Modality],
        velocities: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.sensors = tuple(sensors)
        self.radii = tuple(max(config.match_radius, radius) for radius in NMS_RADIUS)
        self.poses = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in self.sensors)
        self.heads = nn.ModuleList(
            build_head(head, grid, channels, velocities if sensor == "radar" else 0) for sensor in self.sensors
        )

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
        velocities: Float[Tensor, "B W Y X"] | None = None,
    ) -> SensorOutputs:
        """Inputs as of FusionStrategy. A sample that lacks a sensor does not reach that sensor's head."""
        pose = torch.where(availability[:, 3:], pose, 0.0)
        by_sensor: dict[Modality, HeadOutputs] = {}
        samples: dict[Modality, Tensor] = {}
        for sensor, layer, head in zip(self.sensors, self.poses, self.heads, strict=True):
            column = MODALITIES.index(sensor)
            there = torch.nonzero(availability[:, column])[:, 0]
            if len(there):
                bev = modality_bevs[there, column] + layer(pose[there])[:, :, None, None]
                around = None if velocities is None or sensor != "radar" else velocities[there]
                by_sensor[sensor], samples[sensor] = head(bev, around), there
        return SensorOutputs(by_sensor, samples, len(availability))

    def counts(self, boxes: Sequence[Boxes3D], availability: Bool[Tensor, "B 4"]) -> Counts:
        """What the losses of each sensor's head are divided by; the names begin with the sensor."""
        counts: dict[str, Tensor] = {}
        for sensor, head in self._heads():
            there = availability[:, MODALITIES.index(sensor)].tolist()
            # A sample without the sensor has nothing to find, and there may be no other.
            nothing = Boxes3D.empty()
            of_head = head.counts([given if kept else nothing for given, kept in zip(boxes, there, strict=True)])
            counts |= {f"{sensor}_{name}": count for name, count in of_head.items()}
        return counts

    def losses(self, outputs: SensorOutputs, boxes: Sequence[Boxes3D], counts: Counts | None = None) -> Losses:
        """The sum over the sensors of the losses of the samples that have it; the parts' names begin with the sensor.

        Without any sensor the loss is 0.
        """
        # A leaf with a gradient: a training step without any sensor is no error, and learns nothing.
        total = torch.zeros((), device=boxes[0].centers.device, requires_grad=True)
        parts: dict[str, Tensor] = {}
        for sensor, head in self._heads():
            if sensor in outputs.by_sensor:
                targets = [boxes[index] for index in outputs.samples[sensor].tolist()]
                prefix = f"{sensor}_"
                own = None
                if counts is not None:
                    own = {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}
                losses = head.losses(outputs.by_sensor[sensor], targets, own)
                total = total + losses.total
                parts |= {f"{sensor}_{name}": part for name, part in losses.parts.items()}
        return Losses(total, parts)

    def decode(self, outputs: SensorOutputs) -> list[Boxes3D]:
        """The fused boxes (ego) of each sample, best first; none for a sample without a sensor."""
        found: list[list[Boxes3D]] = [[] for _ in range(outputs.batch_size)]
        for sensor, head in self._heads():
            if sensor in outputs.by_sensor:
                sets = head.decode(outputs.by_sensor[sensor])
                for index, boxes in zip(outputs.samples[sensor].tolist(), sets, strict=True):
                    found[index].append(boxes)
        return [self._fused(sets) for sets in found]

    def _heads(self) -> Iterator[tuple[Modality, DetectionHead[Any]]]:
        for sensor, head in zip(self.sensors, self.heads, strict=True):
            yield sensor, cast(DetectionHead[Any], head)

    def _fused(self, sets: Sequence[Boxes3D]) -> Boxes3D:
        if not sets:
            return Boxes3D.empty().to(next(self.parameters()).device)
        boxes = weighted_box_fusion(sets, self.radii)
        return boxes[torch.arange(min(len(boxes), self.config.max_boxes), device=boxes.labels.device)]
