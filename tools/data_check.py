"""What is there, what is missing, what is broken in a nuScenes dataroot: all of it in one pass."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.check.check import CheckResult, ShowProgress, check_dataset, report_json
from datasets.nuscenes.check.findings import Severity
from datasets.nuscenes.check.inventory import Count, Inventory, what_works
from datasets.nuscenes.reader import CHANNELS
from tools.exit_codes import CommandFailed, Degraded
from tools.progress import Progress

_EXAMPLES = 5  # of each kind on the screen; the report holds more


@dataclass(frozen=True)
class CheckArguments:
    """What `bevel data check` takes."""

    data_root: Positional[Annotated[Path, arg(metavar="DATAROOT")]]
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    deep: bool = False
    """Read and decode every file; otherwise sizes, heads and tails of all, and the whole of one in a hundred."""
    limit: int = 100
    """How many findings of each kind go into the report; all are counted."""
    output: Path | None = None
    """Also write the report as JSON to this file."""
    jobs: int = os.cpu_count() or 1
    """How many processes look at the files."""


@contextmanager
def _show_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(description, total) as shown:

        def advance(steps: int) -> None:
            shown.advance(steps=steps)

        yield advance


def check(arguments: CheckArguments, progress: ShowProgress = _show_progress) -> Path | None:
    """Print the findings and the inventory, write the report, and return its path. `progress` hears how far it is.

    Raises InputRefused where tables or paths are wrong, and Degraded where only sensor files are: exit codes 3 and 4;
    CommandFailed where a process dies.
    """
    for name in ("limit", "jobs"):
        if getattr(arguments, name) < 1:
            raise InputRefused(f"--{name} must be 1 or more, not {getattr(arguments, name)}.")
    if arguments.output is not None and arguments.output.is_dir():
        raise InputRefused(f"--output {arguments.output}: is a folder; name a file.")
    try:
        result = check_dataset(
            arguments.data_root,
            arguments.version,
            deep=arguments.deep,
            jobs=arguments.jobs,
            limit=arguments.limit,
            progress=progress,
        )
    except BrokenProcessPool as error:
        raise CommandFailed(
            f"{arguments.data_root}: a process that looked at files was killed, perhaps for want of memory: try fewer "
            "--jobs; with --jobs 1 what kills it is seen."
        ) from error
    print(check_text(result))
    if arguments.output is not None:
        write_atomically(arguments.output, report_json(result))
    errors, losses = (result.findings.count(severity) for severity in (Severity.ERROR, Severity.LOSS))
    if errors:
        files = f"{losses:,} files missing or broken"
        raise InputRefused(f"{arguments.data_root}: {errors:,} errors in the tables (and {files}): see above.")
    if losses:
        message = f"{arguments.data_root}: {losses:,} sensor files are missing or broken; see above what still works."
        raise Degraded(message, arguments.output)
    return arguments.output


def check_text(result: CheckResult) -> str:
    """The result for a reader: findings, files by channel, archives, and what works."""
    read = f"{result.files_read:,} of them read as a whole"
    lines = [
        f"{result.root / result.version}: {result.records:,} records, {result.files:,} sensor files, {read}",
        "",
        *_findings_lines(result),
        "",
        *_channel_lines(result.inventory),
        "",
        *_table(("archive", "what it holds", "here"), [(a.name, a.holds, a.state) for a in result.inventory.archives]),
        "",
        *_split_lines(result.inventory),
    ]
    return "\n".join(lines)


def _findings_lines(result: CheckResult) -> list[str]:
    if not result.findings.counts:
        return ["Findings: none."]
    lines = []
    for problem, count in result.findings.counts.items():
        lines.append(f"{problem.severity.value.upper()} {problem.code}: {count:,}  ({problem.remedy})")
        examples = [finding for finding in result.findings.kept if finding.problem is problem][:_EXAMPLES]
        lines += [f"  {finding.sentence()}" for finding in examples]
        if count > len(examples):
            lines.append(f"  ... and {count - len(examples):,} more")
    return lines


def _channel_lines(inventory: Inventory) -> list[str]:
    rows = [(c.channel, c.modality, _of(c.keyframes), _of(c.sweeps)) for c in inventory.channels]
    lines = _table(("channel", "modality", "keyframes", "sweeps between"), rows)
    absent = [channel for channel in CHANNELS if channel not in {channel.channel for channel in inventory.channels}]
    return [*lines, f"Not in the tables: {', '.join(absent)}."] if absent else lines


def _of(count: Count) -> str:
    if count.promised == 0:
        return "-"
    return f"{count.there:,}" if count.whole else f"{count.there:,} of {count.promised:,}"


def _split_lines(inventory: Inventory) -> list[str]:
    lines = ["What works:"]
    for split in inventory.splits:
        of = f" of {split.official}" if split.official else ""
        whole = (
            f", {len(split.whole_scenes)} with every keyframe file" if len(split.whole_scenes) < split.scenes else ""
        )
        lines.append(
            f"  {split.name} ({split.scenes}{of} scenes, {split.samples:,} samples{whole}): {what_works(split)}"
        )
    partly = next((split for split in inventory.splits if 0 < len(split.whole_scenes) < split.scenes), None)
    if partly is not None:
        names = ",".join(partly.whole_scenes[:20]) + (", ..." if len(partly.whole_scenes) > 20 else "")
        lines.append(f"  Scenes with every keyframe file (for --split): {names}")
    return lines


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells: Sequence[tuple[str, ...]] = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
