"""How fast the synthetic world is written, and what its parts cost."""

import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.writing.effort import Effort, peak_bytes
from tools.benchmarks.machine import this_machine
from tools.exit_codes import CommandFailed
from tools.progress import Progress

# Work by kind, in the order of the table.
_KINDS = ("camera", "lidar", "radar", "truth", "scene", "tables")


@dataclass(frozen=True)
class SimulationBench:
    """Keyframes per second with all sweeps, with and without camera sweeps, in one and in several processes.

    Each process first records what does not count: it loads libraries, compiles, and builds its first scene.
    """

    keyframes: int = 16
    """Keyframes of each run; more give steadier figures."""
    image_width: int = 800
    """Width of the pictures in pixels."""
    jobs: tuple[int, ...] = (1, 2)
    """Numbers of processes to measure."""
    seed: int = 0
    """The world; scene 0 is by day."""
    output: Path | None = None
    """A JSON file for the figures."""


@dataclass(frozen=True)
class Run:
    """What one run measured.

    `keyframes_per_second` and `cpu_seconds_per_keyframe` leave out the first job of every process, whose CPU time and
    the seconds until all processes had done it are `warm_up_cpu_seconds` and `warm_up_seconds`.
    """

    jobs: int
    camera_sweeps: bool
    keyframes_per_second: float
    cpu_seconds_per_keyframe: dict[str, float]
    warm_up_seconds: float
    warm_up_cpu_seconds: float
    total_seconds: float
    worker_peak_mib: int
    parent_peak_mib: int


@dataclass(frozen=True)
class Timed:
    """A job's cost and when it was done, seconds from the start of the run."""

    done: float
    effort: Effort


def bench_simulation(arguments: SimulationBench) -> Path | None:
    """Measure, print a table, and write the figures to `arguments.output`. Raises InputRefused for bad numbers."""
    if not arguments.jobs:
        raise InputRefused("--jobs must name at least one number of processes.")
    if min(arguments.jobs) < 1:
        raise InputRefused(f"--jobs must be at least 1, it is {min(arguments.jobs)}.")
    for jobs in arguments.jobs:
        if arguments.keyframes < 4 * jobs + 4:
            raise InputRefused(f"--keyframes must be at least {4 * jobs + 4} to measure {jobs} processes.")
    machine = this_machine()
    print(machine.text(), flush=True)
    cases = [(jobs, sweeps) for sweeps in (False, True) for jobs in arguments.jobs]
    runs = [_run_in_fresh_process(arguments, jobs, sweeps) for jobs, sweeps in cases]
    print(table(arguments.image_width, runs))
    if arguments.output is None:
        return None
    figures = {"machine": asdict(machine), "image_width": arguments.image_width, "runs": [asdict(run) for run in runs]}
    write_atomically(arguments.output, (json.dumps(figures, indent=2) + "\n").encode())
    return arguments.output


def _run_in_fresh_process(arguments: SimulationBench, jobs: int, camera_sweeps: bool) -> Run:
    """A run shall not find what the run before has built, and has its own peak of memory."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="bevel-bench-", ignore_cleanup_errors=True) as folder:
        fresh = spawn.Process(target=_run, args=(Path(folder), arguments, jobs, camera_sweeps, sending))
        fresh.start()
        sending.close()
        try:
            run: Run = receiving.recv()
        except EOFError as error:
            raise CommandFailed("the process that was measured ended before its time.") from error
        finally:
            fresh.terminate()
            fresh.join()
        return run


def _run(folder: Path, arguments: SimulationBench, jobs: int, camera_sweeps: bool, result: Connection) -> None:
    """Write one scene to the folder, measure that, and send the figures."""
    from datasets.synthetic.simulate import simulate  # brings open3d

    config = WorldConfig(
        scenes=1,
        keyframes=arguments.keyframes,
        image_width=arguments.image_width,
        seed=arguments.seed,
        camera_sweeps=camera_sweeps,
        conditions="day",
    )
    name = f"{jobs} {'process' if jobs == 1 else 'processes'}, {'with' if camera_sweeps else 'without'} camera sweeps"
    timed: list[Timed] = []
    with Progress(name, config.keyframes) as shown:
        began = time.perf_counter()

        def note(effort: Effort) -> None:
            timed.append(Timed(time.perf_counter() - began, effort))
            shown.advance(steps=effort.keyframes)

        simulate(folder / "world", config, jobs=jobs, progress=note)
        total = time.perf_counter() - began
    result.send(summed_up(jobs, camera_sweeps, timed, total))


def summed_up(jobs: int, camera_sweeps: bool, timed: Sequence[Timed], total: float) -> Run:
    """The figures of a run from its jobs, in the order in which they were done."""
    firsts: dict[int, Timed] = {}
    for job in timed:
        firsts.setdefault(job.effort.process, job)
    warm_up = max(first.done for first in firsts.values())
    later = [job for job in timed if job is not firsts[job.effort.process]]
    # While one process still warms up the others may have done more: that counts for the cost but not for the speed.
    steady = [job for job in later if job.done > warm_up and job.effort.keyframes]
    seconds = max((job.done for job in steady), default=warm_up) - warm_up
    cpu: defaultdict[str, float] = defaultdict(float)
    for job in later:
        for kind, spent in job.effort.cpu_seconds.items():
            cpu[kind] += spent
    keyframes = sum(job.effort.keyframes for job in later)
    return Run(
        jobs=jobs,
        camera_sweeps=camera_sweeps,
        keyframes_per_second=round(sum(job.effort.keyframes for job in steady) / seconds, 3) if seconds > 0 else 0.0,
        cpu_seconds_per_keyframe={kind: round(cpu[kind] / max(keyframes, 1), 4) for kind in _KINDS},
        warm_up_seconds=round(warm_up, 2),
        warm_up_cpu_seconds=round(sum(sum(f.effort.cpu_seconds.values()) for f in firsts.values()) / len(firsts), 2),
        total_seconds=round(total, 2),
        worker_peak_mib=round(max(job.effort.peak_bytes for job in timed) / 2**20),
        parent_peak_mib=round(peak_bytes() / 2**20),
    )


def table(image_width: int, runs: Sequence[Run]) -> str:
    """The figures for people."""
    lines = [
        f"Pictures of {image_width} x {image_width * 9 // 16}; all LiDAR and radar sweeps.",
        f"{'processes':<11}{'camera':<11}{'keyframes/s':<13}{'CPU s per keyframe, and of what':<60}{'MiB':<12}warm-up",
    ]
    for one in runs:
        cpu = one.cpu_seconds_per_keyframe
        whole = sum(cpu.values())
        parts = ", ".join(f"{kind} {100 * cpu[kind] / max(whole, 1e-9):.0f} %" for kind in _KINDS if cpu[kind] > 0)
        memory = f"{one.worker_peak_mib}" if one.jobs == 1 else f"{one.worker_peak_mib}, {one.parent_peak_mib}"
        lines.append(
            f"{one.jobs:<11}{'12 Hz' if one.camera_sweeps else 'keyframes':<11}{one.keyframes_per_second:<13.2f}"
            f"{f'{whole:.2f}: {parts}':<60}{memory:<12}{one.warm_up_seconds:.1f} s"
        )
    lines.append("MiB: the largest worker and, of several processes, the parent. The warm-up counts in nothing else.")
    return "\n".join(lines)
