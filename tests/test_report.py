"""The report: one page, well-formed, everything escaped, nothing fetched."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics
from tools.drawing.canvas import blank, png_bytes
from tools.drawing.curves import Curve, chart, smoothed
from tools.report import ReportContent, Section, page, read_training_log, write_report

EVIL = "<script>alert(1)</script>&\"'\x1b[31m\n"
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")


def metrics(value: float = 0.5) -> DetectionMetrics:
    return DetectionMetrics(
        mean_ap=value,
        nds=value,
        mean_errors=dict.fromkeys(ERRORS, value) | {"orient_err": math.nan},
        average_precision={name: dict.fromkeys((0.5, 1.0, 2.0, 4.0), value) for name in DETECTION_CLASSES},
        class_errors={name: dict.fromkeys(ERRORS, value) for name in DETECTION_CLASSES},
        ground_truth={name: index for index, name in enumerate(DETECTION_CLASSES)},
        curves={},
    )


def content(pictures: tuple[Path, ...] = (), text: str = "plain") -> ReportContent:
    return ReportContent(
        title=text,
        sentence=text,
        facts=[(text, text)],
        commands=[text],
        training_log=[{"step": float(step), "loss": 9.0 / (step + 1), "loss/heatmap": 1.0} for step in range(50)],
        metrics=metrics(),
        metrics_sentence=text,
        pictures=pictures,
        sections=[Section(text, text, text)],
        environment={text: text},
        config=text,
    )


def parsed(html: str) -> ET.Element:
    """The page as XML: any tag that is not closed, any stray < or & fails here."""
    return ET.fromstring(html)


def picture(path: Path) -> Path:
    path.write_bytes(png_bytes(blank(20, 30, (200, 30, 30))))
    return path


def test_page_is_well_formed_and_escapes_everything(tmp_path: Path) -> None:
    evil = picture(tmp_path / "<img onerror=x> & %20.png")
    html = write_report(tmp_path / "report.html", content((evil,), EVIL)).read_text()
    root = parsed(html)
    assert "<script" not in html
    assert "\x1b" not in html
    assert not list(root.iter("script"))
    assert [image.attrib.keys() for image in root.iter("img")] == [{"alt", "src"}]
    assert (root.find("head/title").text or "").startswith("<script>alert(1)")  # type: ignore[union-attr]


def test_nothing_is_fetched(tmp_path: Path) -> None:
    html = page(content((picture(tmp_path / "a.png"),)), tmp_path)
    links = re.findall(r'(?:src|href)="([^"]{0,60})', html)
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "./")) for link in links)
    assert "url(" not in html
    assert "@import" not in html


def test_picture_outside_the_folder_is_shown_but_not_linked(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    outside = picture(tmp_path / "elsewhere" / "a.png")
    root = parsed(page(content((outside,)), tmp_path / "report"))
    assert len(list(root.iter("img"))) == 1
    assert not list(root.iter("a"))


def test_missing_picture_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a picture"):
        write_report(tmp_path / "report.html", content((tmp_path / "none.png",)))
    assert not list(tmp_path.iterdir())


def test_table_holds_the_metrics() -> None:
    rows = list(parsed(page(content(), Path())).iter("tr"))
    assert len(rows) == 1 + len(DETECTION_CLASSES)
    truck = ["".join(cell.itertext()) for cell in rows[2]]
    assert truck[:3] == ["truck", "1", "0.500"]
    car = ["".join(cell.itertext()) for cell in rows[1]]
    assert car[1] == "0"
    assert "0.500" not in car  # a class without boxes has no figures


def test_empty_report() -> None:
    nothing = ReportContent("t", "s", [], [], [], None, "", [], [], {}, "")
    root = parsed(page(nothing, Path()))
    assert not list(root.iter("svg"))
    assert not list(root.iter("table"))


def test_loss_that_does_not_fall_is_said_to() -> None:
    rows = [{"step": float(step), "loss": 1.0 + step} for step in range(10)]
    html = page(ReportContent("t", "s", [], [], rows, None, "", [], [], {}, ""), Path())
    assert "it did not fall" in html


def test_curve_starts_and_ends_where_its_values_do() -> None:
    svg = ET.fromstring(chart([Curve("a", [0.0, 50.0, 100.0], [4.0, 2.0, 0.0], "#fff")], "t"))
    path = next(element for element in svg.iter() if element.tag.endswith("path"))
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path.attrib["d"])[1:]]
    (first_u, first_v), (_, middle_v), (last_u, last_v) = points
    assert (first_u, last_u) == (52.0, 546.0)
    assert first_v == pytest.approx(14.0)
    assert middle_v == pytest.approx((first_v + last_v) / 2)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf], [0.0], [1e-12, 1e12]])
def test_odd_curves(values: list[float]) -> None:
    ET.fromstring(chart([Curve("a", list(map(float, range(len(values)))), values, "#fff")], "a < b"))


def test_smoothed_keeps_the_length_and_the_mean_of_a_line() -> None:
    assert smoothed([], 3) == []
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0], 1) == [1.5, 2.0, 3.0, 4.0, 4.5]


def test_cut_training_log_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 2.5}\n{"step": 1, "loss": 2}\n[1]\n{"loss": 3}\n{"step": 2, "lo')
    assert read_training_log(path) == [{"step": 0.0, "loss": 2.5}, {"step": 1.0, "loss": 2.0}]
    assert read_training_log(tmp_path / "none") == []
