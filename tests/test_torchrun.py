"""What torchrun starts finds together, ends with one sentence, and goes on by itself after a restart."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import DistStoreError, HashStore, Store

from datasets.faults import InputRefused
from tests.small_run import small_config
from tests.test_training_processes import numbers, run_of
from tools.devices import choose_device
from tools.exit_codes import CommandFailed, Diverged, ExitCode
from tools.run_config import RunConfig, write_config
from tools.training.attempts import Attempt, agree_on_attempt
from tools.training.processes import join_processes
from tools.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]

# The first process is stopped just before the checkpoint of step 10 gets its name, the first time it comes there.
# Nodes count restarts for themselves: a node that was started again for another's sake has not counted that.
_FAULTY = """
import os, pathlib, signal, sys
os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ["GROUP_RANK"]
stopped = pathlib.Path(__file__).with_name("stopped")
if os.environ["RANK"] == "0" and not stopped.exists() and "FAULT" in os.environ:
    def watch(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("step_00000010"):
            stopped.touch()
            os.kill(os.getpid(), getattr(signal, os.environ["FAULT"]))
    sys.addaudithook(watch)
from tools.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def torchrun(
    root: Path, folder: Path, restarts: int, *options: str, nodes: int = 1, fault: str = ""
) -> tuple[int, str]:
    """Train folder/c.json in two processes into folder/run. The highest exit code and what was said on stderr."""
    (folder / "train.py").write_text(_FAULTY)
    words = ["-m", "torch.distributed.run", f"--nproc-per-node={2 // nodes}", f"--max-restarts={restarts}"]
    words += ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    words += [] if nodes == 1 else [f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    words += [str(folder / "train.py"), "train", str(folder / "c.json"), "--data-root", str(root)]
    words += ["--output", str(folder / "run"), "--device", "cpu", "--threads", "1", *options]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    environment |= {"FAULT": fault} if fault else {}
    with (folder / "stderr").open("w") as said, ExitStack() as stack:
        agents = [subprocess.Popen([sys.executable, *words], env=environment, stderr=said) for _ in range(nodes)]
        for agent in agents:
            stack.callback(agent.kill)
        codes = [agent.wait(timeout=280) for agent in agents]
    return max(codes), (folder / "stderr").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def given(folder: Path, steps: int, process_timeout: float) -> RunConfig:
    config = small_config(steps, checkpoint_interval=5)
    config = replace(config, training=replace(config.training, process_timeout=process_timeout))
    write_config(folder / "c.json", config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "options"), [(1, ()), (1, ("--shard",)), (2, ())])
def test_a_killed_training_is_started_again_and_ends_in_the_same_bits(
    nuscenes_root: Path, tmp_path: Path, nodes: int, options: tuple[str, ...]
) -> None:
    config = given(tmp_path, 12, process_timeout=60.0)
    whole = run_of(nuscenes_root, tmp_path / "whole", config, processes=2, shard=bool(options))
    code, said = torchrun(nuscenes_root, tmp_path, 3, *options, nodes=nodes, fault="SIGKILL")
    assert code == ExitCode.FINE, said
    run = tmp_path / "run"
    assert "from step 5\n" in (run / "train.log").read_text()
    expected, found = (load_file(one / "weights.safetensors") for one in (whole, run))
    assert all(expected[name].equal(found[name]) for name in expected)
    assert numbers(whole, "loss").equal(numbers(run, "loss"))


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_training(nuscenes_root: Path, tmp_path: Path) -> None:
    given(tmp_path, 1_000_000, process_timeout=10.0)
    code, said = torchrun(nuscenes_root, tmp_path, 0, fault="SIGSTOP")
    assert code == ExitCode.FAILED
    before, _, sentence = said.partition("bevel: ")
    assert sentence.startswith("Another training process died, or did not answer for 10 s (")
    assert "Traceback" not in before  # torchrun's own comes after it


@pytest.mark.slow
def test_a_run_that_torchrun_found_is_refused_in_every_attempt(nuscenes_root: Path, tmp_path: Path) -> None:
    config = given(tmp_path, 1, process_timeout=60.0)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.start(config)
    code, said = torchrun(nuscenes_root, tmp_path, 1)
    assert code == ExitCode.FAILED  # torchrun's own
    assert said.count("run holds a run already: pass --resume to go on, or another --output.") >= 2
    assert not run.weights.exists()


def attempt_of_two(store: HashStore) -> tuple[Attempt, Attempt]:
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda rank: agree_on_attempt(store, rank, 2, timedelta(seconds=60)), (0, 1))
    return first, second


