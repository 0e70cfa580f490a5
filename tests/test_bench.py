"""The benchmarks add up what they are told; nothing here looks at a clock."""

import json
from pathlib import Path

import pytest

from datasets.synthetic.writing.effort import Effort
from tools.__main__ import main
from tools.benchmarks.simulation import Timed, summed_up
from tools.exit_codes import ExitCode


def _job(done: float, process: int, keyframes: int, **cpu_seconds: float) -> Timed:
    return Timed(done, Effort(process, keyframes, cpu_seconds, peak_bytes=process * 2**20))


def test_the_first_job_of_each_process_counts_for_the_warm_up_only() -> None:
    timed = [
        _job(5.0, 100, 2, camera=4.0, scene=3.0),
        _job(6.0, 100, 2, camera=0.5, lidar=0.5),  # the other process still warms up
        _job(7.0, 300, 2, camera=5.0, scene=4.0),
        _job(8.0, 100, 2, camera=0.5, lidar=0.5),
        _job(9.0, 300, 2, camera=1.5),
        _job(9.5, 300, 0, tables=0.3),
    ]
    run = summed_up(2, False, timed, total=10.0)
    assert run.keyframes_per_second == pytest.approx(4 / 2.0)
    assert run.cpu_seconds_per_keyframe == {
        "camera": pytest.approx(2.5 / 6, abs=1e-4),
        "lidar": pytest.approx(1.0 / 6, abs=1e-4),
        "radar": 0.0,
        "truth": 0.0,
        "scene": 0.0,
        "tables": pytest.approx(0.05),
    }
    assert (run.warm_up_seconds, run.warm_up_cpu_seconds, run.worker_peak_mib) == (7.0, 8.0, 300)


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    words = ["bench", "simulate", "--keyframes", "8", "--image-width", "16", "--jobs", "1", "--output", str(output)]
    assert main(words) == ExitCode.FINE
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(output)
    figures = json.loads(output.read_text())
    assert [(run["jobs"], run["camera_sweeps"]) for run in figures["runs"]] == [(1, False), (1, True)]
    for run in figures["runs"]:
        assert run["keyframes_per_second"] > 0
        assert {kind for kind, seconds in run["cpu_seconds_per_keyframe"].items() if seconds > 0} >= {"lidar", "radar"}
    assert figures["machine"]["cores"] >= 1


def test_too_few_keyframes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "simulate", "--keyframes", "3"]) == ExitCode.INPUT_REFUSED
    assert "--keyframes must be at least" in capsys.readouterr().err
