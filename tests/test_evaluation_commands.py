"""bevel evaluate's files, bevel compare, bevel verify-nds: what is printed, written and refused."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.nuscenes.detection_analysis.published import check_nds, read_rounded, summary_problems
from datasets.nuscenes.reader import NuScenesReader
from tests.test_detection_evaluation import random_results, write
from tools.__main__ import main
from tools.exit_codes import ExitCode

COLUMNS = ("mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


@pytest.fixture(scope="module")
def results(nuscenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two results files of all samples."""
    folder, reader = tmp_path_factory.mktemp("results"), NuScenesReader(nuscenes_root)
    return [
        write(folder / f"{name}.json", random_results(reader, "all", np.random.default_rng(seed)))
        for seed, name in enumerate("ab")
    ]


def test_evaluate_writes_pictures_a_page_and_the_analysis(
    nuscenes_root: Path, results: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(results[0]), "--data-root", str(nuscenes_root), "--output", str(tmp_path)]
    assert main([*words, "--split", "all", "--bootstrap", "30", "--slices"]) == ExitCode.FINE
    said = capsys.readouterr().out
    assert "95 % intervals, 30 draws of 2 scenes (few scenes: a rough guess):" in said
    assert "distance: 0 to 20 m" in said
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert (content["split"], content["scenes"], content["bootstrap"]["replicates"]) == ("all", 2, 30)
    html = (tmp_path / "evaluation.html").read_text()
    assert len(ET.fromstring(html).findall(".//img")) == 2
    assert "http" not in html and "<script" not in html  # noqa: PT018
    assert "How sure" in html
    for name in ("precision_recall.png", "errors.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.shape[1] == 2400
        assert len(np.unique(picture[::5, ::5].reshape(-1, 3), axis=0)) > 50
    assert main([*words, "--split", "scene-0103"]) == ExitCode.FINE
    assert (
        "no intervals: they come from drawing scenes again and again, and there is only one" in capsys.readouterr().out
    )
    assert "none" in json.loads((tmp_path / "analysis.json").read_text())["bootstrap"]
    assert main([*words, "--split", "all", "--bootstrap", "-1"]) == ExitCode.INPUT_REFUSED
    capsys.readouterr()
    assert main([*words, "--official", "--tracking"]) == ExitCode.INPUT_REFUSED
    assert "on detections, and --tracking scores tracks: leave out one of them" in capsys.readouterr().err


def test_compare(nuscenes_root: Path, results: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", *map(str, results), "--data-root", str(nuscenes_root), "--bootstrap", "40"]
    assert main([*words, "--split", "all", "--output", str(tmp_path / "c.json")]) == ExitCode.FINE
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == [f"A: {results[0]}", f"B: {results[1]}"]
    content = json.loads((tmp_path / "c.json").read_text())
    for source, side in zip(results, ("first", "second"), strict=True):
        evaluated = ["evaluate", str(source), "--data-root", str(nuscenes_root), "--output", str(tmp_path / side)]
        assert main([*evaluated, "--split", "all", "--bootstrap", "0"]) == ExitCode.FINE
        summary = json.loads((tmp_path / side / "metrics_summary.json").read_text())
        assert content["differences"]["NDS"][side] == pytest.approx(summary["nd_score"], rel=1e-12)
        assert content["differences"]["car"][side] == pytest.approx(summary["mean_dist_aps"]["car"], rel=1e-12)
    capsys.readouterr()
    assert main(["compare", str(results[0]), *words[1:2], *words[3:], "--split", "all"]) == ExitCode.FINE
    same = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("NDS", "mAP", "AP "))]
    assert len(same) == 12
    assert all("+0.0000   +0.0000 +0.0000" in line and line.endswith("1.000") for line in same)


def run_folder(folder: Path, split: str, results: Path, named: bool = True) -> str:
    """A run folder as `bevel evaluate` leaves it behind."""
    evaluation = folder / f"evaluation-{split}"
    evaluation.mkdir(parents=True)
    (evaluation / "results.json").write_bytes(results.read_bytes())
    if named:
        (evaluation / "analysis.json").write_text(json.dumps({"split": split}))
    return str(folder)


