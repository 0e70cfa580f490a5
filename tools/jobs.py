"""Pieces of work side by side, each in a process of its own: started, waited for, stopped, and never left behind."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Generic, TypeVar

import cv2

from datasets.faults import InputRefused
from tools.exit_codes import CommandFailed, Diverged, Interrupted
from tools.freed_memory import keep_freed_memory
from tools.training.interruption import Interruption

Argument = TypeVar("Argument")
Result = TypeVar("Result")

# A started process has neither locks that another thread of this one held nor a CUDA context, which does not survive
# a fork.
_SPAWN = multiprocessing.get_context("spawn")
_SECONDS_BETWEEN_LOOKS = 0.5
_SAID_IN_A_SENTENCE = (InputRefused, CommandFailed, Diverged, Interrupted)


@dataclass(frozen=True)
class Job(Generic[Argument]):
    """A piece of work, how its failure is called, and the file that gets what it prints."""

    name: str
    argument: Argument
    log: Path


@dataclass(frozen=True)
class _Failure:
    """What a process says in the place of a result."""

    error: InputRefused | CommandFailed | Diverged | Interrupted


def run_jobs(
    work: Callable[[Argument], Result], jobs: Sequence[Job[Argument]], at_once: int
) -> Generator[tuple[Job[Argument], Result], None, None]:
    """Every job with its result, in the order in which they finish; so many run at once, begun in the order given.

    `work` is a function of a module, for another process must find it.

    After the first failure nothing is begun, and what runs is interrupted (SIGTERM, once: a training saves a
    checkpoint). Results that come all the same are handed out before the failure is raised: InputRefused,
    CommandFailed or Diverged, with the job's name, or Interrupted after Ctrl-C or SIGTERM. A second signal kills. No
    process outlives this generator, nor this process, if it is killed.
    """
    waiting, running = deque(jobs), list[_Process[Argument, Result]]()
    failure: Exception | None = None
    with Interruption() as interruption:
        try:
            while running or (waiting and failure is None):
                while waiting and failure is None and not interruption.requested and len(running) < at_once:
                    running.append(_Process(work, waiting.popleft()))
                for process in _finished(running):
                    running.remove(process)
                    outcome = process.outcome()
                    if not isinstance(outcome, _Failure):
                        yield process.job, outcome
                    elif failure is None and not interruption.requested:
                        failure = type(outcome.error)(f"{process.job.name}: {outcome.error}")
                        _interrupt(running)
                if interruption.requested and failure is None:
                    failure = Interrupted(f"Interrupted with {len(running)} running and {len(waiting)} to come.")
                    _interrupt(running)
        finally:
            for process in running:
                process.kill()
    if failure is not None:
        raise failure


class _Process(Generic[Argument, Result]):
    """A job in a process of its own."""

    def __init__(self, work: Callable[[Argument], Result], job: Job[Argument]) -> None:
        self.job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.receiver, sender = _SPAWN.Pipe(duplex=False)
        # Not a daemon: those may not have loader processes.
        self._process: SpawnProcess = _SPAWN.Process(target=_in_child, args=(sender, work, job), name=job.name)
        # Ctrl-C comes to all processes of the terminal. This one waits until the child is in a session of its own,
        # where only this process's SIGTERM reaches it: a second signal would not let its checkpoint be saved.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()

    @property
    def ended(self) -> bool:
        """Whether there is an outcome. (By the exit code, too: the pipe of a killed process stays open as long as a
        loader process has it.)
        """
        return self.receiver.poll() or self._process.exitcode is not None

    def outcome(self) -> Result | _Failure:
        """What the process said last; call it once, when it has ended."""
        try:
            # A loader process that hangs would keep the pipe of a killed one open for ever: only what is there is read.
            if not self.receiver.poll():
                raise EOFError
            outcome: Result | _Failure = self.receiver.recv()
        except EOFError:
            self._process.join()
            self.kill()  # what it left behind
            outcome = _Failure(CommandFailed(f"its process ended without a word ({self._how()}); see {self.job.log}."))
        self.receiver.close()
        self._process.join()
        return outcome

    def interrupt(self) -> None:
        """Ask it to put its work away."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and its loader processes, which may outlive it, at once."""
        pid = self._process.pid
        assert pid, "it was started, and 0 would be the group of this process"
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no session of its own yet, or is gone
            self._process.kill()
        self._process.join()

    def _how(self) -> str:
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}"
        memory = ": out of memory?" if -code == signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{memory}"


def _finished(running: Sequence[_Process[Argument, Result]]) -> list[_Process[Argument, Result]]:
    """Those that have an outcome, after waiting for one for a moment."""
    wait([process.receiver for process in running], _SECONDS_BETWEEN_LOOKS)
    return [process for process in running if process.ended]


def _interrupt(running: Sequence[_Process[Argument, Result]]) -> None:
    for process in running:
        process.interrupt()


def _in_child(sender: Connection, work: Callable[[Argument], Result], job: Job[Argument]) -> None:
    """What a process does: the work, with everything that is printed in the log."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    with job.log.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    cv2.setNumThreads(1)  # the work's own threads are torch's; one for each core, in each process, would be too many
    outcome = _tried(work, job)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # nobody is there any more
        sender.send(outcome)


def _tried(work: Callable[[Argument], Result], job: Job[Argument]) -> Result | _Failure:
    try:
        return work(job.argument)
    except KeyboardInterrupt:
        return _Failure(Interrupted("stopped"))
    except _SAID_IN_A_SENTENCE as error:
        return _Failure(error)
    except Exception as error:  # another process's: it says where, and the traceback is in the log
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        return _Failure(CommandFailed(f"{type(error).__name__}: {first_line:.300} (more in {job.log})."))


def _end_with_parent() -> None:
    """Interrupt this process when the one that started it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
