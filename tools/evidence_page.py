"""The comparison for readers: a page of Markdown with a table for each study."""

from collections.abc import Mapping, Sequence

from tools.evaluation_analysis import SHORT_NAMES
from tools.evidence_rows import Evidence, Spread, Trained
from tools.evidence_studies import Study, Variant

_TITLES: Mapping[Study, str] = {
    "sensors": "Sensors: what each is worth",
    "strategies": "Fusion strategies: same branches, same head",
    "subsets": "One set of weights, any subset of sensors",
    "losses": "Losses beside detection, between the sensors' BEVs",
    "tasks": "Tasks beside detection",
}
# Kinds of slices of the sensors' study, as the slices call them.
_SLICES = ("distance", "conditions")


def evidence_page(evidence: Evidence, rows: Mapping[Study, tuple[Variant, ...]], seeds: int) -> str:
    """All studies that have trainings. Figures are means over seeds ± their standard deviation."""
    basis = evidence.basis
    parts = [
        "# Evidence\n",
        f"{basis.train_samples} samples of {basis.train_scenes} scenes ({basis.split} of {basis.version}) are trained "
        f"on, {basis.steps} steps each; {basis.val_samples} samples of {basis.val_scenes} other scenes "
        f"({basis.val_split}) are scored by the official metric. Mean ± standard deviation over the seeds that are "
        f"there, at most {seeds}. {len(evidence.trained)} trainings.\n",
    ]
    for study, of_study in rows.items():
        found = [(row.name, _trainings(evidence, row, seeds)) for row in of_study]
        found = [(name, trainings) for name, trainings in found if trainings]
        if found:
            parts += [f"## {_TITLES[study]}\n", *_tables(study, found, evidence)]
    return "\n".join(parts)


def _trainings(evidence: Evidence, row: Variant, seeds: int) -> list[Trained]:
    of_seeds = (evidence.of(row.trial(seed).digest) for seed in range(seeds))
    return [trained for trained in of_seeds if trained is not None]


_Rows = Sequence[tuple[str, list[Trained]]]


def _tables(study: Study, found: _Rows, evidence: Evidence) -> list[str]:
    tables = [_main_table(found, evidence.latencies if study == "strategies" else {})]
    if study == "sensors":
        tables.append(f"AP by class:\n\n{_named_table(found, [[one.class_ap for one in t] for _, t in found])}")
        for kind in _SLICES:
            figures = [[one.slices.get(kind, {}) for one in trainings] for _, trainings in found]
            tables.append(f"mAP by {kind}, of the classes present:\n\n{_named_table(found, figures)}")
    if study == "subsets":
        for index, score in enumerate(("mAP", "NDS")):
            scores = [
                [{name: both[index] for name, both in one.subsets.items()} for one in trainings]
                for _, trainings in found
            ]
            tables.append(f"{score} with the sensors that are there:\n\n{_named_table(found, scores)}")
    return [f"{table}\n" for table in tables]


def _main_table(found: _Rows, latencies: Mapping[str, float]) -> str:
    head = ["", "seeds", "parameters", *(["CPU ms a frame"] if latencies else []), "mAP", "NDS", *SHORT_NAMES.values()]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, trainings in found:
        cells = [name, str(len(trainings)), f"{trainings[0].parameters / 1e3:.0f} k"]
        if latencies:
            latency = latencies.get(trainings[0].digest)
            cells.append("-" if latency is None else f"{latency:.0f}")
        cells += [_spread([one.mean_ap for one in trainings]), _spread([one.nds for one in trainings])]
        cells += [_spread([one.mean_errors.get(error) for one in trainings]) for error in SHORT_NAMES]
        lines.append(_line(cells))
    return "\n".join(lines)


def _named_table(found: _Rows, figures: Sequence[Sequence[Mapping[str, float | None]]]) -> str:
    """`figures`: by name, of each training of each row. A column for each name that some training has a figure for."""
    of_all = [named for of_row in figures for named in of_row]
    names = dict.fromkeys(name for named in of_all for name, figure in named.items() if figure is not None)
    lines = [_line(["", *names]), _line(["---"] * (1 + len(names)))]
    for (row, _), of_row in zip(found, figures, strict=True):
        lines.append(_line([row, *(_spread([named.get(name) for named in of_row]) for name in names)]))
    return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    """A figure that some seed does not have is not compared."""
    numbers = [value for value in values if value is not None]
    return Spread.of(numbers).text() if numbers and len(numbers) == len(values) else "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
