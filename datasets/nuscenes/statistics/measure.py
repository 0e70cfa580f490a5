"""From one dataroot, or several taken together, to its figures: of what is there, whatever is missing."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from datasets.classes import LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import InputRefused, SensorFileError
from datasets.frames import LogFrame
from datasets.nuscenes.files import read_lidar_sweep, read_radar_sweep
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.statistics.boxes import box_columns, box_figures
from datasets.nuscenes.statistics.clocks import can_bus_figures, clock_figures
from datasets.nuscenes.statistics.figures import Figure, figure_of
from datasets.nuscenes.statistics.lidar import lidar_figures
from datasets.nuscenes.statistics.radar import radar_figures

_THERE = "What is there (n: records)"


@dataclass(frozen=True)
class _Channel:
    """A point sensor: how many sweeps the tables promise, and those whose files are there, of which some are read."""

    recorded: int
    there: int
    chosen: tuple[tuple[Path, str], ...]


class Measurement:
    """What will be measured of some dataroots: `steps` files and keyframes.

    Of each channel at most `max_sweeps` sweeps are read, evenly spread over those that are there. Raises InputRefused
    where the tables are not usable (datasets.nuscenes.index.checks).
    """

    def __init__(self, roots: Sequence[tuple[Path, str | None]], max_sweeps: int) -> None:
        if max_sweeps < 1:
            raise InputRefused(f"at least one sweep must be read, {max_sweeps} were asked for.")
        # No sensor file is opened for a frame: files are read channel by channel, sweeps as well.
        self._readers = [NuScenesReader(root, version, history=0.0, channels=()) for root, version in roots]
        files: defaultdict[str, list[tuple[Path, str]]] = defaultdict(list)
        for reader in self._readers:
            for scene in reader.index.scenes():
                for row, channel in enumerate(scene.sample_data.channel.tolist()):
                    filename = reader.index.filename(scene.sample_data, row)
                    files[reader.index.channels[channel]].append((reader.root, filename))
        self._channels = {channel: _choose(files[channel], max_sweeps) for channel in (LIDAR_CHANNEL, *RADAR_CHANNELS)}

    @property
    def steps(self) -> int:
        """How often `figures` calls back."""
        sweeps = sum(len(channel.chosen) for channel in self._channels.values())
        return sweeps + sum(len(reader.frame_tokens("all")) for reader in self._readers)

    def figures(self, advance: Callable[[], None]) -> list[Figure]:
        """All figures, always the same ones in the same order. `advance` is called after each file and keyframe.

        Raises InputRefused where a file name leads out of its dataroot and for a malformed file of the CAN bus.
        """
        broken: list[str] = []
        found = lidar_figures(self._sweeps(LIDAR_CHANNEL, advance, broken))
        for channel in RADAR_CHANNELS:
            found += radar_figures(channel, self._sweeps(channel, advance, broken))
        found += self._boxes(advance)
        found += clock_figures(reader.index for reader in self._readers)
        found += can_bus_figures(reader.root for reader in self._readers)
        return [*self._what_is_there(len(broken)), *found]

    def _sweeps(self, channel: str, advance: Callable[[], None], broken: list[str]) -> Iterator[Float32[Tensor, "P C"]]:
        read = read_lidar_sweep if channel == LIDAR_CHANNEL else read_radar_sweep
        for root, filename in self._channels[channel].chosen:
            try:
                yield read(root, filename).points
            except SensorFileError as error:
                broken.append(error.detail)
            advance()

    def _boxes(self, advance: Callable[[], None]) -> list[Figure]:
        levels: dict[str, str] = {}
        for reader in self._readers:
            names = [*reader.index.visibilities, ""]  # -1, none, is the last one
            for scene in reader.index.scenes():
                for token, level in zip(scene.annotations.token, scene.annotations.visibility, strict=True):
                    levels[token] = names[level]

        lengths = {}

        def frames() -> Iterator[LogFrame]:
            for reader in self._readers:
                for scene in reader.scene_names:
                    tokens = reader.frame_tokens(scene)
                    for token in tokens:
                        lengths[token] = len(tokens)
                        yield reader.frame(token)
                        advance()

        return box_figures(box_columns(frames(), levels.__getitem__, lambda frame: lengths[frame.token]))

    def _what_is_there(self, broken: int) -> list[Figure]:
        scenes = [scene for reader in self._readers for scene in reader.index.scenes()]
        figures = [
            figure_of(_THERE, name, (count,), count, "none")
            for name, count in (
                ("scenes", len(scenes)),
                ("keyframes", sum(len(scene.samples.token) for scene in scenes)),
                ("annotations, all categories", sum(len(scene.annotations.token) for scene in scenes)),
            )
        ]
        for name, channel in self._channels.items():
            numbers = (channel.there, len(channel.chosen))
            figures.append(figure_of(_THERE, f"{name}: sweeps there, read", numbers, channel.recorded, "none"))
        return [*figures, figure_of(_THERE, "sweeps that could not be read", (broken,), self.steps, "none")]


def _choose(files: list[tuple[Path, str]], most: int) -> _Channel:
    folders: dict[Path, set[str]] = {}
    there = []
    for root, filename in files:
        folder = (root / filename).parent
        if folder not in folders:
            # Asking the disk for each of a million files would take longer than to read a few hundred of them.
            folders[folder] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if Path(filename).name in folders[folder]:
            there.append((root, filename))
    spread = np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int)) if there else []
    return _Channel(len(files), len(there), tuple(there[i] for i in spread))