def test_compare_refuses_what_is_not_comparable(
    nuscenes_root: Path,
    results: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = ["--data-root", str(nuscenes_root), "--bootstrap", "10"]

    def refusal(*words: str) -> str:
        assert main(["compare", *words, *root]) == ExitCode.INPUT_REFUSED
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        return said[0]

    of_all = run_folder(tmp_path / "a", "all", results[0])
    of_val = run_folder(tmp_path / "b", "mini_val", results[1], named=False)
    said = refusal(of_all, of_val)
    assert "different splits cannot be compared" in said
    assert f"{of_all} on all" in said
    assert f"{of_val} on mini_val" in said
    assert "has not been evaluated on all" in refusal(of_all, of_val, "--split", "all")
    assert "there is only one in scene-0103" in refusal(*map(str, results), "--split", "scene-0103")
    assert "no such run folder" in refusal(str(tmp_path / "none"), of_all)
    monkeypatch.chdir(tmp_path)
    assert "tiny: has not been evaluated on all; run bevel evaluate tiny" in refusal("tiny", of_all, "--split", "all")
    assert main(["compare", of_all, *root, run_folder(tmp_path / "c", "all", results[1])]) == ExitCode.FINE
    assert "10 draws of the 2 scenes of all" in capsys.readouterr().out
    # Of the checkpoint that comes with Bevel: where bevel evaluate puts what it makes of it.
    run_folder(Path("runs") / "shipped-tiny", "all", results[1])
    assert main(["compare", "tiny", of_all, *root]) == ExitCode.FINE
    assert capsys.readouterr().out.startswith("A: runs/shipped-tiny/evaluation-all/results.json\n")


def test_nds_of_published_columns() -> None:
    figures = [read_rounded(*pair) for pair in zip(COLUMNS, ("0.50", "0.3", "0.2", "0.4", "1.20", "0.1"), strict=True)]
    columns = dict(zip(COLUMNS, figures, strict=True))
    check = check_nds(columns, None)
    assert float(check.computed) == pytest.approx((5 * 0.5 + 0.7 + 0.8 + 0.6 + 0.0 + 0.9) / 10)
    # Half a step down and up in each column; an error of 1.2 counts 0 however it is rounded.
    assert float(check.low) == pytest.approx((5 * 0.495 + 0.65 + 0.75 + 0.55 + 0.0 + 0.85) / 10)
    assert float(check.high) == pytest.approx((5 * 0.505 + 0.75 + 0.85 + 0.65 + 0.0 + 0.95) / 10)
    assert check_nds(columns, read_rounded("NDS", "0.57")).fits
    assert check_nds(columns, read_rounded("NDS", "57.3")).fits  # from 57.25 on
    wrong = check_nds(columns, read_rounded("NDS", "0.60"))
    assert not wrong.fits
    # 0.595 is 0.0225 more than is admitted.
    assert {name: float(value) for name, value in wrong.remedies.items()} == pytest.approx(
        {"mAP": 0.545, "mATE": 0.075, "mAOE": 0.175, "mAVE": 0.775}
    )


@pytest.mark.parametrize("text", ["x", "-0.1", "nan", "inf", "101", "120%", ""])
def test_what_is_no_figure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="mAP: "):
        read_rounded("mAP", text)


def test_verify_nds(
    nuscenes_root: Path, results: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify-nds", "0.5", "0.3", "0.2", "0.4", "0.3", "0.1", "0.62"]) == ExitCode.FINE
    assert capsys.readouterr().out.rstrip().endswith("fits")
    assert main(["verify-nds", "50.0", "0.300", "0.200", "0.400", "0.300", "0.100", "65.0"]) == ExitCode.DISAGREED
    said = capsys.readouterr()
    assert said.out.rstrip().endswith("does not fit")
    assert "NDS 0.650 does not follow from the columns, which admit 0.61950 to 0.62050" not in said.err  # 5 x 0.0005
    assert "it would with mAP 0.55" in said.err
    assert main(["verify-nds", "0.5", "0.3"]) == ExitCode.INPUT_REFUSED
    table = tmp_path / "rows.csv"
    table.write_text("Method;NDS;mAP;mATE;mASE;mAOE;mAVE;mAAE;FPS\nA;62.0;50.0;0.3;0.2;0.4;0.3;0.1;9\n\n"
                     "B;70.0;50.0;0.3;0.2;0.4;0.3;0.1;9\nC;;50.0;0.3;0.2;0.4;0.3;0.1\n")  # fmt: skip
    capsys.readouterr()
    assert main(["verify-nds", str(table)]) == ExitCode.DISAGREED
    said = capsys.readouterr()
    assert [line.split()[-1] for line in said.out.splitlines()[1:]] == ["fits", "fit", "-"]
    assert "1 of 3 rows do not fit" in said.err
    assert "rows.csv, line 4: NDS 0.7" in said.err
    table.write_text("mAP,mATE\n1,2\n")
    assert main(["verify-nds", str(table)]) == ExitCode.INPUT_REFUSED
    assert "not so: mASE" in capsys.readouterr().err
    evaluated = ["evaluate", str(results[0]), "--data-root", str(nuscenes_root), "--output", str(tmp_path)]
    assert main([*evaluated, "--split", "all", "--bootstrap", "0"]) == ExitCode.FINE
    summary = tmp_path / "metrics_summary.json"
    assert main(["verify-nds", str(summary)]) == ExitCode.FINE
    content = json.loads(summary.read_text())
    assert summary_problems(content) == []
    content["label_tp_errors"]["bus"]["vel_err"] += 0.001
    content["nd_score"] += 1e-6
    summary.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["verify-nds", str(summary)]) == ExitCode.DISAGREED
    said_lines = capsys.readouterr().err.splitlines()
    assert said_lines[0].endswith("2 figures do not fit:")
    assert said_lines[1].startswith("  tp_errors.vel_err is ")
    assert said_lines[2].startswith("  nd_score is ")
    for broken in ("[]", "{}", '{"label_aps": 3}'):
        summary.write_text(broken)
        assert main(["verify-nds", str(summary)]) == ExitCode.INPUT_REFUSED
