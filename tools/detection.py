"""From frames of a log to boxes, with what the network put out on the way."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.frames import LogFrame
from datasets.samples.batch import Batch, collate
from datasets.samples.fusion_dataset import clip
from datasets.samples.make_sample import SampleConfig, make_sample
from perception.detector import Detector, Predictions
from perception.temporal import FrameBevs


class DetectorStream:
    """A detector on its way along a recording: what it remembers of a batch is there for the next one.

    Frames come in recorded order, scene by scene. A detector without memory looks at each frame by itself.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._memory: FrameBevs | None = None

    @torch.no_grad()
    def detect(self, batch: Batch) -> tuple[list[Boxes3D], Predictions]:
        """The detections of each frame (ego, float32, on the CPU) and the raw outputs, on the detector's device."""
        on_device = batch.to(next(self._detector.parameters()).device)
        predictions, self._memory = self._detector.step(on_device, self._memory)
        return [boxes.to(torch.device("cpu")) for boxes in self._detector.decode(predictions)], predictions

    def detect_global(
        self, batch: Batch, look: Callable[[Predictions, Batch], None] | None = None
    ) -> dict[str, Boxes3D]:
        """The detections of each frame by token, in global, float64, on the CPU. `look` gets the raw outputs, too."""
        found, predictions = self.detect(batch)
        if look is not None:
            look(predictions, batch)
        return {
            token: in_global(boxes, global_from_ego)
            for token, boxes, global_from_ego in zip(batch.tokens, found, batch.global_from_ego, strict=True)
        }


def detect_frame(
    detector: Detector, config: SampleConfig, frame: LogFrame, earlier: Sequence[LogFrame] = ()
) -> tuple[Boxes3D, Predictions]:
    """As `DetectorStream.detect`, of one frame anywhere in a log; `earlier`: those before it, newest first."""
    batch = collate([clip([make_sample(each, config) for each in (frame, *earlier)])])
    with torch.no_grad():
        predictions: Predictions = detector(batch.to(next(detector.parameters()).device))
    return detector.decode(predictions)[0].to(torch.device("cpu")), predictions


def in_global(boxes: Boxes3D, global_from_ego: Float64[Tensor, "4 4"]) -> Boxes3D:
    """Detections (ego) in global, float64, on the CPU."""
    return boxes.to(torch.device("cpu")).to(torch.float64).transformed(global_from_ego)
