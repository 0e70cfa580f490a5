"""Working off jobs in this process or in several of one thread each."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import TypeVar

import cv2
import torch

# Read by glibc when a process starts. Pictures and sweeps are arrays of some megabytes that come and go; by itself
# glibc gives each back to the system and has its pages made anew, a seventh of all the time.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TRIM_THRESHOLD_": 2**31 - 1}

Job = TypeVar("Job")
Result = TypeVar("Result")


def work_off(
    queue: deque[Job], run: Callable[[Job], Result], processes: int, preload: str
) -> Generator[tuple[Job, Result], None, None]:
    """Run the jobs of the queue in their order and give each with its result when it is done.

    Whoever takes the results may append jobs meanwhile. `preload` is the module that worker processes import first.
    The first exception of a job is raised and ends the rest.
    """
    if processes == 1:
        while queue:
            job = queue.popleft()
            yield job, run(job)
        return
    # Children of this process would inherit the threads of torch and Embree half alive. The fork server is a clean
    # process that has imported what they need once and has run none of it.
    for name, limit in _KEPT_MEMORY.items():
        os.environ.setdefault(name, str(limit))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    listening, lifeline = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(listening,))
    running: dict[Future[Result], Job] = {}
    try:
        while queue or running:
            # Few are handed out ahead: memory stays the same whatever the number of jobs.
            while queue and len(running) < 2 * processes:
                job = queue.popleft()
                running[pool.submit(run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BaseException:
        # Nobody will take what is still being made: the workers end at once.
        lifeline.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        lifeline.close()
        listening.close()


def _start_worker(listening: Connection) -> None:
    # Ctrl-C reaches all processes of a terminal: the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, args=(listening,), daemon=True).start()


def _end_with_parent(listening: Connection) -> None:
    """End this process when its parent has gone, even by SIGKILL: only the parent holds the pipe's other end."""
    try:
        listening.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
