"""Freed memory stays with the process: counted in pages that the system had to give, not in time."""

import platform
import subprocess
import sys

import pytest

from tools.freed_memory import keep_freed_memory

_PAGES_OF_LATER_BLOCKS = """
import resource
import numpy as np
from tools.freed_memory import keep_freed_memory

def fill():
    for array in [np.empty(700_000, np.uint8) for _ in range(40)]:  # forty sweeps: 28 MB
        array[::4096] = 1

kept = keep_freed_memory() if {kept} else False
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's settings are glibc's")


def _later_pages(kept: bool) -> tuple[str, int]:
    code = _PAGES_OF_LATER_BLOCKS.format(kept=kept)
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return words[0], int(words[1])


@glibc
def test_pages_that_were_freed_are_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    told, pages = _later_pages(kept=True)
    assert told == "True"
    assert pages < 300  # of 5 x 6,800
    assert _later_pages(kept=False)[1] > 10_000


def test_the_users_own_settings_of_malloc_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")
    assert not keep_freed_memory()
