"""Validation as a training goes: the averaged weights on a split, by the official metric, and a frame's picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.nuscenes.detection_metric.evaluation import evaluate_detections
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import write_results
from datasets.samples.fusion_dataset import FusionDataset
from perception.detector import Detector
from tools.detection import DetectorStream, detect_frame
from tools.drawing.bev import BevView, draw_bev
from tools.drawing.canvas import png_bytes
from tools.drawing.frame_scene import bev_scene
from tools.evaluation_analysis import SHORT_NAMES
from tools.predict import batches_in_order, modalities_of
from tools.run_config import RunConfig
from tools.training.loading import MissingSensorsPolicy
from tools.training.processes import Processes

PICTURE = "detections.png"  # in the folder of the validation
_PICTURE_SIDE = 900  # pixels
_LEAST_SCORE = 0.1  # of a detection in the picture
_COLUMNS = 13  # of a row that stands for a box


@dataclass(frozen=True)
class Validated:
    """The figures of one validation by their names in the log, and the picture of the split's first frame."""

    numbers: dict[str, float]
    picture: UInt8[Tensor, "H W 3"]

    @property
    def nds(self) -> float:
        """The nuScenes detection score, by which one set of weights is better than another."""
        return self.numbers["val/NDS"]


class Validation:
    """A split to validate on. Every process takes scenes of its own; the first one scores them all."""

    def __init__(
        self,
        config: RunConfig,
        reader: NuScenesReader,
        split: str,
        folder: Path,
        processes: Processes,
        missing_sensors: MissingSensorsPolicy,
    ) -> None:
        self._config, self._reader, self._split, self._folder = config, reader, split, folder
        self._processes, self._missing_sensors = processes, missing_sensors
        self.tokens = reader.frame_tokens(split)

    def measure(self, detector: Detector) -> Validated | None:
        """The figures of a detector, the same in all processes; None in those that are not the first. All must call it.

        Raises InputRefused where sensors are missing and must not be.
        """
        boxes = self._gathered(self._detect(detector))
        if boxes is None:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        results = self._folder / "results.json"
        write_results(results, boxes, modalities_of(self._config.detector))
        metrics = evaluate_detections(
            self._reader.root, self._reader.version, results, self._split, self._folder
        ).metrics
        numbers = {"val/NDS": metrics.nds, "val/mAP": metrics.mean_ap, "val/mAP_present": metrics.mean_ap_present}
        numbers |= {f"val/{SHORT_NAMES[name]}": error for name, error in metrics.mean_errors.items()}
        picture = self._picture(detector)
        write_atomically(self._folder / PICTURE, png_bytes(picture))
        return Validated(numbers, picture)

    def _detect(self, detector: Detector) -> dict[str, Boxes3D]:
        """The detections (global) in this process's scenes, by token."""
        count, rank = self._processes.count, self._processes.rank
        own = [token for token in self.tokens if self._reader.index.find(token)[0] % count == rank]
        found: dict[str, Boxes3D] = {}
        if own:
            dataset, stream = FusionDataset(self._reader, own, self._config.sample), DetectorStream(detector)
            training = self._config.training
            batches = batches_in_order(
                dataset, training.batch_size, training.workers, self._missing_sensors, training.loader_timeout
            )
            for loaded in batches:
                found |= stream.detect_global(loaded.batch)
        return found

    def _gathered(self, own: dict[str, Boxes3D]) -> dict[str, Boxes3D] | None:
        """In the first process the detections of all, as they come out of one; in the others None."""
        if self._processes.count == 1:
            return own
        rows = self._processes.joined(rows_of_samples(own, self.tokens))
        return samples_of_rows(rows, self.tokens) if self._processes.first else None

    def _picture(self, detector: Detector) -> UInt8[Tensor, "H W 3"]:
        frame = self._reader.with_raw_lidar().frame(self.tokens[0])
        boxes, _ = detect_frame(detector, self._config.sample, frame)
        grid = self._config.detector.grid
        view = BevView.fitting(grid.x_range, grid.y_range, _PICTURE_SIDE, _PICTURE_SIDE)
        return draw_bev(bev_scene(frame, boxes[boxes.scores >= _LEAST_SCORE]), view)


def rows_of_samples(found: Mapping[str, Boxes3D], tokens: Sequence[str]) -> Float64[Tensor, "M 13"]:
    """The boxes of some samples as numbers that processes can exchange: the first is the sample's place in `tokens`."""
    place = {token: index for index, token in enumerate(tokens)}
    rows = [_rows(boxes, place[token]) for token, boxes in found.items()]
    return torch.cat([torch.zeros(0, _COLUMNS, dtype=torch.float64), *rows])


def samples_of_rows(rows: Float64[Tensor, "M 13"], tokens: Sequence[str]) -> dict[str, Boxes3D]:
    """The boxes of every sample, in the order of `tokens`; those of one sample stay in the order of the rows."""
    places, order = rows[:, 0].long().sort(stable=True)
    counts = places.bincount(minlength=len(tokens))
    parts = torch.split(rows[order], counts.tolist())
    return {token: _boxes(part) for token, part in zip(tokens, parts, strict=True)}


def _rows(boxes: Boxes3D, place: int) -> Float64[Tensor, "M 13"]:
    single = [boxes.yaws, boxes.labels, boxes.scores, boxes.attributes]
    columns: Sequence[Tensor] = [boxes.centers, boxes.sizes_wlh, boxes.velocities, *(one[:, None] for one in single)]
    first = torch.full((len(boxes), 1), float(place), dtype=torch.float64)
    return torch.cat([first, *(column.double() for column in columns)], dim=1)


def _boxes(rows: Float64[Tensor, "M 13"]) -> Boxes3D:
    """What `_rows` made numbers of."""
    return Boxes3D(
        centers=rows[:, 1:4],
        sizes_wlh=rows[:, 4:7],
        velocities=rows[:, 7:9],
        yaws=rows[:, 9],
        labels=rows[:, 10].long(),
        scores=rows[:, 11],
        attributes=rows[:, 12].long(),
    )
