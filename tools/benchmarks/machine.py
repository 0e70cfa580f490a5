"""The machine that figures were measured on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Processor and system. `cores` are those at this process's disposal; `load` is that of the last minute."""

    cpu: str
    cores: int
    memory_gib: float
    load: float
    system: str
    python: str

    def text(self) -> str:
        """One line."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, load {self.load:.1f} at the start; "
            f"{self.system}, Python {self.python}"
        )


def this_machine() -> Machine:
    """What this process finds around it."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        load=round(os.getloadavg()[0], 2),
        system=platform.platform(terse=True),
        python=platform.python_version(),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
