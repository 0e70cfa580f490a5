"""From a frame of a log to boxes, with what the network put out on the way."""

import torch
from jaxtyping import Float64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.frames import LogFrame
from datasets.samples.batch import collate
from datasets.samples.make_sample import SampleConfig, make_sample
from perception.detector import Detector, Predictions


def detect_frame(detector: Detector, config: SampleConfig, frame: LogFrame) -> tuple[Boxes3D, Predictions]:
    """The detections of one frame (ego, float32, on the CPU) and the raw outputs, on the detector's device."""
    batch = collate([make_sample(frame, config)]).to(next(detector.parameters()).device)
    with torch.no_grad():
        predictions: Predictions = detector(batch)
    return detector.decode(predictions)[0].to(torch.device("cpu")), predictions


def in_global(boxes: Boxes3D, global_from_ego: Float64[Tensor, "4 4"]) -> Boxes3D:
    """Detections (ego) in global, float64, on the CPU."""
    return boxes.to(torch.device("cpu")).to(torch.float64).transformed(global_from_ego)
