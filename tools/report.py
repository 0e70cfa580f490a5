"""One HTML page that tells what was run and what came of it: no script, nothing from the network."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import torch

from datasets.atomic_file import write_atomically
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics
from tools.class_metrics import class_metrics, distance_thresholds
from tools.drawing.canvas import jpeg_bytes, printable, shrunk
from tools.drawing.curves import Curve, chart, smoothed
from tools.drawing.palette import CLASS_COLORS, Color

# Pictures in the page are this wide; the page links to the files themselves.
_PICTURE_WIDTH = 1800
_ERRORS = ("ATE m", "ASE", "AOE rad", "AVE m/s", "AAE")


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, a sentence below it, and lines of plain text as a program printed them."""

    heading: str
    sentence: str
    text: str = ""


@dataclass(frozen=True)
class ReportContent:
    """What a report shows. Every text is escaped; whoever writes one need not think of it.

    `facts`: name and value, in this order, at the top. `training_log`: rows of a run's metrics.jsonl.
    `pictures`: PNG files, the first one shown at the top. `environment` and `config`: shown folded.
    """

    title: str
    sentence: str
    facts: Sequence[tuple[str, str]]
    commands: Sequence[str]
    training_log: Sequence[Mapping[str, float]]
    metrics: DetectionMetrics | None
    metrics_sentence: str
    pictures: Sequence[Path]
    sections: Sequence[Section]
    environment: Mapping[str, object]
    config: str


def write_report(output: Path, content: ReportContent) -> Path:
    """Write the page to the file `output`, with its pictures inside, and return its path.

    Raises OSError where a picture cannot be read or the page cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page(content, output.parent).encode())
    return output


def read_training_log(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; lines that are not rows of numbers (a cut last line) are left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = {str(name): float(value) for name, value in json.loads(line).items()}
        except (ValueError, TypeError, AttributeError):
            continue
        if "step" in row:
            rows.append(row)
    return rows


def seconds_in_training(rows: Sequence[Mapping[str, float]]) -> float:
    """Of all sessions of a training. (In logs of earlier versions the clock begins anew with each.)"""
    clock = [row["seconds"] for row in rows if "seconds" in row]
    return sum((now for now, after in pairwise([*clock, 0.0]) if after < now), 0.0)


def page(content: ReportContent, folder: Path) -> str:
    """The page's HTML, which is also well-formed XML. Links to pictures are relative to `folder`."""
    body = [
        f"<header><h1>{escaped(content.title)}</h1><p>{escaped(content.sentence)}</p></header>",
        tiles(content.facts),
        *(_figure(path, folder) for path in content.pictures[:1]),
        _training(content.training_log),
        "" if content.metrics is None else metrics_section(content.metrics, content.metrics_sentence),
        *(_section(section) for section in content.sections),
    ]
    if len(content.pictures) > 1:
        body.append("<section><h2>More keyframes</h2></section>")
        body += [_figure(path, folder) for path in content.pictures[1:]]
    body.append(_how(content))
    return document(content.title, body)


def document(title: str, body: Sequence[str]) -> str:
    """A whole page of elements that are already HTML."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def escaped(value: object) -> str:
    """Escaped, without control characters but for line feeds."""
    return "\n".join(html.escape(printable(line)) for line in str(value).split("\n"))


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """The figures that one sees first: name and value."""
    parts = "".join(f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span></div>" for name, value in facts)
    return f'<div class="tiles">{parts}</div>' if parts else ""


def _figure(path: Path, folder: Path) -> str:
    """The picture as a JPEG inside the page; a click leads to the file where it lies beside the page."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise OSError(f"{path} is not a picture")
    picture = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if picture.shape[1] > _PICTURE_WIDTH:
        picture = shrunk(picture, round(picture.shape[0] * _PICTURE_WIDTH / picture.shape[1]), _PICTURE_WIDTH)
    data = base64.b64encode(jpeg_bytes(picture, 84)).decode()
    image = f'<img alt="{escaped(path.stem)}" src="data:image/jpeg;base64,{data}" />'
    if path.resolve().is_relative_to(folder.resolve()):
        link = html.escape(path.resolve().relative_to(folder.resolve()).as_posix().replace("%", "%25"))
        image = f'<a href="./{link}">{image}</a>'
    return f"<figure>{image}</figure>"


