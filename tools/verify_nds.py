"""Does a published NDS follow from the columns beside it, and is a metrics_summary.json of one piece."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.published import (
    COLUMNS,
    SCORE,
    NdsCheck,
    Rounded,
    check_nds,
    read_rounded,
    summary_problems,
)
from datasets.nuscenes.values import read_json
from tools.exit_codes import Disagreement

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class VerifyNdsArguments:
    """What `bevel verify-nds` takes."""

    values: Positional[Annotated[tuple[str, ...], arg(metavar="FILE | mAP mATE mASE mAOE mAVE mAAE [NDS]")]]
    """A metrics_summary.json, a CSV file with these columns (and any others), or the figures, each with all its
    decimals: they say how far it was rounded. mAP and NDS may be per cent; above 1 they are taken for it."""


@dataclass(frozen=True)
class _Row:
    """One row of figures; `name` for the table, `place` for sentences about it."""

    name: str
    place: str
    figures: Mapping[str, str]


def verify_nds(arguments: VerifyNdsArguments) -> None:
    """Print what the columns admit beside what was published.

    Raises InputRefused for what is no such file or figure, Disagreement where something does not fit.
    """
    values = arguments.values
    if len(values) == 1:
        path = Path(values[0])
        if path.suffix == ".json":
            _verify_summary(path)
            return
        rows = _csv_rows(path)
    elif len(values) in (len(COLUMNS), len(COLUMNS) + 1):
        rows = [_Row("", "", dict(zip((*COLUMNS, SCORE), values, strict=False)))]
    else:
        raise InputRefused(
            f"verify-nds takes one file, or {len(COLUMNS)} figures ({' '.join(COLUMNS)}) and {SCORE} if there is one, "
            f"not {len(values)} words."
        )
    checks = [(row, _check(row)) for row in rows]
    print("\n".join(table(checks)))
    wrong = [sentence(row, check) for row, check in checks if not check.fits]
    if wrong:
        raise Disagreement("\n  ".join([f"{len(wrong)} of {len(checks)} rows do not fit:", *wrong]), None)


def _check(row: _Row) -> NdsCheck:
    figures: dict[str, Rounded] = {}
    for name, text in row.figures.items():
        try:
            figures[name] = read_rounded(name, text)
        except ValueError as error:
            raise InputRefused(f"{row.place}{error}") from None
    return check_nds({name: figures[name] for name in COLUMNS}, figures.get(SCORE))


def table(checks: Sequence[tuple[_Row, NdsCheck]]) -> list[str]:
    """A line for each row: NDS of the columns as they stand, the interval they admit, what was published."""
    width = max([4, *(len(row.name) for row, _ in checks)])
    lines = [f"{'row':<{width}}{'NDS':>9}   {'admitted':<18}{'published':>11}   verdict"]
    for row, check in checks:
        published, verdict = "-", "-"
        if check.published is not None:
            published, verdict = f"{check.published.value:f}", "fits" if check.fits else "does not fit"
        admitted = f"{check.low:.5f} - {check.high:.5f}"
        lines.append(f"{row.name:<{width}}{check.computed:>9.5f}   {admitted:<18}{published:>11}   {verdict}")
    return lines


def sentence(row: _Row, check: NdsCheck) -> str:
    """Why a row does not fit, and which one column would have to be what for it to fit."""
    assert check.published is not None
    remedies = [f"{name} {value:.4f}" for name, value in check.remedies.items()]
    text = (
        f"{row.place}NDS {check.published.value:f} does not follow from the columns, which admit "
        f"{check.low:.5f} to {check.high:.5f}"
    )
    if not remedies:
        return f"{text}; no single column explains it."
    return f"{text}; it would with {' or '.join(remedies)}, all else being as it is."


def _verify_summary(path: Path) -> None:
    content = read_json(path)
    try:
        problems = summary_problems(content)
        line = f"NDS {content['nd_score']:.6f}, mAP {content['mean_ap']:.6f}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise InputRefused(f"{path}: not a metrics_summary.json of nuScenes detection: {detail:.200}.") from None
    print(line)
    if problems:
        raise Disagreement("\n  ".join([f"{path}: {len(problems)} figures do not fit:", *problems]), None)
    print("all means, scores and NDS follow from the figures of the classes")


def _csv_rows(path: Path) -> list[_Row]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputRefused(f"{path}: there is no such file (of figures there are six or seven).") from None
    except (OSError, ValueError) as error:
        raise InputRefused(f"{path}: not readable as text: {error}.") from None
    first = text.partition("\n")[0]
    lines = list(csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=first.count)))
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    missing = [name for name in COLUMNS if header.count(name.lower()) != 1]
    if missing:
        raise InputRefused(f"{path}: the first line must name each of {', '.join(COLUMNS)} once; not so: {missing[0]}.")
    places = {name: header.index(name.lower()) for name in (*COLUMNS, SCORE) if name.lower() in header}
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        cells += [""] * (len(header) - len(cells))
        name = cells[0].strip() if 0 not in places.values() else f"line {number}"
        figures = {column: cells[place] for column, place in places.items() if column != SCORE or cells[place].strip()}
        rows.append(_Row(name, f"{path}, line {number}: ", figures))
    if not rows:
        raise InputRefused(f"{path}: there is no row of figures below the first line.")
    return rows
