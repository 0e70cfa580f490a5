"""bevel robustness: the clean row is the evaluation's, finished rows stay, others are refused, the means are right."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from datasets.faults import InputRefused
from tests.nuscenes_fixture import write_dataset
from tools.__main__ import main
from tools.drawing.heat_table import HeatCell, HeatRow, draw_heat_table, share_color
from tools.drawing.palette import TILE
from tools.exit_codes import ExitCode
from tools.robustness_page import heat_rows, page, summary_text
from tools.robustness_rows import CLEAN, Basis, Measured, Row, read_rows, write_rows

BASIS = Basis("weights", "config", "v1.0-mini", ("scene-0103",), "samples", 0, "refuse")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("robustness")
    write_dataset(root, ("scene-0103", "scene-0916"), keyframes=2)
    return root


def row(name: str, severity: int, nds: float, mean_ap: float = 0.1) -> Row:
    graded = name not in (CLEAN, "sensor_subset")
    return Row(name, severity, f"label {severity}", graded, "source", "definition", nds, mean_ap, {}, {})


def words(run: Path, data: Path, output: Path, *more: str) -> list[str]:
    return ["robustness", str(run), "--data-root", str(data), "--output", str(output), "--device", "cpu", *more]


def rows_of(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    content = json.loads((output / "robustness.json").read_text())
    return {(found["corruption"], found["severity"]): found for found in content["rows"]}


def test_a_run_is_measured_clean_and_corrupted_and_goes_on_where_it_was_stopped(
    untrained_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--corruptions", "points_dropped", "dark", "--severities", "1", "3")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(words(untrained_run, data, whole, *asked)) == ExitCode.FINE
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(whole)
    assert "NDS: mRR" in said.out or "nothing to compare" in said.out
    assert "4 samples of scene-0103,scene-0916 of v1.0-mini, seed 0: 5 of 5 rows" in said.err
    assert list(rows_of(whole)) == [
        (CLEAN, 0),
        *(("dark", severity) for severity in (1, 3)),
        *(("points_dropped", severity) for severity in (1, 3)),
    ]
    assert cv2.imread(str(whole / "robustness.png")) is not None
    text = (whole / "robustness.md").read_text()
    assert "| points_dropped | - 70%: " in text
    assert sorted(path.name for path in whole.iterdir()) == ["robustness.json", "robustness.md", "robustness.png"]

    # The clean row is what the evaluation says.
    evaluation = ["evaluate", str(untrained_run), "--data-root", str(data), "--output", str(tmp_path / "evaluation")]
    assert main([*evaluation, "--device", "cpu"]) == ExitCode.FINE
    summary = json.loads((tmp_path / "evaluation" / "metrics_summary.json").read_text())
    clean = rows_of(whole)[CLEAN, 0]
    assert (clean["nds"], clean["mean_ap"]) == (summary["nd_score"], summary["mean_ap"])
    # Spoilt points are other detections.
    errors = [(found["nds"], found["errors"]["trans_err"], found["mean_ap"]) for found in rows_of(whole).values()]
    assert len(set(errors)) > 2

    # Ctrl-C while the first rows are told, then the same command, with loader processes and batches.
    class Stopping(io.StringIO):
        def write(self, text: str) -> int:
            if "dark 3 (x 0.3)" in text:
                raise KeyboardInterrupt
            return super().write(text)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Stopping())
        assert main(words(untrained_run, data, stopped, *asked)) == ExitCode.INTERRUPTED
        assert "3 rows are in" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert len(rows_of(stopped)) == 3
    capsys.readouterr()
    assert main(words(untrained_run, data, stopped, *asked, "--workers", "1", "--batch-size", "2")) == ExitCode.FINE
    assert "2 of 5 rows are to be measured" in capsys.readouterr().err
    for cell, found in rows_of(whole).items():
        again = rows_of(stopped)[cell]
        assert again["definition"] == found["definition"]
        assert again["nds"] == pytest.approx(found["nds"], abs=1e-4)

    # One scene, or another seed, is another thing to measure.
    assert main(words(untrained_run, data, whole, *asked, "--seed", "1")) == ExitCode.INPUT_REFUSED
    assert "holds rows of other seed" in capsys.readouterr().err
    assert main(words(untrained_run, data, whole, *asked, "--scenes", "1")) == ExitCode.INPUT_REFUSED
    assert "holds rows of other scenes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (
            ("--corruptions", "bad_luck"),
            "'bad_luck' is none of those for this run's sensors",
        ),
        (("--corruptions", "dark", "--severities", "4"), "--severities must lie between 1 and 3"),
        (("--severities", "0"), "--severities must lie between 1 and"),
        (("--scenes", "3"), "--scenes must lie between 1 and 2"),
        (("--scenes", "0"), "--scenes must lie between 1 and 2"),
        (("--batch-size", "0"), "--batch-size"),
        (("--split", "scene-0001"), "scene-0001"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    more: tuple[str, ...],
    named: str,
    untrained_run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(untrained_run, data, tmp_path / "out", *more)) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert named in said[0]
    assert not (tmp_path / "out").exists()


def test_no_run_and_an_output_that_is_a_file_are_refused(
    untrained_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(words(tmp_path, data, tmp_path / "out")) == ExitCode.INPUT_REFUSED
    assert "is no run folder" in capsys.readouterr().err
    assert main(words(untrained_run, data, tmp_path / "file")) == ExitCode.INPUT_REFUSED
    assert "is a file" in capsys.readouterr().err


def test_rows_come_back_as_they_were_written_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    assert read_rows(path, BASIS) == Measured(BASIS)
    measured = Measured(BASIS, (row(CLEAN, 0, 0.4), row("fog", 1, 0.2)))
    write_rows(path, measured)
    assert read_rows(path, BASIS) == measured
    for field in ("weights", "config", "version", "samples", "missing_sensors"):
        with pytest.raises(InputRefused, match=f"holds rows of other {field.replace('_', ' ')}"):
            read_rows(path, replace(BASIS, **{field: "other"}))
    whole = path.read_bytes()
    for broken in (whole[:-40], b"", b"{}", whole.replace(b'"nds": 0.2', b'"nds": "much"')):
        path.write_bytes(broken)
        with pytest.raises(InputRefused, match="is no file of a robustness run"):
            read_rows(path, BASIS)


def test_a_cell_that_is_measured_again_has_one_row() -> None:
    measured = Measured(BASIS, (row(CLEAN, 0, 0.4),)).with_row(row("fog", 1, 0.2)).with_row(row("fog", 1, 0.3))
    assert [found.nds for found in measured.rows] == [0.4, 0.3]


def test_the_means_are_those_of_the_benchmarks() -> None:
    measured = Measured(
        BASIS,
        (
            row(CLEAN, 0, 0.5, 0.4),
            row("fog", 2, 0.2, 0.1),
            row("fog", 1, 0.4, 0.3),
            row("dark", 1, 0.45, 0.4),
            row("sensor_subset", 1, 0.05),
        ),
    )
    assert measured.shares("fog", "nds") == pytest.approx([0.8, 0.4])
    summary = measured.summary("nds")
    assert summary is not None
    # mRR: the mean of 0.6 and 0.9; mRA: the mean of 0.8, 0.4, 0.9. Cases count in neither.
    assert summary.resilience == pytest.approx(0.75)
    assert summary.resistance == pytest.approx(0.7)
    assert summary.worst.cell == ("fog", 2)
    assert summary.worst_share == pytest.approx(0.4)
    of_precision = measured.summary("mean_ap")
    assert of_precision is not None
    assert of_precision.resistance == pytest.approx((0.25 + 0.75 + 1.0) / 3)
    text = page("Robustness of it", measured, 81)
    assert "| fog | label 1: 0.400 (80%) | label 2: 0.200 (40%) | 0.600 | 0.400 | source |" in text
    assert "| dark | label 1: 0.450 (90%) |  | 0.900 | 0.900 | source |" in text
    assert "| sensor_subset | label 1 | 0.050 (10%) | 0.100 (25%) |" in text
    assert "NDS: mRR 0.750" in summary_text(measured)
    assert [shown.name for shown in heat_rows(measured)] == ["fog", "dark", "sensor subset"]


def test_nothing_is_a_share_of_nothing() -> None:
    measured = Measured(BASIS, (row(CLEAN, 0, 0.0, 0.0), row("fog", 1, 0.0, 0.0)))
    assert measured.summary("nds") is None
    assert "NDS: nothing to compare" in summary_text(measured)
    assert "| fog | label 1: 0.000 | - | - | source |" in page("it", measured, 3)
    assert heat_rows(measured)[0].cells[0].share is None
    assert summary_text(Measured(BASIS)).count("nothing to compare") == 2


def test_a_tile_has_the_colour_of_its_share_and_long_rows_go_on_below() -> None:
    cells = tuple(
        HeatCell(number, "label", share, "0.1") for number, share in ((1, 0.0), (3, 0.5), (9, 1.0), (14, None))
    )
    picture = draw_heat_table("title", [HeatRow("name", cells, 0.5), HeatRow("other", (), None)])
    assert int((picture == torch.tensor(TILE, dtype=torch.uint8)).all(dim=2).sum()) > 100 * 30

    def places(share: float) -> torch.Tensor:
        return (picture == torch.tensor(share_color(share), dtype=torch.uint8)).all(dim=2).nonzero()

    def middle(share: float) -> tuple[float, float]:
        # Of the tile: the scale below has each colour in one column only, of 12 pixels.
        found = places(share)
        rows = found[:, 0][found[:, 0] < picture.shape[0] - 56]
        return float(rows.float().mean()), float(found[: len(rows), 1].float().mean())

    top, left = middle(0.0)
    assert middle(0.5) == (pytest.approx(top, abs=3), pytest.approx(left + 2 * 149, abs=12))
    below, again = middle(1.0)
    assert below > top + 40
    assert again == pytest.approx(left, abs=12)
    assert share_color(1.7) == share_color(1.0)
    assert share_color(-1.0) == share_color(0.0)
    assert draw_heat_table("empty", []).shape[2] == 3
