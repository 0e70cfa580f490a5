"""What the tables say of whole scenes: light and weather in words, and where they were recorded."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.faults import InputRefused
from datasets.nuscenes.values import read_json

# The start of a word, in whatever case: "Rain", "raining", "Night", but no "train".
_NIGHT = re.compile(r"\bnight", re.IGNORECASE)
_RAIN = re.compile(r"\brain", re.IGNORECASE)


@dataclass(frozen=True)
class SceneFacts:
    """One scene's description and location, each empty where the tables do not say."""

    description: str
    location: str

    @property
    def at_night(self) -> bool:
        """Whether the description speaks of night, which is how nuScenes marks it."""
        return _NIGHT.search(self.description) is not None

    @property
    def in_rain(self) -> bool:
        """Whether the description speaks of rain, "after rain" included."""
        return _RAIN.search(self.description) is not None


def scene_facts(tables: Path, names: Iterable[str]) -> dict[str, SceneFacts]:
    """The facts of the named scenes, out of the folder of tables.

    Nothing else depends on these fields: what is absent or no text counts as not said, a log.json that cannot be read
    as absent. Raises InputRefused where scene.json cannot be read.
    """
    wanted = set(names)
    locations = {_text(log, "token"): _text(log, "location") for log in _records(tables / "log.json")}
    facts = {name: SceneFacts("", "") for name in wanted}
    for scene in _rows(read_json(tables / "scene.json")):
        if _text(scene, "name") in wanted:
            location = locations.get(_text(scene, "log_token"), "")
            facts[_text(scene, "name")] = SceneFacts(_text(scene, "description"), location)
    return facts


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return _rows(read_json(path))
    except InputRefused:
        return []


def _rows(content: Any) -> list[dict[str, Any]]:
    return [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    return value if isinstance(value, str) else ""
