"""Memory that is freed stays with the process, for the next sample or step, which will want as much again."""

import ctypes
import os

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30
_LARGEST_KEPT_BLOCK = 32 * 2**20  # the most that every glibc takes


def keep_freed_memory() -> bool:
    """Let malloc keep up to 1 GiB of what is freed at the top of its heap, in blocks of up to 32 MiB; whether it does.

    Otherwise glibc gives a sample's arrays back to the system when they are freed, and every page is fetched and
    zeroed anew for the next: that takes longer than reading and moving ten LiDAR sweeps. Processes forked afterwards
    (loaders) do the same. Nothing is done where the user has set malloc's own variables, or where there is no glibc.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl; Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
