"""The benchmark of the metric and its command: the figures are of the problem, whatever the times are."""

import json
import sys
from pathlib import Path

import pytest

from tools.__main__ import main
from tools.exit_codes import ExitCode


def test_both_ways_give_the_same_and_the_figures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "evaluate", "--scenes", "1", "--detections", "20", "--tracking", "--scratch", str(tmp_path)]
    assert main([*words, "--output", str(tmp_path / "figures.json")]) == ExitCode.FINE
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    said = capsys.readouterr().out
    assert "320 of 320 curves are the same to the last bit; mAP, NDS and errors are the same" in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["samples"], figures["curves"], figures["same_curves"]) == (40, 320, 320)
    assert 0 < figures["annotations"] < 40 * 40
    assert 0 < figures["detections"] < 40 * 20
    assert list(figures["ours"]) == list(figures["devkits"])
    tracking = figures["tracking"]
    # 17 figures of all classes and of each of the seven, which have 40 points of 17 curves each.
    assert tracking["same"] == tracking["figures"] == 17 * 8 + 7 * 17 * 40
    assert "tracking, files to figures" in said
    assert min(tracking["boxes"], tracking["ratio"]) > 0
    assert min(figures[name] for name in ("matching_ratio", "whole_ratio", "memory_ratio")) > 0


def test_without_motmetrics_there_is_no_tracking_to_compare_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "motmetrics", None)
    assert main(["bench", "evaluate", "--tracking"]) == ExitCode.INPUT_REFUSED
    assert 'install Bevel\'s extra "test"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--scenes", "0"], "--scenes must be 1 or more"),
        (["--detections", "501"], "--detections must be from 1 to 500"),
        (["--scratch", "/nowhere"], "--scratch"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "evaluate", *words]) == ExitCode.INPUT_REFUSED
    assert problem in capsys.readouterr().err