def test_attempts_are_agreed_on_whatever_earlier_processes_left_in_the_store() -> None:
    store = HashStore()
    store.set("bevel/rank 1", "who died before it was answered")
    first = attempt_of_two(store)
    assert all(one.begun is None and one.refused is None for one in first)
    first[0].keys.set("address", "gone")
    first[0].note_begun(Path("/runs/x"))
    second = attempt_of_two(store)
    assert not second[1].keys.check(["address"])
    second[0].keys.set("address", "here")
    assert second[1].keys.get("address") == b"here"
    assert all(one.begun == Path("/runs/x") for one in second)
    second[1].note_refused(Diverged("no finite loss."))
    for one in attempt_of_two(store):
        assert isinstance(one.refused, Diverged)
        assert str(one.refused) == "no finite loss."
    with pytest.raises(DistStoreError, match=r"processes \[2\] did not come"), ThreadPoolExecutor() as threads:
        list(threads.map(lambda rank: agree_on_attempt(store, rank, 3, timedelta(seconds=1)), (0, 1)))


def test_a_refusal_is_said_again_in_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(store: Store, rank: int, count: int, timeout: timedelta) -> Attempt:
        return agree_on_attempt(store, 0, 1, timeout)

    def start(count: int) -> None:
        """The store of another torchrun, for so many processes, of which the others are left out."""
        store = HashStore()
        monkeypatch.setattr("tools.training.processes.rendezvous", lambda *_, **__: iter([(store, 0, count)]))

    monkeypatch.setattr("tools.training.processes.agree_on_attempt", alone)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *_, **__: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    start(2)
    with pytest.raises(InputRefused, match="no such split"), join_processes("cpu", 10.0):
        raise InputRefused("no such split.")
    with pytest.raises(InputRefused, match="no such split"), join_processes("cpu", 10.0):
        pytest.fail("it was refused before")
    # A node or a disk that was missing when a run was gone on with may be there in the next attempt; a divergence stays
    start(2)
    with join_processes("cpu", 10.0) as processes:
        processes.note_begun(Path("runs/x"))
    with pytest.raises(InputRefused, match="was trained by 2"), join_processes("cpu", 10.0):
        raise InputRefused("It was trained by 2 processes.")
    with pytest.raises(Diverged), join_processes("cpu", 10.0):
        raise Diverged("no finite loss.")
    with pytest.raises(Diverged), join_processes("cpu", 10.0):
        pytest.fail("it has diverged")
    # One process alone may train several runs, as `bevel tune` does.
    start(1)
    with pytest.raises(Diverged), join_processes("cpu", 10.0):
        raise Diverged("no finite loss.")
    with join_processes("cpu", 10.0) as processes:
        assert processes.attempt is not None


def test_a_group_that_does_not_come_together_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputRefused, match=r"RANK expected.*unset WORLD_SIZE"), join_processes("cpu", 1.0):
        pytest.fail("it has no rank")
    place = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CommandFailed, match="did not answer for 1 s"), join_processes("cpu", 1.0):
        pytest.fail("it is alone")


def test_a_gpu_that_is_too_small_or_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandFailed, match=r"\(CUDA out of memory\): lower training\.batch_size"):  # noqa: SIM117
        with join_processes("cpu", 1.0):
            raise torch.OutOfMemoryError("CUDA out of memory\nand more")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(InputRefused, match=r"Process 3 of this machine has no GPU .* finds 2"):
        choose_device("auto", 2)
