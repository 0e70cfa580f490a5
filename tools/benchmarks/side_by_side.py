"""Ways to do the same work, timed side by side in one process on one thread, and whether their results agree."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import cv2
import torch


@dataclass(frozen=True)
class Way:
    """One way to do a piece of work: the median of the CPU time, milliseconds."""

    name: str
    milliseconds: float


@dataclass(frozen=True)
class Agreement:
    """How the results of the ways compare, in words with the bound, and whether they keep it."""

    words: str
    within: bool


@dataclass(frozen=True)
class Comparison:
    """Bevel's way to do a piece of work, the others', and whether all agree within the stated bound."""

    work: str
    bevel: Way
    others: tuple[Way, ...]
    agreement: Agreement

    @classmethod
    def of(cls, work: str, times: Mapping[str, float], agreement: Agreement) -> "Comparison":
        """From the times of `interleaved`, of which one is called "bevel"."""
        others = tuple(Way(name, value) for name, value in times.items() if name != "bevel")
        return cls(work, Way("bevel", times["bevel"]), others, agreement)

    def ratios(self) -> dict[str, float]:
        """How many times as long each other way takes."""
        return {way.name: way.milliseconds / self.bevel.milliseconds for way in self.others}

    def lines(self) -> list[str]:
        """The comparison as lines of text."""
        verdict = self.agreement.words + ("" if self.agreement.within else ": OUT OF BOUNDS")
        first = f"{self.work}: {self.bevel.milliseconds:.1f} ms ({verdict})"
        ratios = self.ratios()
        return [first, *(f"    {way.name}: {way.milliseconds:.1f} ms, {ratios[way.name]:.1f} x" for way in self.others)]


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time (other processes on the machine make a wall clock useless), the median of each way.

    Each way runs `repeats` times in a row, after once that is not counted, then the next way, in `rounds` rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            # Once for the caches and the heap, which the way before has filled with its own.
            run()
            for _ in range(repeats):
                start = time.process_time()
                run()
                times[name].append(1e3 * (time.process_time() - start))
    return {name: median(values) for name, values in times.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in torch and in cv2, as many as before afterwards."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