def _training(rows: Sequence[Mapping[str, float]]) -> str:
    if not any("loss" in row for row in rows):
        return ""
    parts = sorted({name for row in rows for name in row if name.startswith("loss/")})
    total = _curve(rows, "loss", "loss", "#4fc3f7")
    half = max(1, len(rows) // 40)
    smooth = Curve("loss", total.steps, smoothed(total.values, half), total.color)
    charts = chart([smooth], "Loss by step", faint=[total])
    if parts:
        raw = [
            _curve(rows, name, name.removeprefix("loss/"), css_color(CLASS_COLORS[index % len(CLASS_COLORS)]))
            for index, name in enumerate(parts)
        ]
        curves = [Curve(one.name, one.steps, smoothed(one.values, half), one.color) for one in raw]
        charts = f"<div>{charts}<p>Loss by step: each batch, and the mean around it</p></div>"
        charts += f"<div>{chart(curves, 'Parts of the loss')}<p>Its parts</p></div>"
    if any("val/NDS" in row for row in rows):
        figures = [_curve(rows, "val/NDS", "NDS", "#4fc3f7"), _curve(rows, "val/mAP", "mAP", "#ffb74d")]
        charts += f"<div>{chart(figures, 'Validation')}<p>NDS and mAP of the averaged weights, by step</p></div>"
    first, last = smooth.values[0], smooth.values[-1]
    sentence = (
        f"{len(rows)} steps; the loss fell from {first:.2f} to {last:.2f} (means around the first and last step)."
    )
    if last >= first:
        sentence = f"{len(rows)} steps; the loss went from {first:.2f} to {last:.2f}: it did not fall."
    return f'<section><h2>Training</h2><p>{sentence}</p><div class="charts">{charts}</div></section>'


def _curve(rows: Sequence[Mapping[str, float]], key: str, name: str, color: str) -> Curve:
    known = [row for row in rows if key in row and math.isfinite(row[key])]
    return Curve(name, [row["step"] for row in known], [row[key] for row in known], color)


def css_color(color: Color) -> str:
    """The colour as CSS has it."""
    return "#" + "".join(f"{channel:02x}" for channel in color)


def metrics_section(metrics: DetectionMetrics, sentence: str) -> str:
    """The table of the classes, with the means below it."""
    head = ["class", "boxes", "AP", *(f"{threshold:g} m" for threshold in distance_thresholds(metrics)), *_ERRORS]
    rows, errors = [], metrics.mean_errors
    for row, color in zip(class_metrics(metrics), CLASS_COLORS, strict=True):
        mean = row.mean_precision
        swatch = f'<i style="background:{css_color(color)}"></i>'
        cells = f"<td>{swatch}{escaped(row.name.replace('_', ' '))}</td><td>{row.box_count}</td>"
        cells += f'<td class="bar"><i style="width:{0 if mean != mean else 100 * mean:.0f}%"></i>{number(mean)}</td>'
        cells += "".join(f"<td>{number(value)}</td>" for value in (*row.precisions, *row.errors))
        rows.append(f'<tr class="{"" if row.box_count else "faint"}">{cells}</tr>')
    summary = (
        f"mATE {number(errors['trans_err'])} m, mASE {number(errors['scale_err'])}, "
        f"mAOE {number(errors['orient_err'])} rad, mAVE {number(errors['vel_err'])} m/s, "
        f"mAAE {number(errors['attr_err'])}"
    )
    header = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    return (
        f"<section><h2>Metrics</h2><p>{escaped(sentence)}</p>"
        f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="faint">{summary}. AP at four distances between the centres; the errors of true positives at 2 m. '
        "A class without boxes counts in the official means with AP 0 and errors 1.</p></section>"
    )


def number(value: float) -> str:
    """Three decimals, a dash for what is not defined."""
    return "–" if value != value else f"{value:.3f}"  # noqa: RUF001 (a dash stands for "not defined")


def _section(section: Section) -> str:
    text = f"<pre>{escaped(section.text)}</pre>" if section.text else ""
    return f"<section><h2>{escaped(section.heading)}</h2><p>{escaped(section.sentence)}</p>{text}</section>"


def _how(content: ReportContent) -> str:
    """The commands, and folded the versions and the config: what one needs to do it again."""
    commands = escaped("\n".join(content.commands))
    environment = escaped(json.dumps(dict(content.environment), indent=2, default=str))
    return (
        "<section><h2>Do it again</h2><p>These commands, one after another, do what this page shows.</p>"
        f"<pre>{commands}</pre>"
        f"<details><summary>Versions and machine</summary><pre>{environment}</pre></details>"
        f"<details><summary>Configuration</summary><pre>{escaped(content.config)}</pre></details></section>"
    )


_STYLE = """
:root { color-scheme: dark; }
body { margin: 0; background: #0b0e14; color: #dfe4ec; font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 32px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 48px 0 6px; }
p { margin: 4px 0 12px; color: #a0aaba; max-width: 78ch; }
.faint, p.faint { color: #76829a; font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 24px 0; }
.tiles div { background: #1a1f29; border-radius: 8px; padding: 14px 16px; }
.tiles b { display: block; font-size: 24px; font-weight: 600; color: #f2f5f9; }
.tiles span { color: #8f9bb0; font-size: 13px; }
figure { margin: 16px 0; }
img { width: 100%; display: block; border-radius: 8px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 16px; }
svg { width: 100%; background: #11151d; border-radius: 8px; }
.grid { stroke: #2c3442; }
.tick { fill: #8f9bb0; font-size: 12px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid #222936; white-space: nowrap; }
th { color: #8f9bb0; font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
td > i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 9px; }
td.bar { position: relative; min-width: 90px; }
td.range { position: relative; min-width: 220px; }
td.range > i { position: absolute; top: 50%; height: 4px; margin: -2px 0 0; background: #2f6f8f; border-radius: 2px; }
td.range > b { position: absolute; top: 50%; width: 10px; height: 10px; margin: -5px 0 0 -5px; background: #4fc3f7;
  border-radius: 5px; }
tr.group > th { padding-top: 18px; color: #dfe4ec; font-weight: 600; text-align: left; }
td.bar > i { position: absolute; left: 0; bottom: 0; height: 3px; margin: 0; background: #4fc3f7; }
pre { background: #11151d; border-radius: 8px; padding: 14px 16px; overflow-x: auto; font: 13px/1.5 monospace; }
details { margin: 10px 0; }
summary { cursor: pointer; color: #a0aaba; }
"""
