"""Draw keyframes: six cameras and the BEV with annotations, detections and the fused features, one PNG for each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import torch
import tyro

from calibration.transforms import invert
from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.faults import InputRefused
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import read_results
from datasets.reader import LogReader
from datasets.samples.batch import MODALITIES
from perception.detector import Detector
from tools.detection import detect_frame
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.drawing.canvas import png_bytes
from tools.drawing.sheet import FusedView, draw_sheet
from tools.missing_sensors import MissingSensors
from tools.open_dataset import open_tables
from tools.progress import progress
from tools.run_config import RunConfig
from tools.shipped_runs import run_or_shipped
from tools.training.run_folder import load_detector


@dataclass(frozen=True)
class VisualizeArguments:
    """What `bevel visualize` takes."""

    data_root: Path
    """The dataroot: the folder that holds v1.0-mini, say."""
    source: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[RUN|RESULTS.json]")]] = None
    """A run or tiny, which comes with Bevel (the detector runs), or a results file; left out: annotations only."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str = "all"
    """An official split, all, or scene names."""
    frames: int = 8
    """How many keyframes, spread evenly over the split; 0: all of them."""
    token: str | None = None
    """Draw only the keyframe with this sample token."""
    min_score: float = 0.3
    """Detections below this score are not drawn."""
    output: Path = Path("pictures")
    """The folder for the pictures; a picture of the same keyframe is replaced."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def visualize(arguments: VisualizeArguments) -> Path:
    """Draw the sheets and return the folder. Sensors that are missing are drawn as such and counted, never refused.

    Raises InputRefused for a dataroot, split, token, run or results file that is not usable.
    """
    limit_threads(arguments.threads)
    view: DetectionSource = NoDetections()
    source = None if arguments.source is None else run_or_shipped(arguments.source)
    if source is not None and source.is_dir():
        config, detector = load_detector(source, choose_device(arguments.device))
        reader = open_tables(arguments.data_root, arguments.version, config.sample)
        view = DetectorView(config, detector, arguments.min_score, reader)
    else:
        reader = open_tables(arguments.data_root, arguments.version, None)
        if source is not None:
            view = ResultsView(read_results(source), arguments.min_score, str(source))
    missing = MissingSensors()
    draw_frames(reader, _chosen_tokens(reader, arguments), view, arguments.output, missing)
    print(missing.table())
    return arguments.output


@runtime_checkable
class DetectionSource(Protocol):
    """Where the detections of a frame come from."""

    def detections(self, frame: LogFrame) -> tuple[Boxes3D | None, FusedView | None]:
        """The boxes (ego) and what the network fused; None for what there is not."""
        ...


class NoDetections:
    """Annotations only."""

    def detections(self, frame: LogFrame) -> tuple[Boxes3D | None, FusedView | None]:
        """Nothing."""
        return None, None


class ResultsView:
    """The detections of a results file, by sample token (boxes in global)."""

    def __init__(self, boxes_global: Mapping[str, Boxes3D], min_score: float, name: str) -> None:
        self._boxes_global = boxes_global
        self._min_score = min_score
        self._name = name

    def detections(self, frame: LogFrame) -> tuple[Boxes3D | None, FusedView | None]:
        """The frame's boxes in ego. Raises InputRefused for a frame that the file does not hold."""
        if frame.token not in self._boxes_global:
            raise InputRefused(
                f"{self._name}: there are no results for sample {frame.token}: choose the split it was written for."
            )
        boxes = self._boxes_global[frame.token].transformed(invert(frame.global_from_ego)).to(torch.float32)
        return boxes[boxes.scores >= self._min_score], None


class DetectorView:
    """A detector that runs on each frame; if it remembers, on the frames right before it first."""

    def __init__(self, config: RunConfig, detector: Detector, min_score: float, reader: LogReader) -> None:
        self._config = config
        self._detector = detector
        self._min_score = min_score
        self._reader = reader

    def detections(self, frame: LogFrame) -> tuple[Boxes3D | None, FusedView | None]:
        """The boxes in ego, the fused features and the weight of each modality."""
        tokens = self._reader.earlier_tokens(frame.token, self._config.detector.earlier_frames)
        earlier = [self._reader.frame(token) for token in tokens]
        boxes, predictions = detect_frame(self._detector, self._config.sample, frame, earlier)
        weights = predictions.modality_weights
        fused = FusedView(
            bev=predictions.bev[0].cpu(),
            grid=self._config.detector.grid,
            patch=self._config.detector.patch,
            modality_names=MODALITIES[: 0 if weights is None else weights.shape[1]],
            modality_weights=None if weights is None else weights[0].cpu(),
        )
        return boxes[boxes.scores >= self._min_score], fused


def draw_frames(
    reader: LogReader, tokens: Sequence[str], source: DetectionSource, output: Path, missing: MissingSensors
) -> list[Path]:
    """Draw the sheets of these frames into `output`, count their absent sensors, and return the pictures' paths."""
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for token in progress(tokens, "drawing"):
        frame = reader.frame(token)
        missing.add(token, frame.faults, frame.impairments)
        boxes, fused = source.detections(frame)
        path = output / picture_name(frame)
        write_atomically(path, png_bytes(draw_sheet(frame, boxes, fused)))
        paths.append(path)
    return paths


def picture_name(frame: LogFrame) -> str:
    """A file name from scene, time and token; letters that a file system or a shell might mind are replaced."""
    parts = (frame.scene_name, str(frame.timestamp_us), frame.token[:8])
    return "_".join(re.sub(r"[^A-Za-z0-9.-]", "-", part)[:80] for part in parts).lstrip(".-") + ".png"


def evenly_spread(tokens: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the tokens in their order, spread evenly, the first among them; all of them for 0 or more than all."""
    if count <= 0 or count >= len(tokens):
        return tuple(tokens)
    return tuple(tokens[index * len(tokens) // count] for index in range(count))


def _chosen_tokens(reader: NuScenesReader, arguments: VisualizeArguments) -> tuple[str, ...]:
    if arguments.frames < 0:
        raise InputRefused(f"--frames must be 0 (all) or more, not {arguments.frames}.")
    if arguments.token is None:
        return evenly_spread(reader.frame_tokens(arguments.split), arguments.frames)
    if arguments.token not in reader.frame_tokens("all"):
        raise InputRefused(f"--token {arguments.token}: {arguments.data_root} has no sample with this token.")
    return (arguments.token,)
