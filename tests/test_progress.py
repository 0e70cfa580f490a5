"""Progress where there is no terminal: plain lines, with the time that is left once it can be known."""

import pytest

from tools.progress import Progress


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ([], "work: 0/4, 0 s"),
        ([1], "work: 1/4, 0 s"),  # the first one may have waited for what is compiled once
        ([1, 1], "work: 2/4, 0 s, 0 s left"),
        ([3, 1], "work: 4/4, 0 s"),
    ],
)
def test_the_time_that_is_left_is_judged_by_what_follows_the_first_items(
    items: list[int], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("work", 4) as shown:
        for steps in items:
            shown.advance(steps=steps)
    assert capsys.readouterr().err == line + "\n"


def test_what_was_done_before_is_not_counted_in_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 9) as shown:
        shown.begin_at(5)
        shown.advance("a name")
    assert capsys.readouterr().err == "work: 6/9, 0 s, a name\n"
