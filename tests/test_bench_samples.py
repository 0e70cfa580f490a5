"""Ways side by side: each runs as often as was asked, and the table says what was found (see test_bench_data.py)."""

import cv2
import torch

from tools.benchmarks.side_by_side import Agreement, Comparison, interleaved, one_thread


def test_each_way_runs_as_often_as_was_asked() -> None:
    calls: list[str] = []
    times = interleaved({"bevel": lambda: calls.append("a"), "other": lambda: calls.append("b")}, rounds=2, repeats=3)
    assert "".join(calls) == "aaaabbbb" * 2
    assert set(times) == {"bevel", "other"}


def test_a_comparison_says_whether_the_ways_agree() -> None:
    times = {"bevel": 2.0, "other": 5.0}
    comparison = Comparison.of("work", times, Agreement("as said", within=True))
    assert comparison.ratios() == {"other": 2.5}
    assert comparison.lines() == ["work: 2.0 ms (as said)", "    other: 5.0 ms, 2.5 x"]
    off = Comparison.of("work", times, Agreement("far apart", within=False))
    assert off.lines()[0] == "work: 2.0 ms (far apart: OUT OF BOUNDS)"


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with one_thread():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
