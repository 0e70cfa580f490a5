"""The curves of the detection metric as two pictures: precision over recall by class, errors over recall by kind."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.configuration import (
    ERROR_THRESHOLD,
    ERRORS,
    MIN_PRECISION,
    MIN_RECALL,
    SKIPPED_ERRORS,
)
from datasets.nuscenes.detection_metric.curves import Curves
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, class_precisions
from tools.drawing.canvas import Text, blank, fill, letter, stroke, text_width
from tools.drawing.palette import CLASS_COLORS, FAINT, GROUND, INK, PAGE, SOFT
from tools.drawing.plot import Panel, blended, draw_line, draw_panel, nice_top, shade

_WIDTH, _PAD, _GAP, _HEADER, _FOOTER = 2400, 32, 14, 92, 66
# How much of its class's colour a curve has, from the nearest threshold to the farthest.
_SHARES = (0.34, 0.52, 0.76, 1.0)
_ERROR_NAMES = dict(
    zip(
        ERRORS,
        ("translation, m", "scale, 1 - IoU", "orientation, rad", "velocity, m/s", "attribute, 1 - accuracy"),
        strict=True,
    )
)


def draw_precision_recall(metrics: DetectionMetrics, heading: str) -> UInt8[Tensor, "H W 3"]:
    """A panel for each class with a curve for each distance threshold; what does not count in AP is shaded."""
    panels = _grid(5, 2, 380)
    picture = blank(_HEADER + 2 * 380 + _GAP + _FOOTER, _WIDTH, PAGE)
    texts = _head("Precision over recall", heading)
    precisions = class_precisions(metrics.average_precision)
    for label, (name, panel) in enumerate(zip(DETECTION_CLASSES, panels, strict=True)):
        present = metrics.ground_truth[name] > 0
        note = f"AP {precisions[name]:.3f}" if present else "no annotations"
        color = CLASS_COLORS[label] if present else FAINT
        texts += draw_panel(picture, panel, _title(name), note, color, faint=not present)
        shade(picture, panel, (0.0, 1.0), (0.0, MIN_PRECISION))
        shade(picture, panel, (0.0, MIN_RECALL), (MIN_PRECISION, 1.0))
        if present:
            for (_, curves), share in zip(sorted(metrics.curves[name].items()), _SHARES, strict=True):
                reached = _reached(curves)
                line = blended(color, GROUND, share)
                draw_line(picture, panel, curves.recall[:reached].tolist(), curves.precision[:reached].tolist(), line)
    thresholds = sorted(next(iter(metrics.curves.values())))
    u, v = float(_PAD), picture.shape[0] - 30
    for threshold, share in zip(thresholds, _SHARES, strict=True):
        stroke(picture, _points([[u, v - 6], [u + 44, v - 6]]), blended(INK, GROUND, share), 4)
        texts.append(Text(u + 56, v, f"within {threshold:g} m", 19, SOFT, "ls"))
        u += 96 + text_width(f"within {threshold:g} m", 19)
    texts.append(Text(_WIDTH - _PAD, v, "shaded: does not count in AP", 19, FAINT, "rs"))
    letter(picture, texts)
    return picture


def draw_errors(metrics: DetectionMetrics, heading: str) -> UInt8[Tensor, "H W 3"]:
    """A panel for each error with a line for each class: the mean error of all matches down to a recall."""
    height = 440
    panels = _grid(3, 2, height)
    picture = blank(_HEADER + 2 * height + _GAP + 40, _WIDTH, PAGE)
    texts = _head(f"Errors of true positives over recall, matches within {ERROR_THRESHOLD:g} m", heading)
    present = [name for name in DETECTION_CLASSES if metrics.ground_truth[name] > 0]
    first = round(100 * MIN_RECALL)
    for error, panel in zip(ERRORS, panels, strict=False):
        lines = {}
        for name in present:
            curves = metrics.curves[name][ERROR_THRESHOLD]
            if error not in SKIPPED_ERRORS.get(name, ()) and _reached(curves) > first + 1:
                lines[name] = [float(value) for value in getattr(curves, error)[first : _reached(curves)]]
        top = nice_top([value for values in lines.values() for value in values])
        panel = Panel(panel.left, panel.top, panel.width, panel.height, top)
        mean = f"official mean {metrics.mean_errors[error]:.3f}"
        texts += draw_panel(picture, panel, _ERROR_NAMES[error], mean, None, faint=not lines)
        for name, values in lines.items():
            recalls = [(first + step) / 100 for step in range(len(values))]
            draw_line(picture, panel, recalls, values, CLASS_COLORS[DETECTION_CLASSES.index(name)])
    letter(picture, texts + _class_list(picture, panels[-1], metrics))
    return picture


def _reached(curves: Curves) -> int:
    """How many of the recalls were reached."""
    return curves.max_recall_index + 1


def _grid(columns: int, rows: int, height: int) -> list[Panel]:
    width = (_WIDTH - 2 * _PAD - (columns - 1) * _GAP) // columns
    return [
        Panel(_PAD + column * (width + _GAP), _HEADER + row * (height + _GAP), width, height)
        for row in range(rows)
        for column in range(columns)
    ]


def _title(name: str) -> str:
    return name.replace("_", " ").replace("construction", "constr.")


def _head(title: str, heading: str) -> list[Text]:
    return [Text(_PAD, 58, title, 32, INK, "ls", "bold"), Text(_WIDTH - _PAD, 58, heading, 21, SOFT, "rs")]


def _class_list(picture: UInt8[Tensor, "H W 3"], panel: Panel, metrics: DetectionMetrics) -> list[Text]:
    """Which colour is which class; what has no annotations, or was not found up to the least recall, is faint."""
    texts = []
    for label, name in enumerate(DETECTION_CLASSES):
        column, row = divmod(label, 5)
        u, v = panel.left + 62 + column * panel.width * 0.45, panel.top + 96 + row * 64
        curves = metrics.curves[name][ERROR_THRESHOLD]
        shown = metrics.ground_truth[name] > 0 and _reached(curves) > round(100 * MIN_RECALL) + 1
        square = _points([[u, v - 14], [u + 14, v - 14], [u + 14, v], [u, v]])
        fill(picture, square, CLASS_COLORS[label] if shown else FAINT)
        texts.append(Text(u + 26, v, name.replace("_", " "), 20, INK if shown else FAINT, "ls"))
        note = f"recall up to {curves.max_recall_index / 100:.2f}" if shown else "nothing to show"
        texts.append(Text(u + 26, v + 25, note, 16, SOFT if shown else FAINT, "ls"))
    return texts


def _points(points: Sequence[Sequence[int | float]]) -> Float64[Tensor, "K 2"]:
    return torch.tensor(points, dtype=torch.float64)
