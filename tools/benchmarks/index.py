"""What nuScenes' tables cost: building the index, opening it, checking them; beside that the devkit opening them."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.nuscenes.check.check import check_dataset
from datasets.nuscenes.reader import NuScenesReader
from tools.benchmarks.cost import Cost, in_new_process, measured
from tools.benchmarks.nuscenes_tables import RecordCounts, TablesSize, write_tables

_VERSION = "v1.0-trainval"


@dataclass(frozen=True)
class IndexFigures:
    """`opening`: the median over fresh processes, up to the annotations of the first sample. `scanning`: opening and
    then the annotations, velocities included, of 150 scenes, as many as the split val has. `checking`: all of `bevel
    data check` in one process, where no sensor file is there: each is looked for and missing. `checking` and `devkit`
    are None where they were not asked for.
    """

    records: RecordCounts
    table_bytes: int
    index_bytes: int
    building: Cost
    opening: Cost
    scanning: Cost
    checking: Cost | None
    devkit: Cost | None

    @property
    def opening_ratio(self) -> float | None:
        """How many times faster than the devkit the index opens."""
        return None if self.devkit is None else self.devkit.wall / self.opening.wall

    def lines(self) -> list[str]:
        """The figures as a table."""
        counts = f"{self.records.samples:,} samples, {self.records.sample_data:,} sensor records and poses, "
        lines = [
            f"{counts}{self.records.annotations:,} annotations; one process each, one thread",
            f"JSON tables {self.table_bytes / 2**20:,.0f} MiB, index {self.index_bytes / 2**20:,.0f} MiB",
            f"{'':28}{'wall s':>10}{'CPU s':>10}{'peak MiB':>10}",
        ]
        rows = {"build the index": self.building, "open the index": self.opening, "and read 150 scenes": self.scanning}
        if self.checking is not None:
            rows["bevel data check"] = self.checking
        if self.devkit is not None:
            rows["NuScenes(...) of the devkit"] = self.devkit
        for name, cost in rows.items():
            lines.append(f"{name:28}{cost.wall:>10.3f}{cost.cpu:>10.3f}{cost.peak_mib:>10.0f}")
        if self.opening_ratio is not None:
            lines.append(f"opened {self.opening_ratio:,.0f} times faster than by the devkit")
        return lines


def bench_index(
    folder: Path, size: TablesSize | None = None, *, devkit: bool = True, check: bool = True, openings: int = 5
) -> IndexFigures:
    """Write tables of a size into a temporary folder inside `folder`, measure, delete them.

    Trainval's are 2.5 GB, and their index 0.5 GB; the devkit needs 8 GB of memory for them, and a minute and a half;
    the check nine minutes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary)
        records = write_tables(root, _VERSION, size or TablesSize())
        reference = in_new_process(_open_devkit, root) if devkit else None
        building = in_new_process(_open, root)
        opened = [in_new_process(_open, root) for _ in range(openings)]
        scans = [in_new_process(_scan, root) for _ in range(openings)]
        checking = in_new_process(_check, root) if check else None
        tables = sum(path.stat().st_size for path in (root / _VERSION).glob("*.json"))
        index = NuScenesReader(root).index.path.stat().st_size
    return IndexFigures(records, tables, index, building, _median(opened), _median(scans), checking, reference)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("wall", "cpu", "peak_mib")))


def _open(root: Path) -> Cost:
    def work() -> None:
        reader = NuScenesReader(root)
        reader.annotations(reader.index.sample_tokens(0)[0])

    return measured(work)[1]


def _scan(root: Path) -> Cost:
    def work() -> float:
        index = NuScenesReader(root).index
        scenes = range(min(150, len(index.scene_names)))
        return sum(float(np.nansum(index.scene(scene).annotations.velocity)) for scene in scenes)

    return measured(work)[1]


def _check(root: Path) -> Cost:
    return measured(lambda: check_dataset(root, _VERSION))[1]


def _open_devkit(root: Path) -> Cost:
    from nuscenes import NuScenes

    return measured(lambda: NuScenes(_VERSION, str(root), verbose=False))[1]
