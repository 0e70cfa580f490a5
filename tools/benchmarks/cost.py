"""Seconds and memory of one piece of work, in a process of its own or in this one."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, imports not counted, and the largest resident memory of the process, imports counted."""

    wall: float
    cpu: float
    peak_mib: float


def in_new_process(work: Callable[[Path], T], root: Path) -> T:
    """What the work returns, its cost say, in a process that has done nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (root,))


def measured(work: Callable[[], T]) -> tuple[T, Cost]:
    """What the work returns, and what it cost in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, Cost(wall, cpu, peak_mib("self"))


def peak_mib(process: int | str) -> float:
    """The largest resident memory that a process (its number, or "self") has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
