"""A results file of any detector: its samples, one after another, and what is wrong with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.json_members import JsonMembers

_MOST_SHOWN = 20
_MOST_KEPT = 10_000


class Findings:
    """What is wrong with a results file: all findings are counted, the first ones kept and shown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[str] = []
        self._count = 0

    def add(self, *lines: str) -> None:
        """Note findings, a line each."""
        self._count += len(lines)
        self._kept += lines[: _MOST_KEPT - len(self._kept)]

    def refuse(self, subject: str) -> None:
        """Raise InputRefused if there is any: a sentence, and a line for each finding."""
        if not self._count:
            return
        shown = "".join(f"\n  {line}" for line in self._kept[:_MOST_SHOWN])
        more = f"\n  and {self._count - _MOST_SHOWN:,} more" if self._count > _MOST_SHOWN else ""
        what = "one problem" if self._count == 1 else f"{self._count:,} problems"
        raise InputRefused(f"{self._path}: {what} with {subject}:{shown}{more}")


class ResultsFile:
    """The samples of a results file: tokens, and the JSON of each sample's boxes, not checked. Iterate it once;
    afterwards `meta` is what the file says of the detector.

    Tokens that the file has twice come twice, and are noted in `findings`. Raises InputRefused for a file that is no
    JSON, or has not the two parts of a results file.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        self._path = path
        self._findings = findings
        self.meta: dict[str, Any] = {}

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        found: set[str] = set()
        with JsonMembers(self._path) as file:
            if not file.is_object():
                self._refuse()
            for name in file.members():
                if name in found and name in ("meta", "results"):
                    raise InputRefused(f"{self._path}: has the field {name} more than once.")
                found.add(name)
                if name == "results" and file.is_object():
                    yield from self._samples(file)
                elif name in ("meta", "results"):
                    content = file.value()
                    if name == "results" or not content.startswith(b"{"):
                        self._refuse()
                    self.meta = self._parsed(content)
                else:
                    file.value()
            file.end()
        if not found >= {"meta", "results"}:
            self._refuse()

    def _samples(self, file: JsonMembers) -> Iterator[tuple[str, bytes]]:
        seen: set[str] = set()
        for token in file.members():
            if token in seen:
                self._findings.add(f"sample {token!r:.80}: the file has it more than once")
            seen.add(token)
            yield token, file.value()

    def _parsed(self, content: bytes) -> dict[str, Any]:
        try:
            meta: dict[str, Any] = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputRefused(f"{self._path}: field meta: not valid JSON: {error}.") from None
        return meta

    def _refuse(self) -> None:
        raise InputRefused(
            f"{self._path}: expected an object with the fields meta and results, each an object (nuScenes results)."
        )
