"""Is one detector better than another, or were the scenes kind to it: differences on the same draws of scenes.

Both are scored on the same replicates, so what makes a draw of scenes easy or hard for both cancels: the interval of
the difference is much narrower than the two intervals suggest.
"""

from dataclasses import dataclass

from datasets.nuscenes.detection_analysis.bootstrap import CONFIDENCE, Interval, Replicates, interval, p_value


@dataclass(frozen=True)
class Difference:
    """One figure of two detectors, the interval of second - first, and the p-value of "there is no difference"."""

    first: float
    second: float
    interval: Interval
    p: float

    @property
    def difference(self) -> float:
        """second - first."""
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out, and there are scenes enough to say so."""
        return (self.interval.low > 0 or self.interval.high < 0) and self.p <= 1 - CONFIDENCE


def differences(first: Replicates, second: Replicates) -> dict[str, Difference]:
    """The difference of each figure. Both are of the same scenes and the same draws."""
    result = {}
    for name, values in first.replicates.items():
        gained = second.replicates[name] - values
        scenes = first.scenes[name]
        result[name] = Difference(
            first.figures[name], second.figures[name], interval(gained, scenes), p_value(gained, scenes)
        )
    return result
