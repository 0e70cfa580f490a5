"""Measure what things cost on this machine."""

from pathlib import Path

from tyro.extras import subcommand_type_from_defaults

from tools.benchmarks.simulation import SimulationBench, bench_simulation

# One benchmark for each subcommand.
BenchArguments = subcommand_type_from_defaults({"simulate": SimulationBench()})


def bench(arguments: SimulationBench) -> Path | None:
    """Run one benchmark; returns the file that it wrote, if any. Raises InputRefused for bad numbers."""
    return bench_simulation(arguments)
