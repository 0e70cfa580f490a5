"""Does a published NDS follow from the columns beside it, as they were rounded; and is a summary file of one piece.

A column with three decimals says that the figure lies within half a thousandth of what stands there. NDS rises with
mAP and falls with each error, so the columns admit an interval of NDS; a published NDS, itself rounded, fits if its own
half step reaches into it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from datasets.classes import DETECTION_CLASSES
from datasets.nuscenes.detection_metric.configuration import ERRORS, MEAN_AP_WEIGHT

# The columns of the leaderboard and of papers' tables; errors in the order of configuration.ERRORS.
COLUMNS = ("mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
SCORE = "NDS"
# Summary files hold all digits; so much may be lost in adding them up in another order.
SUMMARY_TOLERANCE = 1e-9
_WEIGHTS = Decimal(MEAN_AP_WEIGHT + len(ERRORS))


@dataclass(frozen=True)
class Rounded:
    """A published figure: its value and half a step of its last decimal. mAP and NDS are shares, not per cent."""

    value: Decimal
    half_step: Decimal

    @property
    def low(self) -> Decimal:
        """The least figure that is rounded to this."""
        return max(Decimal(0), self.value - self.half_step)

    @property
    def high(self) -> Decimal:
        """The largest figure that is rounded to this."""
        return self.value + self.half_step


@dataclass(frozen=True)
class NdsCheck:
    """The interval of NDS that the columns admit, and whether the published one fits; True where none was published.

    `computed`: from the columns as they stand. `remedies`: column -> the nearest value with which, the others as they
    are, the published NDS would fit; only those that a figure can have.
    """

    columns: Mapping[str, Rounded]
    published: Rounded | None
    low: Decimal
    high: Decimal
    computed: Decimal
    fits: bool
    remedies: Mapping[str, Decimal]


def read_rounded(name: str, text: str) -> Rounded:
    """A figure as it was published: "0.664", and for mAP and NDS also "66.4" or "66.4%".

    Raises ValueError, with a sentence, for what is no number, negative, or more than any mAP or NDS can be.
    """
    share = name in (COLUMNS[0], SCORE)
    digits = text.strip()
    per_cent = share and digits.endswith("%")
    try:
        value = Decimal(digits.removesuffix("%").strip() if per_cent else digits)
    except InvalidOperation:
        raise ValueError(f"{name}: {text!r:.40} is no number.") from None
    if not value.is_finite() or value < 0:
        raise ValueError(f"{name}: {text!r:.40} is not a finite number from 0 on.")
    half = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
    if share and (per_cent or value > 1):
        value, half = value / 100, half / 100
    if share and value > 1:
        raise ValueError(f"{name}: {text!r:.40} is more than 100 %.")
    return Rounded(value, half)


def check_nds(columns: Mapping[str, Rounded], published: Rounded | None) -> NdsCheck:
    """Whether the published NDS follows from the COLUMNS."""
    low = _nds([columns["mAP"].low, *(columns[name].high for name in COLUMNS[1:])])
    high = _nds([columns["mAP"].high, *(columns[name].low for name in COLUMNS[1:])])
    computed = _nds([columns[name].value for name in COLUMNS])
    if published is None:
        return NdsCheck(columns, None, low, high, computed, True, {})
    missing = max(published.low - high, Decimal(0)) or min(published.high - low, Decimal(0))
    remedies = dict(_remedies(columns, missing)) if missing else {}
    return NdsCheck(columns, published, low, high, computed, not missing, remedies)


def _nds(values: Sequence[Decimal]) -> Decimal:
    scores = sum((max(Decimal(0), 1 - error) for error in values[1:]), Decimal(0))
    return (MEAN_AP_WEIGHT * values[0] + scores) / _WEIGHTS


def _remedies(columns: Mapping[str, Rounded], missing: Decimal) -> Iterator[tuple[str, Decimal]]:
    """What each column would have to be for NDS to be `missing` more than the columns admit."""
    for name, column in columns.items():
        if name == COLUMNS[0]:
            value = column.value + missing * _WEIGHTS / MEAN_AP_WEIGHT
        else:
            # An error of 1 or more counts as 1.
            value = min(column.value, Decimal(1)) - missing * _WEIGHTS
        if 0 <= value <= 1:
            yield name, value


def summary_problems(summary: Mapping[str, Any]) -> list[str]:
    """Figures of a metrics_summary.json that do not follow from those that they are means of, a line for each.

    Raises KeyError, TypeError, ValueError or AttributeError where it is no such summary.
    """
    label_aps, class_errors = summary["label_aps"], summary["label_tp_errors"]
    missing = [name for name in DETECTION_CLASSES if name not in label_aps or name not in class_errors]
    if missing:
        return [f"no figures of {', '.join(missing)}"]
    expected = {f"mean_dist_aps.{name}": _mean(list(label_aps[name].values())) for name in DETECTION_CLASSES}
    expected["mean_ap"] = _mean([summary["mean_dist_aps"][name] for name in DETECTION_CLASSES])
    for error in ERRORS:
        # NaN where an error says nothing of a class.
        values = [float(class_errors[name][error]) for name in DETECTION_CLASSES]
        expected[f"tp_errors.{error}"] = _mean([value for value in values if not math.isnan(value)])
        expected[f"tp_scores.{error}"] = max(0.0, 1.0 - summary["tp_errors"][error])
    scores = math.fsum(summary["tp_scores"][error] for error in ERRORS)
    expected["nd_score"] = (MEAN_AP_WEIGHT * summary["mean_ap"] + scores) / (MEAN_AP_WEIGHT + len(ERRORS))
    return [
        f"{place} is {_found(summary, place)!r}, but what it is made of gives {value!r}"
        for place, value in expected.items()
        if not abs(_found(summary, place) - value) <= SUMMARY_TOLERANCE  # NaN does not fit, either
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _found(summary: Mapping[str, Any], place: str) -> float:
    value: Any = summary
    for name in place.split("."):
        value = value[name]
    return float(value)
