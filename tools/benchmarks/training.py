"""What limits a training here, the loader or the network: the steps of `bevel train`, with a clock at the door between.

Nothing is made up for the benchmark: samples, their order, loader processes, the step and the moving average are those
of training. Only checkpoints and logs are left out.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
from tyro.conf import Positional, arg

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.synthetic.config import WorldConfig
from perception.detector import Detector
from perception.modality_dropout import drop_modalities
from tools.benchmarks.cost import peak_mib
from tools.benchmarks.machine import this_machine
from tools.benchmarks.matrix_rate import matrix_rate, step_operations
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.map_scores import with_map_targets
from tools.open_dataset import open_dataset
from tools.presets import preset_or_config
from tools.run_config import RunConfig
from tools.training.config import Precision
from tools.training.loading import LoadedBatch, load_batches
from tools.training.loop import order_of_samples
from tools.training.order import BatchOrder
from tools.training.processes import Processes
from tools.training.step import seed_step
from tools.training.trained_network import TrainedNetwork

_WORLD = WorldConfig(scenes=1, keyframes=4, image_width=1600, seed=7)
_WARM_UP = 5  # steps that do not count: memory is got, kernels are chosen, the loaders get ahead
_MADE_AHEAD = 2  # batches of each loader process: torch's default


@dataclass(frozen=True)
class TrainingBench:
    """Samples a second, the share of the time that the network waits for data, CPU time and memory of both."""

    config: Positional[Annotated[str, arg(metavar="PRESET|CONFIG.JSON")]] = "tiny"
    """What is trained."""
    batch_size: int | None = None
    """Samples of a batch, instead of the config's."""
    precision: Precision | None = None
    """What the network computes in, instead of the config's."""
    workers: int | None = None
    """Loader processes, instead of the config's; 0: the training process loads the samples itself."""
    steps: int = 40
    """Steps that are measured, after five that are not."""
    world: Annotated[str | Path | None, arg(metavar="DATAROOT|SHARDS")] = None
    """Annotated data to train on. Default: four keyframes with pictures of 1600 x 900 are simulated (two minutes)."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads of the training process, otherwise as many as cores."""
    output: Path | None = None
    """A JSON file for the figures."""


@dataclass(frozen=True)
class TrainingFigures:
    """What some steps cost. `waited`: the seconds of `wall` in which the training process had no batch.

    CPU seconds: of the training process while it waited (in which it unpacks batches, and without loader processes
    makes them), of it in the steps, and of the loader processes meanwhile. Peaks: resident memory since each process
    began, pages that processes share counted in each; `worker_peak_mib` is the largest. On a GPU: `device_peak_mib` of
    tensors; `operations` of all steps, two for each multiply-add of convolutions and matrix products (sparse ones
    included), three times those of the forward passes; `matrix_rate`, how many a second the card does in products of
    large matrices in the same precision, just after.
    """

    samples: int
    batch_size: int
    workers: int
    threads: int
    device: str
    wall: float
    waited: float
    waiting_cpu: float
    step_cpu: float
    worker_cpu: float
    parent_peak_mib: float
    worker_peak_mib: float | None
    device_peak_mib: float | None = None
    precision: Precision = "fp32"
    operations: float | None = None
    matrix_rate: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Samples trained on in a second."""
        return self.samples / self.wall

    @property
    def waiting_share(self) -> float:
        """The share of the time in which the network waits for data."""
        return self.waited / self.wall

    @property
    def loading_cpu_per_sample(self) -> float:
        """CPU seconds of all processes to make a sample."""
        return (self.waiting_cpu + self.worker_cpu) / self.samples

    @property
    def model_cpu_per_sample(self) -> float:
        """CPU seconds of the network, the losses and the optimiser for a sample."""
        return self.step_cpu / self.samples

    @property
    def matrix_share(self) -> float | None:
        """The share of the card's matrix rate that the training uses; None without a GPU."""
        if self.operations is None or self.matrix_rate is None:
            return None
        return self.operations / self.wall / self.matrix_rate

    def lines(self) -> list[str]:
        """The figures as a table."""
        device = "" if self.device_peak_mib is None else f", tensors on the GPU {self.device_peak_mib:,.0f}"
        workers = "" if self.worker_peak_mib is None else f", largest loader process {self.worker_peak_mib:,.0f}"
        lines = [
            f"{self.samples} samples in batches of {self.batch_size}, {self.workers} loader processes, "
            f"{self.threads} threads, {self.device}, {self.precision}",
            f"  samples a second          {self.samples_per_second:.2f}",
            f"  waiting for data          {self.waiting_share:.1%} of the time",
            f"  CPU seconds for a sample  loading {self.loading_cpu_per_sample:.3f}, "
            f"model {self.model_cpu_per_sample:.3f}",
            f"  peak memory (MiB)         training process {self.parent_peak_mib:,.0f}{workers}{device}",
        ]
        if self.operations is not None and self.matrix_rate is not None:
            lines.append(
                f"  operations                {self.operations / self.samples / 1e9:,.0f} GFLOP a sample, "
                f"{self.operations / self.wall / 1e12:.1f} TFLOP a second: {self.matrix_share:.1%} of the "
                f"{self.matrix_rate / 1e12:.0f} that large matrix products reach here"
            )
        return lines


