"""What a robustness run has measured so far: its JSON file, and the shares of the clean score that are kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import known
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics
from tools.class_metrics import class_metrics
from tools.saved_rows import differing_field, read_saved, write_saved

CLEAN = "clean"
Score = Literal["nds", "mean_ap"]


@dataclass(frozen=True)
class Basis:
    """What rows must have in common to be compared. `weights` and `samples` are SHA-256 sums (of tokens in order)."""

    weights: str
    config: str
    version: str
    scenes: tuple[str, ...]
    samples: str
    seed: int
    missing_sensors: str


@dataclass(frozen=True)
class Row:
    """The score under one severity of one corruption (`severity` from 1), or one case (`graded` False), or clean (0).

    `definition` is the corruption with all its strengths. `errors`: the five mean errors by their official names, None
    where not defined; `class_ap`: the mean AP by class, None without boxes.
    """

    corruption: str
    severity: int
    label: str
    graded: bool
    source: str
    definition: str
    nds: float
    mean_ap: float
    errors: dict[str, float | None]
    class_ap: dict[str, float | None]

    @property
    def cell(self) -> tuple[str, int]:
        """What a row is found by."""
        return self.corruption, self.severity


@dataclass(frozen=True)
class Measured:
    """All rows of one basis, in the order in which they were measured."""

    basis: Basis
    rows: tuple[Row, ...] = ()

    def of(self, corruption: str, severity: int = 0) -> Row | None:
        """The row of a cell; None where it is not measured yet."""
        return next((row for row in self.rows if row.cell == (corruption, severity)), None)

    def with_row(self, row: Row) -> "Measured":
        """One row more, in the place of an earlier one of the same cell."""
        return replace(self, rows=(*(old for old in self.rows if old.cell != row.cell), row))

    def kept(self, row: Row, score: Score) -> float | None:
        """The row's score as a share of the clean one; None where there is no clean one, or it is 0."""
        clean = self.of(CLEAN)
        whole: float = 0.0 if clean is None else getattr(clean, score)
        return getattr(row, score) / whole if whole > 0 else None

    def names(self, graded: bool) -> tuple[str, ...]:
        """The corruptions that have rows, in the order of the rows."""
        return tuple(dict.fromkeys(r.corruption for r in self.rows if r.corruption != CLEAN and r.graded == graded))

    def shares(self, corruption: str, score: Score) -> list[float]:
        """What each severity or case of a corruption keeps, those that are defined, severity by severity."""
        rows = sorted((row for row in self.rows if row.corruption == corruption), key=lambda row: row.severity)
        return [share for row in rows if (share := self.kept(row, score)) is not None]

    def summary(self, score: Score) -> "Summary | None":
        """The means over all graded corruptions; None where nothing is defined."""
        by_name = {name: self.shares(name, score) for name in self.names(graded=True)}
        cells = [share for shares in by_name.values() for share in shares]
        if not cells:
            return None
        means = [mean(shares) for shares in by_name.values() if shares]
        worst = min((row for row in self.rows if row.graded), key=lambda row: self.kept(row, score) or 0.0)
        return Summary(mean(means), mean(cells), worst, min(cells))


@dataclass(frozen=True)
class Summary:
    """Of one score. `resilience`: RoboBEV's and Robo3D's mRR, the mean over corruptions of the mean over severities of
    the kept share. `resistance`: MultiCorrupt's mRA, the mean over all cells (1 - mRA of mAP is nuScenes-C's RCE).
    `worst`: the cell that keeps least, with its share.
    """

    resilience: float
    resistance: float
    worst: Row
    worst_share: float


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return math.fsum(values) / len(values)


def row_of(
    cell: tuple[str, int], label: str, graded: bool, source: str, definition: str, metrics: DetectionMetrics
) -> Row:
    """The row of a cell from its metrics."""
    return Row(
        corruption=cell[0],
        severity=cell[1],
        label=label,
        graded=graded,
        source=source,
        definition=definition,
        nds=metrics.nds,
        mean_ap=metrics.mean_ap,
        errors={name: known(error) for name, error in metrics.mean_errors.items()},
        class_ap={row.name: known(row.mean_precision) for row in class_metrics(metrics)},
    )


def read_rows(path: Path, basis: Basis) -> Measured:
    """What is in the file; nothing yet where there is none.

    Raises InputRefused for a file that is damaged or whose rows are of another basis, naming the difference.
    """
    if not path.exists():
        return Measured(basis)
    found = read_measured(path)
    name = differing_field(found.basis, basis)
    if name is not None:
        raise InputRefused(
            f"{path} holds rows of other {name.replace('_', ' ')}, which cannot be compared: "
            "remove it, or name another --output."
        )
    return found


def read_measured(path: Path) -> Measured:
    """What is in the file, whatever its basis. Raises InputRefused where it is no such file."""
    return read_saved(Measured, path, "file of a robustness run", "--output")


def write_rows(path: Path, measured: Measured) -> None:
    """Write the file, atomically: an interrupted run goes on from it."""
    write_saved(Measured, path, measured)
