"""Counting the sensors that were not there, and the table that says so at the end of a command."""

from collections import Counter
from collections.abc import Iterable, Mapping

from datasets.faults import FaultReason, SensorFault, costs_data

_ABSENT, _IMPAIRED = "absent", "impaired"


class MissingSensors:
    """In how many frames each channel was absent or impaired, and why, with the first fault of each kind as example.

    A channel is absent from a frame that has nothing of it, and impaired where it is there with less than was
    recorded: however many of its sweeps a frame has lost, it counts once.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._examples: dict[tuple[str, str, str], str] = {}
        self._seen: set[str] = set()

    def add(self, token: str, faults: Iterable[SensorFault], impairments: Iterable[SensorFault] = ()) -> None:
        """Count what the frame of this token lacks; a frame that comes again (another epoch) counts once."""
        if token in self._seen:
            return
        self._seen.add(token)
        examples: dict[tuple[str, str, str], str] = {}
        for state, found in ((_ABSENT, faults), (_IMPAIRED, impairments)):
            for fault in found:
                examples.setdefault((fault.channel, state, fault.reason.value), fault.detail)
        self._counts.update(examples.keys())
        self._examples = examples | self._examples

    @property
    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Frames by (channel, absent or impaired, reason); also those that were never recorded."""
        return dict(self._counts)

    @property
    def broken_count(self) -> int:
        """In how many frames channels lost data to files that are missing or broken (`costs_data`), added up."""
        return sum(count for (_, _, reason), count in self._counts.items() if costs_data(FaultReason(reason)))

    def strict_text(self) -> str:
        """What --strict says where `broken_count` is not 0."""
        absent, impaired = (
            sum(
                count
                for (_, of, reason), count in self._counts.items()
                if of == state and costs_data(FaultReason(reason))
            )
            for state in (_ABSENT, _IMPAIRED)
        )
        return (
            f"Sensor files were missing or broken: a sensor was absent from a frame {absent} times, and there with "
            f"less than was recorded {impaired} times (--strict)."
        )

    def table(self) -> str:
        """One line for each channel, state and reason, the most frequent first; a sentence where nothing is missing."""
        if not self._counts:
            return "Missing sensors: none."
        lines = [
            "Missing sensors (impaired: there, with less than was recorded):",
            f"  {'channel':<18} {'state':<9} {'reason':<18} frames  example",
        ]
        for key, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0])):
            channel, state, reason = key
            example = "" if reason == FaultReason.NOT_RECORDED.value else f"  {self._examples[key]}"
            lines.append(f"  {channel:<18} {state:<9} {reason:<18} {count:>6}{example}")
        return "\n".join(lines)
