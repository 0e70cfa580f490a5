"""Several training processes without torchrun: forked, so that a test does not import everything anew."""

import multiprocessing
import os
import socket
from collections.abc import Callable

_FORK = multiprocessing.get_context("fork")


def run_in_processes(count: int, work: Callable[[], object]) -> list[int | None]:
    """Do the work in so many processes that find one another as those of torchrun do. Returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [_FORK.Process(target=_as_rank, args=(rank, count, port, work)) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def _as_rank(rank: int, count: int, port: int, work: Callable[[], object]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in place.items()}
    work()
