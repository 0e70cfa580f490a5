"""What the studies have measured so far: evidence.json, and means and spreads over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import DetectionAnalysis, known
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics
from tools.class_metrics import class_metrics
from tools.saved_rows import differing_field, read_saved, write_saved


@dataclass(frozen=True)
class EvidenceBasis:
    """What all trainings have in common: the dataset (`samples`: SHA-256 of its tokens and times), splits, budget.

    `config` is the digest of the config that all are made of (tools/evidence_studies.py), `init` the SHA-256 of the
    weights that all begin with, as far as they have such parts.
    """

    config: str
    version: str
    split: str
    val_split: str
    train_scenes: int
    train_samples: int
    val_scenes: int
    val_samples: int
    samples: str
    steps: int
    init: str | None = None


@dataclass(frozen=True)
class Trained:
    """One training and its score. `mean_errors` by their official names; `class_ap` None without boxes.

    `slices`: kind of slice, then name, to the mAP of the classes present. `subsets`: sensors that were there, to mAP
    and NDS without the others; empty unless it was measured. `elsewhere`: the same of other datasets, by their names.
    `seconds`: of the training, by the clock.
    """

    digest: str
    seed: int
    parameters: int
    seconds: float
    mean_ap: float
    nds: float
    mean_errors: dict[str, float | None]
    class_ap: dict[str, float | None]
    slices: dict[str, dict[str, float | None]]
    subsets: dict[str, tuple[float, float]] = field(default_factory=dict)
    elsewhere: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class OtherScenes:
    """Another dataset that trainings are scored on, all of it (`samples`: SHA-256 of its tokens and times)."""

    scenes: int
    count: int
    samples: str


@dataclass(frozen=True)
class Evidence:
    """All trainings of one basis. `latencies`: CPU milliseconds to detect in one frame, by digest; `elsewhere`: the
    other datasets that some are scored on, by name.
    """

    basis: EvidenceBasis
    trained: tuple[Trained, ...] = ()
    latencies: dict[str, float] = field(default_factory=dict)
    elsewhere: dict[str, OtherScenes] = field(default_factory=dict)

    def of(self, digest: str) -> Trained | None:
        """The training of a config; None where it has not been measured."""
        return next((one for one in self.trained if one.digest == digest), None)

    def with_trained(self, trained: Trained) -> "Evidence":
        """One training more, in the place of an earlier one of the same config.

        They have an order of their own: which one is finished first depends on the machine.
        """
        others = (old for old in self.trained if old.digest != trained.digest)
        return replace(self, trained=tuple(sorted((*others, trained), key=lambda one: (one.seed, one.digest))))


@dataclass(frozen=True)
class Spread:
    """The mean of a figure over seeds, and its standard deviation (of the sample; None with one seed)."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self) -> str:
        """With three decimals."""
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ± {self.deviation:.3f}"


def trained_from(
    digest: str, seed: int, parameters: int, seconds: float, metrics: DetectionMetrics, analysis: DetectionAnalysis
) -> Trained:
    """A training with its figures in numbers that JSON has."""
    slices: dict[str, dict[str, float | None]] = {}
    for part in analysis.slices:
        slices.setdefault(part.kind, {})[part.name] = known(part.metrics.mean_ap_present)
    return Trained(
        digest=digest,
        seed=seed,
        parameters=parameters,
        seconds=seconds,
        mean_ap=metrics.mean_ap,
        nds=metrics.nds,
        mean_errors={name: known(error) for name, error in metrics.mean_errors.items()},
        class_ap={row.name: known(row.mean_precision) for row in class_metrics(metrics)},
        slices=slices,
    )


def read_evidence(path: Path, basis: EvidenceBasis) -> Evidence:
    """The file, or no training where there is none.

    Raises InputRefused where it is no such file, or holds trainings of another basis: they cannot be compared.
    """
    if not path.exists():
        return Evidence(basis)
    found = read_saved(Evidence, path, "evidence", "folder")
    name = differing_field(found.basis, basis)
    if name is not None:
        raise InputRefused(
            f"{path} holds trainings with {name.replace('_', ' ')} {getattr(found.basis, name)}, these would have "
            f"{getattr(basis, name)}, and cannot be compared: remove it, or name another folder."
        )
    return found


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write the file, atomically: an interrupted study goes on from it."""
    write_saved(Evidence, path, evidence)