def bench_training(arguments: TrainingBench) -> Path | None:
    """Measure, print the figures, and write them to `arguments.output`. Raises InputRefused for bad settings."""
    if arguments.steps < 1 or arguments.batch_size == 0 or min(arguments.workers or 0, arguments.batch_size or 0) < 0:
        raise InputRefused("--steps and --batch-size must be 1 or more, and --workers 0 or more.")
    config = preset_or_config(arguments.config)
    chosen = {name: getattr(arguments, name) for name in ("batch_size", "precision", "workers")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    config = replace(config, training=replace(config.training, **chosen))
    machine = this_machine()
    print(machine.text(), flush=True)
    with TemporaryDirectory() as folder:
        world = arguments.world
        if world is None:
            from datasets.synthetic.simulate import simulate  # brings open3d

            world = Path(folder) / "world"
            simulate(world, _WORLD)
        # A process that has done nothing else, so that its memory is that of a training.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            figures = pool.submit(
                measure_training, config, world, arguments.steps, arguments.device, arguments.threads
            ).result()
    print(f"{arguments.config}: " + "\n".join(figures.lines()))
    if arguments.output is None:
        return None
    of_sample = {
        name: getattr(figures, name)
        for name in (
            "samples_per_second",
            "waiting_share",
            "loading_cpu_per_sample",
            "model_cpu_per_sample",
            "matrix_share",
        )
    }
    content = {"machine": asdict(machine), "config": arguments.config, "figures": asdict(figures) | of_sample}
    write_atomically(arguments.output, (json.dumps(content, indent=2) + "\n").encode())
    return arguments.output


def measure_training(
    config: RunConfig, world: str | Path, steps: int, device: DeviceChoice, threads: int | None
) -> TrainingFigures:
    """Train for `steps` steps on all samples of a world, in this process, and say what that cost.

    Raises InputRefused where the world cannot be read, lacks sensors, has no annotations, or no map where the config
    has that learnt.
    """
    limit_threads(threads)
    alone = Processes(1, 0, choose_device(device))
    network = _Network(config, alone)
    with closing(_batches(config, world, steps)) as batches:
        for step in range(_WARM_UP):
            network.step(next(batches), step)
        loaders = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        worker_cpu, began = sum(map(_cpu_seconds, loaders)), time.perf_counter()
        waited = waiting_cpu = step_cpu = 0.0
        seen: list[tuple[LoadedBatch, int]] = []
        _begin_device_peak(alone.device)
        for step in range(_WARM_UP, _WARM_UP + steps):
            wall, cpu = time.perf_counter(), time.process_time()
            loaded = next(batches)
            waited, loaded_cpu = waited + time.perf_counter() - wall, time.process_time()
            network.step(loaded, step)
            if alone.device.type == "cuda":
                seen.append((loaded, step))
            waiting_cpu, step_cpu = waiting_cpu + loaded_cpu - cpu, step_cpu + time.process_time() - loaded_cpu
        _settle(alone.device)
        ended, device_peak = time.perf_counter(), _device_peak_mib(alone.device)
        # With the weights of the training that has been measured, and nothing of it in the figures so far.
        operations = network.operations(seen) if seen else None
        rate = matrix_rate(alone.device, config.training.precision) if seen else None
        return TrainingFigures(
            samples=steps * config.training.batch_size,
            batch_size=config.training.batch_size,
            workers=config.training.workers,
            threads=torch.get_num_threads(),
            device=str(alone.device),
            wall=ended - began,
            waited=waited,
            waiting_cpu=waiting_cpu,
            step_cpu=step_cpu,
            worker_cpu=sum(map(_cpu_seconds, loaders)) - worker_cpu,
            parent_peak_mib=peak_mib(os.getpid()),
            worker_peak_mib=max(map(peak_mib, loaders), default=None),
            device_peak_mib=device_peak,
            precision=config.training.precision,
            operations=operations,
            matrix_rate=rate,
        )


def _batches(config: RunConfig, world: str | Path, steps: int) -> Generator[LoadedBatch, None, None]:
    """As many as are asked for and some more, so that no loader process has nothing left to do while it is measured."""
    settings = config.training
    dataset = open_dataset(
        world,
        None,
        "all",
        config.sample,
        augmentation=settings.augmentation,
        seed=settings.seed,
        earlier_frames=config.detector.earlier_frames,
    )
    dataset = with_map_targets(dataset, config.detector)
    order = BatchOrder(
        order_of_samples(dataset, settings, processes=1),
        settings.batch_size,
        first_step=0,
        last_step=_WARM_UP + steps + _MADE_AHEAD * settings.workers,
    )
    return load_batches(dataset, order, workers=settings.workers, missing_sensors="refuse")


class _Network:
    """What a step of the training loop does with a batch."""

    def __init__(self, config: RunConfig, processes: Processes) -> None:
        self._settings, self._processes = config.training, processes
        torch.manual_seed(config.training.seed)
        self._detector = Detector(config.detector)
        self._trained = TrainedNetwork(self._detector, config, processes)

    def step(self, loaded: LoadedBatch, step: int) -> None:
        if loaded.batch.boxes is None:
            raise InputRefused(f"sample {loaded.unannotated[0]} has no annotations: name annotated data with --world.")
        self._trained.step(
            [loaded.batch],
            learning_rate=self._settings.learning_rate,
            generator=seed_step(self._settings.seed, step, 0),
            updates=step,
        )

    def operations(self, seen: Sequence[tuple[LoadedBatch, int]]) -> float:
        """Of these steps on these batches, with the sensors that each step did not drop."""
        settings, device = self._settings, self._processes.device
        masked = (
            drop_modalities(loaded.batch, settings.modality_dropout, seed_step(settings.seed, step, 0))
            for loaded, step in seen
        )
        return step_operations(self._detector, [batch.to(device) for batch in masked])


def _begin_device_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _settle(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_peak_mib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _cpu_seconds(process: int) -> float:
    """User and system time of a process; its name, in brackets, may hold anything."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
