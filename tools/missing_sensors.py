"""Counting the sensors that were not there, and the table that says so at the end of a command."""

from collections import Counter
from collections.abc import Iterable, Mapping

from datasets.faults import FaultReason, SensorFault, costs_data


class MissingSensors:
    """In how many frames each channel was absent, and why, with the first fault of each kind as its example."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._seen: set[str] = set()

    def add(self, token: str, faults: Iterable[SensorFault]) -> None:
        """Count the faults of the frame of this token; one that comes again (another epoch) counts once."""
        if token in self._seen:
            return
        self._seen.add(token)
        for fault in faults:
            key = (fault.channel, fault.reason.value)
            self._counts[key] += 1
            self._examples.setdefault(key, fault.detail)

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Frames by (channel, reason); also those that were never recorded."""
        return dict(self._counts)

    @property
    def broken_count(self) -> int:
        """How many sensor readings were lost to a file that is missing or broken (`costs_data`)."""
        return sum(count for (_, reason), count in self._counts.items() if costs_data(FaultReason(reason)))

    def table(self) -> str:
        """One line for each channel and reason, the most frequent first; one sentence where nothing was missing."""
        if not self._counts:
            return "Missing sensors: none."
        lines = ["Missing sensors (channel, reason, frames, an example):"]
        for key, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0])):
            channel, reason = key
            example = "" if reason == FaultReason.NOT_RECORDED.value else f"  {self._examples[key]}"
            lines.append(f"  {channel:<18} {reason:<18} {count:>6}{example}")
        return "\n".join(lines)
