"""How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Never, TypeVar

from tqdm import tqdm

# A log file wants a line now and then, not a line for each item; work that ends within the first interval prints
# nothing but its last line.
_SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


def duration_text(seconds: float) -> str:
    """`42 s`, `3:07 min`, `2:15 h`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


class Progress:
    """A count that moves from `start` to `total`, shown on stderr. Use it as a context manager.

    On a terminal it is a tqdm bar; elsewhere one line every ten seconds and one at the end. `total` None: unknown.
    """

    def __init__(self, description: str, total: int | None, *, start: int = 0) -> None:
        self._description = description
        self._total = total
        self._count = start
        self._note = ""
        self._began = self._last_line = time.monotonic()
        # When the first items were done, and how many: they often take what is compiled or opened once, which says
        # nothing of the time that is left.
        self._first: tuple[float, int] | None = None
        self._bar: tqdm[Never] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=description, total=total, initial=start, dynamic_ncols=True, leave=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print_line()

    def advance(self, note: str = "", *, steps: int = 1) -> None:
        """So many items more are done; `note` (a loss, a name) is shown behind the count."""
        self._count += steps
        self._note = note
        if self._first is None:
            self._first = time.monotonic(), self._count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def begin_at(self, count: int) -> None:
        """So many items were done before: they are counted, but not in the time that is left."""
        self._count = count
        self._first = None
        if self._bar is not None:
            self._bar.initial = self._bar.n = count
            self._bar.refresh()

    def write(self, line: str) -> None:
        """Print a line on stderr without breaking the bar."""
        if self._bar is not None:
            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._began
        of_total = "" if self._total is None else f"/{self._total}"
        line = f"{self._description}: {self._count}{of_total}, {duration_text(elapsed)}"
        if self._total is not None and self._first is not None and self._first[1] < self._count < self._total:
            first_time, first_count = self._first
            rate = (self._last_line - first_time) / (self._count - first_count)
            line += f", {duration_text(rate * (self._total - self._count))} left"
        print(line + (f", {self._note}" if self._note else ""), file=sys.stderr, flush=True)


def progress(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """The items of `iterable`, one by one, while a bar (or plain lines) on stderr counts them.

    `total` is taken from the iterable's length where it has one and none is given.
    """
    if total is None:
        length = getattr(iterable, "__len__", None)
        total = int(length()) if length is not None else None
    with Progress(description, total) as shown:
        for item in iterable:
            yield item
            shown.advance()
