"""Jobs in processes of their own: results, failures in one sentence, and nothing that is left behind."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.faults import InputRefused
from tools.exit_codes import CommandFailed, Diverged, Interrupted
from tools.jobs import Job, run_jobs


def spell(argument: str) -> str:
    """Prints, from Python and from below it."""
    print(f"spelling {argument}")
    os.write(2, b"below\n")
    return " ".join(argument)


def until_stopped(pipe: Path) -> str:
    """Says in a pipe that it has begun, waits for a signal, and puts its work away."""
    with pipe.open("r+b", buffering=0) as file:  # also to read: it must not break when its reader ends
        file.write(b"begun ")
        try:
            while True:
                signal.pause()
        except KeyboardInterrupt:
            file.write(b"put away")
    return "half"


def wait_for(pipe: Path) -> None:
    """Until the other one has begun."""
    with pipe.open("rb", buffering=0) as file:
        assert file.read(6) == b"begun "


def refused_beside(pipe: Path) -> str:
    wait_for(pipe)
    raise InputRefused("the file is no file.")


def finished_beside(pipe: Path) -> str:
    wait_for(pipe)
    return "whole"


def diverged(argument: str) -> str:
    raise Diverged(f"{argument} diverged.")


def mistaken(argument: str) -> str:
    return argument[len(argument)]


def killed(argument: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return argument


def killed_beside_its_loader(pipe: Path) -> str:
    """A process that hangs is left behind, and holds what the killed one had open."""
    if os.fork() == 0:
        until_stopped(pipe)
        os._exit(0)
    wait_for(pipe)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def jobs_of(folder: Path, *arguments: str) -> list[Job[str]]:
    return [Job(f"job {argument}", argument, folder / "logs" / f"{argument}.log") for argument in arguments]


def waiting_and(work: str, folder: Path) -> list[Job[tuple[str, Path]]]:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    return [Job(name, (name, pipe), folder / f"{name}.log") for name in ("until_stopped", work)]


def named(argument: tuple[str, Path]) -> str:
    """The work that the argument names."""
    works: dict[str, Callable[[Path], str]] = {
        "until_stopped": until_stopped,
        "refused_beside": refused_beside,
        "finished_beside": finished_beside,
    }
    return works[argument[0]](argument[1])


def test_every_job_has_its_result_and_prints_into_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of(tmp_path, "one", "two", "six")
    results = {job.name: result for job, result in run_jobs(spell, jobs, at_once=2)}
    assert results == {"job one": "o n e", "job two": "t w o", "job six": "s i x"}
    assert sorted((tmp_path / "logs" / "two.log").read_text().split("\n")) == ["", "below", "spelling two"]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert list(run_jobs(spell, [], at_once=2)) == []


@pytest.mark.parametrize(
    ("work", "error", "sentence"),
    [
        (diverged, Diverged, r"^job x: x diverged\.$"),
        (mistaken, CommandFailed, r"^job x: IndexError: string index out of range \(more in .*x\.log\)\.$"),
        (killed, CommandFailed, r"^job x: its process ended without a word \(SIGKILL: out of memory\?\); see .*x\.log"),
    ],
)
def test_a_failure_is_one_sentence_with_the_jobs_name(
    work: Callable[[str], str], error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=sentence):
        list(run_jobs(work, jobs_of(tmp_path, "x"), at_once=1))
    assert ("Traceback" in (tmp_path / "logs" / "x.log").read_text()) == (work is mistaken)


def test_what_a_killed_job_leaves_behind_is_neither_waited_for_nor_left(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as said:
        with pytest.raises(CommandFailed, match=r"without a word \(SIGKILL"):
            list(run_jobs(killed_beside_its_loader, [Job("x", pipe, tmp_path / "log")], at_once=1))
        os.set_blocking(said.fileno(), True)
        assert said.read() == b""  # the end: nobody has it open to write any more


def test_after_a_failure_the_others_put_their_work_away(tmp_path: Path) -> None:
    outcomes = run_jobs(named, waiting_and("refused_beside", tmp_path), at_once=2)
    assert next(outcomes)[1] == "half"
    with pytest.raises(InputRefused, match=r"^refused_beside: the file is no file\.$"):
        next(outcomes)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_lets_what_runs_put_its_work_away_and_begins_nothing(tmp_path: Path) -> None:
    jobs = waiting_and("finished_beside", tmp_path)
    never = Job("never", ("until_stopped", tmp_path / "none"), tmp_path / "never.log")
    outcomes = run_jobs(named, [*jobs, never], at_once=2)
    assert next(outcomes)[1] == "whole"
    os.kill(os.getpid(), signal.SIGINT)
    assert next(outcomes)[1] == "half"
    with pytest.raises(Interrupted, match="1 running and 1 to come"):
        next(outcomes)
    assert not (tmp_path / "never.log").exists()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_jobs_do_not_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "from pathlib import Path; from tests.test_jobs import Job, run_jobs, until_stopped\n"
        "if __name__ == '__main__':\n"
        f"    list(run_jobs(until_stopped, [Job('x', Path({str(pipe)!r}), Path({str(tmp_path / 'log')!r}))], 1))\n"
    )
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as parent, pipe.open("rb") as said:
        assert os.read(said.fileno(), 6) == b"begun "
        parent.kill()
        assert select.select([said], [], [], 60)[0]
        assert os.read(said.fileno(), 8) == b"put away"
