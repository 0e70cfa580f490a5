"""What a piece of work cost: CPU time by kind of work, and the memory of its process."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effort:
    """The cost of one job. `keyframes`: how many it wrote; `peak_bytes`: of its process so far, resident."""

    process: int
    keyframes: int
    cpu_seconds: dict[str, float]
    peak_bytes: int


@dataclass
class Stopwatch:
    """CPU seconds of this process by kind of work."""

    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Adds what happens inside to this kind."""
        began = time.process_time()
        yield
        self.cpu_seconds[kind] = self.cpu_seconds.get(kind, 0.0) + time.process_time() - began

    def effort(self, keyframes: int) -> Effort:
        """The sum, with this process's memory."""
        return Effort(os.getpid(), keyframes, self.cpu_seconds, peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process has held so far, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
