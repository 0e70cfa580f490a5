"""What a robustness run found, for readers: a page of Markdown, the rows of the heat map, two lines for a terminal."""

from tools.drawing.heat_table import HeatCell, HeatRow
from tools.robustness_rows import CLEAN, Measured, Row, Score, mean

_NAMES: dict[Score, str] = {"nds": "NDS", "mean_ap": "mAP"}


def page(title: str, measured: Measured, samples: int) -> str:
    """The page in Markdown."""
    clean, basis = measured.of(CLEAN), measured.basis
    scores = "" if clean is None else f"Clean: NDS {clean.nds:.4f}, mAP {clean.mean_ap:.4f}. "
    scenes = ", ".join(basis.scenes) if len(basis.scenes) <= 10 else f"{len(basis.scenes)} scenes"
    parts = [
        f"# {title}\n",
        f"{scores}{samples} samples of {basis.version} ({scenes}), seed {basis.seed}, weights {basis.weights[:12]}.\n",
        "Kept: the score as a share of the clean one. RR: the mean of what a corruption's severities keep. What each "
        "corruption does: docs/robustness.md of Bevel.\n",
        "## Summary\n",
        summary_text(measured).replace("\n", "\n\n") + "\n",
        "![What is kept of the NDS](robustness.png)\n",
    ]
    if measured.names(graded=True):
        parts += [f"## {_NAMES[score]} by severity (kept)\n\n{_graded_table(measured, score)}\n" for score in _NAMES]
    if measured.names(graded=False):
        parts.append(f"## Cases\n\n{_case_table(measured)}\n")
    return "\n".join(parts)


def summary_text(measured: Measured) -> str:
    """One line for each score."""
    lines = []
    for score, name in _NAMES.items():
        summary = measured.summary(score)
        if summary is None:
            lines.append(f"{name}: nothing to compare (no graded corruption was measured, or the clean score is 0).")
            continue
        worst = f"{summary.worst.corruption} {summary.worst.severity} ({summary.worst.label})"
        lines.append(
            f"{name}: mRR {summary.resilience:.3f} (mean over corruptions), mRA {summary.resistance:.3f} (mean over "
            f"cells); least kept {summary.worst_share:.3f}, under {worst}."
        )
    return "\n".join(lines)


def heat_rows(measured: Measured) -> list[HeatRow]:
    """What is kept of the NDS: a row for each corruption, and behind them one for each kind of cases."""
    rows = []
    for graded in (True, False):
        for name in measured.names(graded):
            cells = [_heat_cell(measured, row) for row in _rows_of(measured, name)]
            shares = measured.shares(name, "nds")
            rows.append(HeatRow(name.replace("_", " "), tuple(cells), mean(shares) if shares else None))
    return rows


def _heat_cell(measured: Measured, row: Row) -> HeatCell:
    return HeatCell(row.severity, row.label, measured.kept(row, "nds"), f"{row.nds:.3f}")


def _rows_of(measured: Measured, name: str) -> list[Row]:
    return sorted((row for row in measured.rows if row.corruption == name), key=lambda row: row.severity)


def _graded_table(measured: Measured, score: Score) -> str:
    names = measured.names(graded=True)
    severities = sorted({row.severity for row in measured.rows if row.graded})
    head = ["corruption", *map(str, severities), "RR", "least", "source"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name in names:
        rows = {row.severity: row for row in _rows_of(measured, name)}
        cells = [_score(measured, rows[s], score, label=True) if s in rows else "" for s in severities]
        shares = measured.shares(name, score)
        ends = [f"{mean(shares):.3f}", f"{min(shares):.3f}"] if shares else ["-", "-"]
        lines.append(_line([name, *cells, *ends, next(iter(rows.values())).source]))
    return "\n".join(lines)


def _case_table(measured: Measured) -> str:
    lines = [_line(["case", "", "NDS", "mAP"]), _line(["---"] * 4)]
    for name in measured.names(graded=False):
        lines += [
            _line([name, row.label, *(_score(measured, row, score) for score in _NAMES)])
            for row in _rows_of(measured, name)
        ]
    return "\n".join(lines)


def _score(measured: Measured, row: Row, score: Score, label: bool = False) -> str:
    share = measured.kept(row, score)
    kept = "" if share is None else f" ({share:.0%})"
    value: float = getattr(row, score)
    return f"{f'{row.label}: ' if label else ''}{value:.3f}{kept}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
