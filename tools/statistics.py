"""Measure nuScenes datasets: returns of each sensor, boxes, points in boxes, clocks, side by side in one table."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.statistics.measure import Measurement
from datasets.nuscenes.statistics.table import Column, as_json, markdown
from tools.progress import Progress

_SUFFIXES = (".md", ".json")


@dataclass(frozen=True)
class StatisticsArguments:
    """What `bevel statistics` takes."""

    root: Positional[Annotated[Path, arg(metavar="ROOT")]]
    """The dataset to measure; files of it may be missing: what is there counts, and the table says how much."""
    version: str | None = None
    """The version in ROOT (v1.0-mini ...), where there are several."""
    beside: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="ROOT[:VERSION][,ROOT...]")] = ()
    """One column more: a dataset, or several taken together; may be given again. ROOT is held against the first."""
    sweeps: int = 200
    """At most so many sweeps of each sensor are read, evenly spread over those there are."""
    output: Path | None = None
    """Write the table here (.md, or .json with all digits) instead of printing it."""


def statistics(arguments: StatisticsArguments) -> Path | None:
    """Measure, then print the table or write it. Raises InputRefused for what is no dataset and for a bad name."""
    output = arguments.output
    if output is not None and output.suffix not in _SUFFIXES:
        raise InputRefused(f"--output {output}: the name must end in {' or '.join(_SUFFIXES)}.")
    groups = [[(arguments.root, arguments.version)], *(_roots(text) for text in arguments.beside)]
    # Everything is opened before anything is measured: a wrong path is told at once.
    measurements = [Measurement(group, arguments.sweeps) for group in groups]
    columns = []
    for name, measurement in zip(_names(groups), measurements, strict=True):
        with Progress(f"measuring {name}", measurement.steps) as shown:
            columns.append(Column(name, measurement.figures(shown.advance)))
    if output is None:
        print(markdown(columns), end="")
        return None
    text = markdown(columns) if output.suffix == ".md" else json.dumps(as_json(columns), indent=1, allow_nan=False)
    write_atomically(output, text.encode())
    return output


def _roots(text: str) -> list[tuple[Path, str | None]]:
    """What one value of --beside names. A colon begins a version only before `v1.0-`."""
    roots: list[tuple[Path, str | None]] = []
    for part in text.split(","):
        path, colon, version = part.rpartition(":")
        if colon and version.startswith("v1.0-"):
            roots.append((Path(path), version))
        else:
            roots.append((Path(part), None))
    return roots


def _names(groups: list[list[tuple[Path, str | None]]]) -> list[str]:
    """Folder names, whole paths where two columns would have the same."""
    short = [" + ".join(root.resolve().name for root, _ in group) for group in groups]
    if max(Counter(short).values()) == 1:
        return short
    return [" + ".join(f"{root}:{version}" if version else str(root) for root, version in group) for group in groups]
