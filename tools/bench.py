"""Measure what things cost on this machine."""

from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from tools.benchmarks.data import DataBench, bench_data
from tools.benchmarks.evaluation import EvaluationBench, bench_evaluation
from tools.benchmarks.model import ModelBench, bench_model
from tools.benchmarks.simulation import SimulationBench, bench_simulation
from tools.benchmarks.training import TrainingBench, bench_training

BenchArguments = (
    Annotated[SimulationBench, subcommand("simulate", description="What writing the synthetic world costs.")]
    | Annotated[DataBench, subcommand("data", description="What reading tables, sensor files and samples costs.")]
    | Annotated[EvaluationBench, subcommand("evaluate", description="The detection metric beside the devkit's.")]
    | Annotated[ModelBench, subcommand("model", description="What the network costs, branch by branch.")]
    | Annotated[TrainingBench, subcommand("train", description="What training costs: loading and the network.")]
)
"""What `bevel bench` takes: one of its benchmarks, with that benchmark's arguments."""


def bench(arguments: SimulationBench | DataBench | EvaluationBench | ModelBench | TrainingBench) -> Path | None:
    """Run one benchmark; returns the file that it wrote, if any. Raises InputRefused for bad numbers."""
    if isinstance(arguments, SimulationBench):
        return bench_simulation(arguments)
    if isinstance(arguments, EvaluationBench):
        return bench_evaluation(arguments)
    if isinstance(arguments, ModelBench):
        return bench_model(arguments)
    if isinstance(arguments, TrainingBench):
        return bench_training(arguments)
    return bench_data(arguments)
