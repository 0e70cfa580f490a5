"""What `bevel evaluate` tells beyond the figures: intervals and slices in words, analysis.json, pictures, a page."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.nuscenes.detection_analysis.analysis import DetectionAnalysis, analyse, analysis_content, rough
from datasets.nuscenes.detection_analysis.bootstrap import MEAN_AP, NDS
from datasets.nuscenes.detection_analysis.slices import SliceFigures
from datasets.nuscenes.detection_metric.configuration import ERRORS
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation
from tools.drawing.canvas import png_bytes
from tools.drawing.metric_plots import draw_errors, draw_precision_recall
from tools.evaluation_page import evaluation_page
from tools.map_scores import MapScore
from tools.progress import Progress

ANALYSIS, PAGE = "analysis.json", "evaluation.html"
PRECISION_RECALL, ERROR_CURVES = "precision_recall.png", "errors.png"
SHORT_NAMES = dict(zip(ERRORS, ("mATE", "mASE", "mAOE", "mAVE", "mAAE"), strict=True))
# Fewer detections are resampled in a second or two; nobody needs to see how far it is.
_SHOWN_FROM = 100_000


def analyse_and_write(
    evaluation: SplitEvaluation,
    root: Path,
    version: str,
    draws: int,
    output: Path,
    title: str,
    maps: Sequence[MapScore] = (),
) -> DetectionAnalysis:
    """The analysis, and its files beside metrics_summary.json in `output`. `title`: of the page; `maps`: in both."""
    analysis = _analysed(evaluation, root, version, draws)
    map_content = {"map": [asdict(score) for score in maps]} if maps else {}
    content = json.dumps(analysis_content(analysis) | map_content, indent=2, allow_nan=False) + "\n"
    write_atomically(output / ANALYSIS, content.encode())
    heading = f"{evaluation.split:.40}, {_count(evaluation.scene_count, 'scene')}, NDS {evaluation.metrics.nds:.3f}"
    pictures = {
        PRECISION_RECALL: png_bytes(draw_precision_recall(evaluation.metrics, heading)),
        ERROR_CURVES: png_bytes(draw_errors(evaluation.metrics, heading)),
    }
    for name, picture in pictures.items():
        write_atomically(output / name, picture)
    write_atomically(output / PAGE, evaluation_page(title, evaluation, analysis, pictures, maps).encode())
    return analysis


def _analysed(evaluation: SplitEvaluation, root: Path, version: str, draws: int) -> DetectionAnalysis:
    if not draws or len(evaluation.matches.detections) < _SHOWN_FROM:
        return analyse(evaluation, root, version, draws)
    with Progress("drawing scenes", draws) as shown:
        return analyse(evaluation, root, version, draws, lambda steps: shown.advance(steps=steps))


def intervals_text(analysis: DetectionAnalysis) -> str:
    """The intervals of mAP, NDS and the errors in two lines, or why there are none."""
    if analysis.replicates is None:
        return analysis.why_no_intervals
    intervals = analysis.replicates.intervals()
    named = {MEAN_AP: MEAN_AP, NDS: NDS} | SHORT_NAMES
    parts = [f"{short} {intervals[name].low:.3f} to {intervals[name].high:.3f}" for name, short in named.items()]
    doubt = " (few scenes: a rough guess)" if rough(analysis.scenes) else ""
    return (
        f"95 % intervals, {analysis.draws} draws of {_count(analysis.scenes, 'scene')}{doubt}:\n"
        f"  {'   '.join(parts[:2])}\n  {'   '.join(parts[2:])}"
    )


def slices_text(slices: Sequence[SliceFigures]) -> str:
    """A line for each slice."""
    if not slices:
        return "no slices"
    width = max(len(f"{part.kind}: {part.name}") for part in slices) + 2
    lines = [f"{'slice':<{width}}{'boxes':>8}{'recall':>8}{'mAP*':>8}{'mAP':>8}{'NDS':>8}"]
    lines[0] += "".join(f"{name:>8}" for name in SHORT_NAMES.values())
    for part in slices:
        metrics = part.metrics
        numbers = (part.recall, metrics.mean_ap_present, metrics.mean_ap, metrics.nds, *metrics.mean_errors.values())
        cells = "".join(f"{number:>8.3f}" for number in numbers)
        lines.append(f"{f'{part.kind}: {part.name}':<{width}}{part.annotations:>8}{cells}")
    lines.append("recall: share found within 2 m; mAP*: of the classes present in the slice")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
