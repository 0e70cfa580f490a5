"""One HTML page about one evaluation: figures, how sure they are, slices, curves. No script, no network."""

import base64
import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_analysis.analysis import DetectionAnalysis, rough
from datasets.nuscenes.detection_analysis.bootstrap import MEAN_AP, NDS, Interval
from datasets.nuscenes.detection_analysis.slices import SliceFigures
from datasets.nuscenes.detection_metric.configuration import ERRORS
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation
from tools.drawing.palette import CLASS_COLORS, SOFT, Color
from tools.map_scores import MapScore
from tools.report import css_color, document, escaped, metrics_section, number, tiles

_ERROR_NAMES = ("mATE, m", "mASE, 1 - IoU", "mAOE, rad", "mAVE, m/s", "mAAE, 1 - accuracy")


def evaluation_page(
    title: str,
    evaluation: SplitEvaluation,
    analysis: DetectionAnalysis,
    pictures: Mapping[str, bytes],
    maps: Sequence[MapScore] = (),
) -> str:
    """The page's HTML, which is also well-formed XML. `pictures`: PNG files by the names they have beside the page."""
    samples, metrics = evaluation.truth.samples, evaluation.metrics
    sentence = (
        f"{len(samples):,} samples of {evaluation.scene_count} scenes of {evaluation.split:.60}; in range "
        f"{len(evaluation.matches.truth):,} annotations and {len(evaluation.matches.detections):,} detections."
    )
    if evaluation.official_scene_count is not None and evaluation.scene_count < evaluation.official_scene_count:
        sentence += f" The official split has {evaluation.official_scene_count} scenes: not the official figure."
    body = [
        f"<header><h1>{escaped(title)}</h1><p>{escaped(sentence)}</p></header>",
        tiles(_facts(evaluation, analysis)),
        metrics_section(metrics, "The official nuScenes metric, detection_cvpr_2019."),
        _intervals(analysis),
        _slices(analysis),
        *([_maps(maps)] if maps else []),
        "<section><h2>Curves</h2><p>What is reached at each recall, as the thresholds of the score fall.</p></section>",
        *(_picture(name, data) for name, data in pictures.items()),
    ]
    return document(title, body)


def _facts(evaluation: SplitEvaluation, analysis: DetectionAnalysis) -> list[tuple[str, str]]:
    metrics = evaluation.metrics
    values = {NDS: metrics.nds, MEAN_AP: metrics.mean_ap, **metrics.mean_errors}
    names = {NDS: NDS, MEAN_AP: MEAN_AP, **dict(zip(ERRORS, _ERROR_NAMES, strict=True))}
    intervals = {} if analysis.replicates is None else analysis.replicates.intervals()
    facts = []
    for name, value in values.items():
        shown = f" ({intervals[name].low:.3f} to {intervals[name].high:.3f})" if name in intervals else ""
        facts.append((names[name] + shown, f"{value:.3f}"))
    return facts


def _intervals(analysis: DetectionAnalysis) -> str:
    if analysis.replicates is None:
        return f"<section><h2>How sure</h2><p>{escaped(analysis.why_no_intervals)}.</p></section>"
    sentence = (
        f"95 % intervals: {analysis.draws} times {analysis.scenes} scenes were drawn with replacement, and each draw "
        "was scored as a split of its own."
    )
    if rough(analysis.scenes):
        sentence += " Of so few scenes they are a rough guess, and too narrow."
    figures, intervals = analysis.replicates.figures, analysis.replicates.intervals()
    rows = [_range_row(name, figures[name], intervals[name], SOFT) for name in (NDS, MEAN_AP)]
    rows += [
        _range_row(shown, figures[name], intervals[name], SOFT)
        for name, shown in zip(ERRORS, _ERROR_NAMES, strict=True)
    ]
    rows += [
        _range_row(f"AP of {name.replace('_', ' ')}", figures[name], intervals[name], color)
        for name, color in zip(DETECTION_CLASSES, CLASS_COLORS, strict=True)
    ]
    return _table("How sure", sentence, ("figure", "value", "from", "to", "0 to 1"), rows)


def _range_row(name: str, value: float, interval: Interval, color: Color) -> str:
    swatch = f'<i style="background:{css_color(color)}"></i>'
    cells = f"<td>{swatch}{escaped(name)}</td><td>{number(value)}</td>"
    cells += f"<td>{number(interval.low)}</td><td>{number(interval.high)}</td>"
    if value != value or interval.low != interval.low:
        return f'<tr class="faint">{cells}<td class="range"></td></tr>'
    low, high, middle = (100 * min(max(edge, 0.0), 1.0) for edge in (interval.low, interval.high, value))
    bar = f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{middle:.1f}%"></b>'
    return f'<tr>{cells}<td class="range">{bar}</td></tr>'


def _slices(analysis: DetectionAnalysis) -> str:
    head = ("slice", "boxes", "recall", "mAP*", "mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    rows = []
    for kind, parts in groupby(analysis.slices, key=lambda part: part.kind):
        rows.append(f'<tr class="group"><th colspan="{len(head)}">{escaped(kind)}</th></tr>')
        rows += map(_slice_row, parts)
    sentence = (
        "Annotations of a part of the split. Detections that found an annotation of another part are ignored; those "
        "that found nothing are false positives where they are themselves in the part (distance, speed, scene), and "
        "everywhere for visibility and LiDAR points: read recall there. Recall: share found within 2 m. "
        "mAP*: of the classes present."
    )
    return _table("Slices", sentence, head, rows)


def _slice_row(part: SliceFigures) -> str:
    metrics = part.metrics
    cells = f"<td>{escaped(part.name)}</td><td>{part.annotations}</td>"
    cells += "".join(
        f'<td class="bar"><i style="width:{0 if value != value else 100 * value:.0f}%"></i>{number(value)}</td>'
        for value in (part.recall, metrics.mean_ap_present)
    )
    cells += "".join(
        f"<td>{number(value)}</td>" for value in (metrics.mean_ap, metrics.nds, *metrics.mean_errors.values())
    )
    return f"<tr>{cells}</tr>"


def _maps(maps: Sequence[MapScore]) -> str:
    sentence = (
        "IoU of the segmented map with the map, over all cells that the map reaches; at the threshold that is best for "
        "the class on this split, and at 0.5."
    )
    rows = [
        f"<tr><td>{escaped(score.name)}</td>"
        + "".join(
            f"<td>{number(math.nan if value is None else value)}</td>"
            for value in (score.iou, score.threshold, score.iou_at_half)
        )
        + "</tr>"
        for score in maps
    ]
    return _table("Map", sentence, ("class", "IoU", "at", "IoU at 0.5"), rows)


def _table(heading: str, sentence: str, head: tuple[str, ...], rows: list[str]) -> str:
    header = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    return (
        f"<section><h2>{escaped(heading)}</h2><p>{escaped(sentence)}</p>"
        f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</section>"
    )


def _picture(name: str, data: bytes) -> str:
    """A PNG as it is: lines and letters suffer from JPEG. A click leads to the file beside the page."""
    image = f'<img alt="{escaped(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}" />'
    return f'<figure><a href="./{escaped(name)}">{image}</a></figure>'
