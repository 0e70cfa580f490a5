"""The comparison for readers: a page of Markdown with a table for each study."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence

from tools.evaluation_analysis import SHORT_NAMES
from tools.evidence_rows import Evidence, EvidenceBasis, Spread, Trained
from tools.evidence_studies import Study, Variant

_TITLES: Mapping[Study, str] = {
    "sensors": "Sensors: what each is worth, neither pose nor memory",
    "temporal": "Sensors with pose and a memory of the frame before",
    "strategies": "Fusion strategies: same branches, same head",
    "subsets": "One set of weights, any subset of sensors",
    "losses": "Losses beside detection, between the sensors' BEVs",
    "tasks": "Tasks beside detection",
}
# Kinds of slices of the sensors' studies, as the slices call them.
_SLICES = ("distance", "conditions")
_WIDTH = 120  # characters of a line, as far as one column allows


def evidence_page(evidence: Evidence, rows: Mapping[Study, tuple[Variant, ...]]) -> str:
    """Those of the studies that have something to compare: two rows. Figures are means over seeds ± their standard
    deviation.
    """
    basis = evidence.basis
    seeds = 1 + max((one.seed for one in evidence.trained), default=0)
    what = (
        f"{basis.train_samples} samples of {basis.train_scenes} scenes ({basis.split} of {basis.version}) are trained "
        f"on, {basis.steps} steps each; {basis.val_samples} samples of {basis.val_scenes} other scenes "
        f"({basis.val_split}) are scored by the official metric. {_begun(basis)}"
        "Mean ± standard deviation over the seeds that are there. Seconds: of a training, by the clock, with whatever "
        "ran beside it. "
        f"{len(evidence.trained)} trainings."
    )
    parts = ["# Evidence\n", textwrap.fill(what, _WIDTH) + "\n"]
    for study, of_study in rows.items():
        found = [(row.name, _trainings(evidence, row, seeds)) for row in of_study]
        if study == "subsets":  # the row without dropout may have been trained for another study
            found = [(name, [one for one in trainings if one.subsets]) for name, trainings in found]
        found = [(name, trainings) for name, trainings in found if trainings]
        if len(found) > 1:
            parts += [f"## {_TITLES[study]}\n", *_tables(study, found, evidence)]
    return "\n".join(parts)


def _begun(basis: EvidenceBasis) -> str:
    if basis.init is None:
        return ""
    return f"Those that have a sensor branch of the given weights (SHA-256 {basis.init[:12]}) start from it. "


def _trainings(evidence: Evidence, row: Variant, seeds: int) -> list[Trained]:
    of_seeds = (evidence.of(row.trial(seed).digest) for seed in range(seeds))
    return [trained for trained in of_seeds if trained is not None]


_Rows = Sequence[tuple[str, list[Trained]]]


def _tables(study: Study, found: _Rows, evidence: Evidence) -> list[str]:
    tables = [_main_table(found, evidence.latencies if study == "strategies" else {})]
    if study in ("sensors", "temporal"):
        tables.append(f"AP by class:\n\n{_named_table(found, [[one.class_ap for one in t] for _, t in found])}")
        for kind in _SLICES:
            figures = [[one.slices.get(kind, {}) for one in trainings] for _, trainings in found]
            tables.append(f"mAP by {kind}, of the classes present:\n\n{_named_table(found, figures)}")
    for name, scenes in evidence.elsewhere.items():
        title = f"The dataset {name}, {scenes.count} samples of {scenes.scenes} scenes that none was trained on:"
        tables += [f"{title}\n\n{table}" for table in _table_of_other_scenes(name, found)]
    if study == "subsets":
        for index, score in enumerate(("mAP", "NDS")):
            scores = [
                [{name: both[index] for name, both in one.subsets.items()} for one in trainings]
                for _, trainings in found
            ]
            tables.append(f"{score} with the sensors that are there:\n\n{_named_table(found, scores)}")
    return [f"{table}\n" for table in tables]


def _table_of_other_scenes(name: str, found: _Rows) -> list[str]:
    """One table, or none where fewer than two rows have scores; there may be fewer seeds than in the main table."""
    scores = {row: [one.elsewhere[name] for one in trainings if name in one.elsewhere] for row, trainings in found}
    lines = [
        [row, str(len(of_row)), *(_spread([both[index] for both in of_row]) for index in (0, 1))]
        for row, of_row in scores.items()
        if of_row
    ]
    return [_table(["", "seeds", "mAP", "NDS"], lines)] if len(lines) > 1 else []


def _main_table(found: _Rows, latencies: Mapping[str, float]) -> str:
    latency = ["CPU ms a frame"] if latencies else []
    head = ["", "seeds", "parameters", "seconds", *latency, "mAP", "NDS", *SHORT_NAMES.values()]
    lines = []
    for name, trainings in found:
        seconds = statistics.fmean(one.seconds for one in trainings)
        cells = [name, str(len(trainings)), f"{trainings[0].parameters / 1e3:.0f} k", f"{seconds:.0f}"]
        if latencies:
            # Taken of the first seed's weights; what is there of a stopped study may be of later ones.
            taken = next((latencies[one.digest] for one in trainings if one.digest in latencies), None)
            cells.append("-" if taken is None else f"{taken:.0f}")
        cells += [_spread([one.mean_ap for one in trainings]), _spread([one.nds for one in trainings])]
        cells += [_spread([one.mean_errors.get(error) for one in trainings]) for error in SHORT_NAMES]
        lines.append(cells)
    return _table(head, lines)


def _named_table(found: _Rows, figures: Sequence[Sequence[Mapping[str, float | None]]]) -> str:
    """`figures`: by name, of each training of each row. A column for each name that some training has a figure for."""
    of_all = [named for of_row in figures for named in of_row]
    names = dict.fromkeys(name for named in of_all for name, figure in named.items() if figure is not None)
    lines = [
        [row, *(_spread([named.get(name) for named in of_row]) for name in names)]
        for (row, _), of_row in zip(found, figures, strict=True)
    ]
    return _table(["", *names], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Padded, to be read as text too; cut into several where it would be too wide, each with the first column."""
    widths = [max(3, *(len(line[column]) for line in (head, *lines))) for column in range(len(head))]
    parts: list[list[int]] = []
    left = 0
    for column, width in enumerate(widths[1:], start=1):
        if width + 3 > left:
            parts.append([0])
            left = _WIDTH - (widths[0] + 4)
        parts[-1].append(column)
        left -= width + 3
    ruled = (head, ["-" * width for width in widths], *lines)
    return "\n\n".join(
        "\n".join(_line([line[column].ljust(widths[column]) for column in part]) for line in ruled) for part in parts
    )


def _spread(values: Sequence[float | None]) -> str:
    """A figure that some seed does not have is not compared."""
    numbers = [value for value in values if value is not None]
    return Spread.of(numbers).text() if numbers and len(numbers) == len(values) else "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
