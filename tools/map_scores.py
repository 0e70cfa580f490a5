"""How well a run segments the map: IoU by class, as BEVFusion (Liu et al. 2023) reports it."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import known
from datasets.nuscenes.map_masks import MapMasks
from datasets.nuscenes.reader import NuScenesReader
from datasets.reader import LogReader
from datasets.samples.batch import Batch
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.map_raster import MapTargets
from datasets.samples.sample import MAP_CLASSES
from perception.detector import DetectorConfig, Predictions
from perception.tasks.segmentation import IOU_THRESHOLDS, IouCounts

_FIXED = 0.5


@dataclass(frozen=True)
class MapScore:
    """The IoU of a class at the threshold that is best for it on this split, that threshold, and the IoU at 0.5.

    None where neither the map nor the run has a cell of the class.
    """

    name: str
    iou: float | None
    threshold: float | None
    iou_at_half: float | None


class MapScorer:
    """Counts the cells of a run's maps as its detections are made; without a word where it segments none."""

    def __init__(self) -> None:
        self._counts: IouCounts | None = None
        self._why_none: str | None = None

    def with_map(self, dataset: FusionDataset, config: DetectorConfig) -> FusionDataset:
        """The data set with the map, where the detector segments it and the data set has one."""
        try:
            return with_map_targets(dataset, config)
        except InputRefused as refusal:  # boxes can be scored all the same
            self._why_none = f"the map is not scored: {refusal}"
            return dataset

    def add(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch."""
        logits = predictions.segmentation_logits
        if logits is None or batch.map_masks is None or batch.map_known is None:
            return
        counts = IouCounts.of(logits, batch.map_masks.to(logits.device), batch.map_known.to(logits.device))
        self._counts = counts if self._counts is None else self._counts + counts

    def scores(self) -> tuple[MapScore, ...]:
        """Of all that was counted; nothing where there was no map."""
        return () if self._counts is None else map_scores(self._counts)

    def text(self) -> str | None:
        """The table, or why there is none; None where the run segments no map."""
        return self._why_none if self._counts is None else map_text(self.scores())


def map_targets(config: DetectorConfig, reader: LogReader, tokens: Sequence[str]) -> MapTargets | None:
    """The map of these frames where the detector segments it. Raises InputRefused where the dataset has none."""
    if config.segmentation is None:
        return None
    if not isinstance(reader, NuScenesReader):
        raise InputRefused(
            "map segmentation needs nuScenes' map masks, and shards hold none: name the nuScenes dataroot, or take "
            "`segmentation` out of the config."
        )
    return MapTargets(MapMasks(reader.root, reader.version, reader.scenes_of(tokens)), config.grid.centers())


def with_map_targets(dataset: FusionDataset, config: DetectorConfig) -> FusionDataset:
    """The data set with the map where the detector segments it. Raises InputRefused where there is none to be had."""
    maps = map_targets(config, dataset.reader, dataset.tokens)
    return dataset if maps is None else dataset.with_maps(maps)


def map_scores(counts: IouCounts) -> tuple[MapScore, ...]:
    """The scores of MAP_CLASSES."""
    columns = (counts.best(), counts.best_thresholds(), counts.at(_FIXED))
    rows = zip(MAP_CLASSES, *(column.tolist() for column in columns), strict=True)
    return tuple(MapScore(name, known(iou), known(best), known(half)) for name, iou, best, half in rows)


def map_text(scores: Sequence[MapScore]) -> str:
    """The table that is printed."""
    low, high = IOU_THRESHOLDS[0], IOU_THRESHOLDS[-1]
    head = f"{'map class':<22}{'IoU':>7}{'at':>7}{'IoU 0.5':>9}   (at the best threshold of {low:g} to {high:g})"
    return "\n".join(
        [head, *(f"{s.name:<22}{_cell(s.iou, 7)}{_cell(s.threshold, 7)}{_cell(s.iou_at_half, 9)}" for s in scores)]
    )


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.3f}"
