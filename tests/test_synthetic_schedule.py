"""When scenes are recorded: at a time of day that has their light, each at a time of its own."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import log_name, scene_start_us

_LATITUDE, _LONGITUDE = 42.35, -71.06  # Boston


def sun_elevation(time: datetime) -> float:
    """Degrees above the horizon in Boston, to half a degree: declination and equation of time as in Spencer (1971)."""
    angle = 2 * math.pi * (time.timetuple().tm_yday - 1 + (time.hour - 12) / 24) / 365
    declination = (
        0.006918
        - 0.399912 * math.cos(angle)
        + 0.070257 * math.sin(angle)
        - 0.006758 * math.cos(2 * angle)
        + 0.000907 * math.sin(2 * angle)
    )
    equation_minutes = 229.18 * (
        0.000075
        + 0.001868 * math.cos(angle)
        - 0.032077 * math.sin(angle)
        - 0.014615 * math.cos(2 * angle)
        - 0.040849 * math.sin(2 * angle)
    )
    solar_minutes = time.hour * 60 + time.minute + time.second / 60 + 4 * _LONGITUDE + equation_minutes
    hour_angle, latitude = math.radians(solar_minutes / 4 - 180), math.radians(_LATITUDE)
    sine = math.sin(latitude) * math.sin(declination)
    sine += math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    return math.degrees(math.asin(sine))


@pytest.mark.parametrize("conditions", ["mixed", "day", "dusk", "night", "rain", "fog"])
def test_every_scene_is_recorded_when_the_sun_gives_its_light(conditions: str) -> None:
    allowed = {"dusk": (2.5, 10.5), "night": (-90.0, -9.0)}
    config = WorldConfig(scenes=850, conditions=conditions)  # type: ignore[arg-type]
    for index in range(config.scenes):
        start = datetime.fromtimestamp(scene_start_us(config, index) / 1e6, UTC)
        low, high = allowed.get(config.condition(index), (30.0, 90.0))
        assert low <= sun_elevation(start) <= high, (index, config.condition(index), start)


@pytest.mark.parametrize("conditions", ["mixed", "dusk"])
def test_logs_and_times_are_unique_and_say_the_same(conditions: str) -> None:
    config = WorldConfig(scenes=850, conditions=conditions)  # type: ignore[arg-type]
    names = [log_name(config, index) for index in range(850)]
    starts = sorted(scene_start_us(config, index) for index in range(850))
    assert len(set(names)) == 850
    assert min(later - earlier for earlier, later in pairwise(starts)) > 40e6
    for index, name in enumerate(names):
        written = datetime.strptime(name, "n008-%Y-%m-%d-%H-%M-%S%z")
        assert written.timestamp() * 1e6 == scene_start_us(config, index)
