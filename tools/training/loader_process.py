"""A loader process: it is forked, has one thread, and leaves the signals that stop a training to the training."""

import multiprocessing
import multiprocessing.context
import multiprocessing.popen_fork
import signal

import cv2
import torch


class LoaderContext(multiprocessing.context.ForkContext):
    """How torch's DataLoader starts a process, and how it ends one that does not end by itself: by SIGKILL.

    Forked: a loader process starts at once, with all modules imported, and shares the pages of what is there (the index
    and the database of objects are mapped; Python's own lists are copied bit by bit as they are used). Only the thread
    that forks goes on in the child. The pools of OpenMP and OpenCV would wait for theirs in vain: `start_loader`
    switches them off. A lock that another thread holds (TensorBoard's writer, say) stays locked: making samples takes
    none of those, and fsspec starts threads of its own anew after a fork. CUDA does not survive a fork at all: samples
    are made on the CPU.
    """

    class Process(multiprocessing.context.ForkProcess):
        """A forked process whose terminate() does not ask."""

        @staticmethod
        def _Popen(process_obj: multiprocessing.process.BaseProcess) -> "_Forked":  # noqa: N802
            return _Forked(process_obj)


class _Forked(multiprocessing.popen_fork.Popen):
    def terminate(self) -> None:
        # The last resort of the DataLoader, and of Python at its end, which then waits without a limit.
        self.kill()


def start_loader(worker: int) -> None:
    """What a loader process does first."""
    # One thread for each: they are many.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # A terminal, a scheduler or torchrun signals every process of a group. Were a loader to die of that, torch would
    # raise an error in the middle of the step that is to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
