"""The words on a sheet: which colour is which class and how often, and which sensor was there."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, DETECTION_CLASSES, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import SensorFault
from datasets.frames import LogFrame
from tools.drawing.canvas import Text, disc, fill, letter, stroke, text_width
from tools.drawing.palette import ANNOTATION, CLASS_COLORS, FAINT, INK, RADAR, SOFT, WARNING, dimmed

_CHANNELS = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)


def wrapped(string: str, size: int, width: int | float) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is longer (a path) is broken."""
    lines, line = [], ""
    for word in string.split():
        pieces = [word]
        while text_width(pieces[-1], size) > width and len(pieces[-1]) > 1:
            count = max(1, int(len(pieces[-1]) * width / text_width(pieces[-1], size)))
            pieces[-1:] = [pieces[-1][:count], pieces[-1][count:]]
        for piece in pieces:
            longer = f"{line} {piece}".strip()
            if line and text_width(longer, size) > width:
                lines.append(line)
                line = piece
            else:
                line = longer
    return [*lines, line] if line else lines


def _counts(boxes: Boxes3D | None) -> Int64[Tensor, "K"]:
    if boxes is None:
        return torch.zeros(len(DETECTION_CLASSES), dtype=torch.int64)
    return torch.bincount(boxes.labels, minlength=len(DETECTION_CLASSES))


def class_legend(
    sheet: UInt8[Tensor, "H W 3"], left: int, top: int, width: int, frame: LogFrame, detections: Boxes3D | None
) -> None:
    """Ten colours in two rows with the counts (detections / annotations), and below them what the strokes mean."""
    annotated = _counts(None if frame.annotations is None else frame.annotations.boxes_global)
    detected = _counts(detections)
    texts = []
    for index, name in enumerate(DETECTION_CLASSES):
        row, column = divmod(index, 5)
        x, y = left + column * width / 5, top + 18 + 30 * row
        square = torch.tensor([[x, y - 11], [x + 12, y - 11], [x + 12, y + 1], [x, y + 1]])
        fill(sheet, square, CLASS_COLORS[index])
        label = name.replace("_", " ").replace("construction vehicle", "constr. vehicle")
        texts.append(Text(x + 20, y, label, 15, INK if annotated[index] + detected[index] > 0 else FAINT, "ls"))
        count = f"{int(annotated[index])}" if detections is None else f"{int(detected[index])}/{int(annotated[index])}"
        texts.append(Text(x + 26 + text_width(label, 15), y, count, 15, SOFT, "ls"))
    if detections is not None:
        texts.append(Text(left, top + 112, "counts: detections / annotations", 14, FAINT, "ls"))
    letter(sheet, texts)
    _stroke_legend(sheet, left, top + 84, detections is not None)


def _stroke_legend(sheet: UInt8[Tensor, "H W 3"], left: int | float, y: int | float, with_detections: bool) -> None:
    entries = ["annotation", "annotation without points", "arrow: one second", "radar return, radial velocity"]
    if with_detections:
        entries = ["detection", *entries]
    x = left
    for entry in entries:
        middle = y - 5.0
        line = torch.tensor([[x, middle], [x + 22, middle]])
        if entry == "detection":
            stroke(sheet, line, CLASS_COLORS[0], 3)
        elif entry == "annotation":
            stroke(sheet, line, ANNOTATION if with_detections else CLASS_COLORS[0], 1 if with_detections else 2)
        elif entry.startswith("annotation"):
            stroke(sheet, line, dimmed(ANNOTATION if with_detections else CLASS_COLORS[0]), 1 if with_detections else 2)
        elif entry.startswith("radar"):
            stroke(sheet, line, RADAR, 1)
            disc(sheet, line[0] + torch.tensor([4.0, 0.0]), 3.0, RADAR)
        elif entry.startswith("arrow"):
            stroke(sheet, line, SOFT, 1)
            fill(sheet, line[1] + torch.tensor([[4.0, 0.0], [-5.0, 4.0], [-5.0, -4.0]]), SOFT)
        letter(sheet, [Text(x + 32, y, entry, 14, SOFT, "ls")])
        x += 32 + text_width(entry, 14) + 26


def sensor_table(
    sheet: UInt8[Tensor, "H W 3"],
    left: int,
    top: int,
    width: int,
    columns: int,
    frame: LogFrame,
    faults: tuple[SensorFault, ...],
) -> None:
    """Every channel with the time of its reading relative to the frame and its points, or why it is absent."""
    reasons = {fault.channel: fault.reason.value.replace("_", " ") for fault in faults}
    texts = []
    if columns == 1:
        texts.append(Text(left, top + 20, "Sensors", 17, INK, "ls", "bold"))
        top += 38
    rows = -(-len(_CHANNELS) // columns)
    column_width = width / columns
    for index, channel in enumerate(_CHANNELS):
        column, row = divmod(index, rows)
        x, y = left + column * column_width, top + 18 + (30 if columns > 1 else 34) * row
        status = _reading(frame, channel)
        absent = channel in reasons or status is None
        disc(sheet, torch.tensor([x + 5.0, y - 5.0]), 4.0, WARNING if absent else RADAR)
        name = channel.replace("_", " ").lower() if columns > 1 else channel
        texts.append(Text(x + 18, y, name, 14 if columns > 1 else 15, FAINT if absent else INK, "ls"))
        words = reasons.get(channel, "not recorded") if absent else status or ""
        if columns == 1:
            texts.append(Text(x + column_width, y, words, 15, WARNING if absent else SOFT, "rs"))
        elif absent:
            texts.append(Text(x + 26 + text_width(name, 14), y, words, 12, WARNING, "ls"))
    letter(sheet, texts)


def _reading(frame: LogFrame, channel: str) -> str | None:
    """What the sensor gave, in a few words; None where it gave nothing."""
    if channel in frame.images:
        return f"{(frame.images[channel].timestamp_us - frame.timestamp_us) * 1e-3:+.0f} ms"
    sweeps = frame.raw_lidar_sweeps.get(channel) or frame.radar_sweeps.get(channel)
    if not sweeps:
        return None
    offset = f"{(sweeps[0].timestamp_us - frame.timestamp_us) * 1e-3:+.0f} ms"
    extra = "" if len(sweeps) == 1 else f", {len(sweeps)} sweeps"
    return f"{len(sweeps[0].points):,} points{extra}   {offset}"
