"""The check as a whole: tables, what lies between records, sensor files, and what all this leaves to work with."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from datasets.faults import InputRefused
from datasets.nuscenes.can_bus import read_gps, read_vehicle_motion
from datasets.nuscenes.check.file_rules import FileFinding, SensorFile, check_files
from datasets.nuscenes.check.findings import Findings, Problem, Severity, printable
from datasets.nuscenes.check.inventory import Inventory, take_inventory, what_works
from datasets.nuscenes.check.raw_tables import NONE, read_raw_tables
from datasets.nuscenes.check.table_rules import RawTables, check_tables, sensor_of
from datasets.nuscenes.schema import SCHEMA
from datasets.nuscenes.tables import find_version

# Of the files that are accepted for their head and tail, one in so many is read as a whole all the same, of each
# channel and kind the first at least.
_READ_ONE_IN = 100
_OPTIONAL_TABLES = ("log", "map", "visibility")

# Tells of a piece of work, by its name and how many steps it has; what it gives is called with the steps that are done.
ShowProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _show_nothing(description: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda steps: None


@dataclass(frozen=True)
class CheckResult:
    """What the check of one version of a dataroot came to."""

    root: Path
    version: str
    records: int
    files: int
    files_read: int
    findings: Findings
    inventory: Inventory


def check_dataset(
    root: Path,
    version: str | None,
    *,
    deep: bool = False,
    jobs: int = 1,
    limit: int = 100,
    files_at_once: int = 500,
    progress: ShowProgress = _show_nothing,
) -> CheckResult:
    """Find everything that is wrong. `deep` reads and decodes every file; otherwise one in a hundred.

    `limit`: how many findings of each kind are kept. `jobs`: how many processes look at the files, each
    at `files_at_once`.
    Raises InputRefused only where there is no such root or version, and BrokenProcessPool where one of several
    processes is killed.
    """
    version = find_version(root, version)
    findings = Findings(limit)
    with progress("reading tables", len(SCHEMA)) as advance:
        tables = read_raw_tables(root, version, findings, advance)
    check_tables(tables, findings)
    for name in _OPTIONAL_TABLES:
        if not (root / version / f"{name}.json").is_file():
            findings.add(Problem.OPTIONAL_TABLE, f"{version}/{name}.json", "", "", "the file is missing")
    _check_can_bus(root, tables, findings)
    files = _sensor_files(tables, deep)
    parts = [files[start : start + files_at_once] for start in range(0, len(files), files_at_once)]
    table = tables["sample_data"]
    lost = np.zeros(len(table), dtype=bool)
    with progress("looking at files", len(files)) as advance:
        for finding in _checked(root, parts, jobs, advance):
            lost[finding.row] |= finding.problem.severity is not Severity.WARNING
            filename = table.texts["filename"][finding.row]
            detail = finding.detail.removeprefix(f"{filename}: ")
            findings.add(finding.problem, filename, table.tokens[finding.row], "filename", detail)
    return CheckResult(
        root=root,
        version=version,
        records=sum(map(len, tables.values())),
        files=len(files),
        files_read=sum(file.whole for file in files),
        findings=findings,
        inventory=take_inventory(root, version, tables, lost),
    )


def report_json(result: CheckResult) -> bytes:
    """The result as a JSON file: counts by kind, the findings that were kept, the inventory."""
    report: dict[str, Any] = {
        "dataroot": str(result.root),
        "version": result.version,
        "records": result.records,
        "files": result.files,
        "files_read": result.files_read,
        "counts": {severity.value: result.findings.count(severity) for severity in Severity},
        "problems": {
            problem.code: {"severity": problem.severity.value, "count": count, "what_to_do": problem.remedy}
            for problem, count in result.findings.counts.items()
        },
        "findings": [
            {
                "problem": finding.problem.code,
                "severity": finding.problem.severity.value,
                "file": finding.file,
                "token": finding.token,
                "field": finding.field,
                "detail": finding.detail,
                "what_to_do": finding.problem.remedy,
            }
            for finding in result.findings.kept
        ],
        "inventory": asdict(result.inventory),
        "works": {split.name: what_works(split) for split in result.inventory.splits},
    }
    return (json.dumps(report, indent=1) + "\n").encode()


def _check_can_bus(root: Path, tables: RawTables, findings: Findings) -> None:
    """CAN bus and GPS files are optional, but one that is there is read by the loader, which refuses a bad one."""
    for name in tables["scene"].texts["name"]:
        if not name or "/" in name or "\0" in name:
            continue  # the loader would not find a file under such a name
        for read, kind in ((read_vehicle_motion, "pose"), (read_gps, "gps")):
            try:
                read(root, name)
            except InputRefused as refusal:
                file = f"can_bus/{name}_{kind}.json"
                detail = str(refusal).removeprefix(f"{root / file}: ")
                findings.add(Problem.BAD_VALUE, file, "", "", printable(detail, 300))


def _sensor_files(tables: RawTables, deep: bool) -> list[SensorFile]:
    """The file of each row of sample_data.json that names one, folder by folder."""
    table, sensors = tables["sample_data"], tables["sensor"]
    modalities = [*sensors.texts["modality"], ""]
    widths, heights = table.numbers["width"].tolist(), table.numbers["height"].tolist()
    named = [
        (filename.rpartition("/")[0], filename, row, sensor)
        for row, (filename, sensor) in enumerate(zip(table.texts["filename"], sensor_of(tables).tolist(), strict=True))
        if filename
    ]
    named.sort()
    files: list[SensorFile] = []
    folder, position = "", 0
    for here, filename, row, sensor in named:
        position = position + 1 if here == folder else 0
        folder = here
        whole = deep or position % _READ_ONE_IN == 0
        modality = modalities[sensor] if sensor != NONE else ""
        files.append(SensorFile(row, filename, modality, widths[row], heights[row], whole))
    return files


def _checked(
    root: Path, parts: Sequence[Sequence[SensorFile]], jobs: int, advance: Callable[[int], None]
) -> Iterator[FileFinding]:
    """What is wrong with the files, in their order, whoever looked at them."""
    look = partial(check_files, root)
    if jobs == 1 or len(parts) <= 1:
        results: Iterator[list[FileFinding]] = map(look, parts)
        pool = None
    else:
        # As for the synthetic world: forked children would inherit torch's threads half alive.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["datasets.nuscenes.check.file_rules"])
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_use_one_thread)
        results = pool.map(look, parts)
    try:
        for part, found in zip(parts, results, strict=True):
            yield from found
            advance(len(part))
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
