"""Two runs or results files on the same split: what differs, and whether it is more than the luck of the scenes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from datasets.atomic_file import write_atomically
from datasets.classes import DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import SEED, known, rough, too_few_scenes
from datasets.nuscenes.detection_analysis.bootstrap import MEAN_AP, NDS, drawn_scenes, replicate
from datasets.nuscenes.detection_analysis.comparison import Difference, differences
from datasets.nuscenes.detection_metric.boxes import DetectionTruth
from datasets.nuscenes.detection_metric.configuration import ERRORS
from datasets.nuscenes.detection_metric.detections import read_detections
from datasets.nuscenes.detection_metric.evaluation import match_counted
from datasets.nuscenes.detection_metric.matching import Matches
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.splits import OFFICIAL_SPLITS, default_split, split_in_file_name
from datasets.nuscenes.tables import find_version
from datasets.nuscenes.values import read_json
from tools.evaluation_analysis import ANALYSIS, SHORT_NAMES
from tools.open_dataset import DataRoot, tables_root
from tools.shipped_runs import folder_of_outputs, run_or_shipped

_EVALUATION = "evaluation-"


@dataclass(frozen=True)
class CompareArguments:
    """What `bevel compare` takes."""

    first: Positional[Annotated[Path, arg(metavar="RUN_A|RESULTS_A.JSON")]]
    """A run folder (or tiny) that `bevel evaluate` has been through, or detections in nuScenes' results format."""
    second: Positional[Annotated[Path, arg(metavar="RUN_B|RESULTS_B.JSON")]]
    """What is compared with it, on the same split."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """An official split, all, or scene names; otherwise the one that both runs were evaluated on, or the default."""
    bootstrap: int = 1000
    """How many times scenes are drawn for the intervals of the differences."""
    output: Path | None = None
    """Also write the differences as JSON to this file."""


def compare(arguments: CompareArguments) -> Path | None:
    """Print the table of differences; returns the file that was written, if any.

    Raises InputRefused for bad input, runs of different splits, and a split of one scene.
    """
    if arguments.bootstrap < 1:
        raise InputRefused(f"--bootstrap must be 1 or more, not {arguments.bootstrap}.")
    root = tables_root(arguments.data_root)
    version = find_version(root, arguments.version)
    sources = [(source, _evaluated(source)) for source in (arguments.first, arguments.second)]
    split = arguments.split or _common_split([found for _, found in sources]) or default_split(version, "evaluate")
    paths = [_results_of(source, found, split) for source, found in sources]
    tables = root / version
    truth = load_truth(open_index(root, version), version, split, tables)
    scenes = len(truth.samples.scene_names)
    if why_not := too_few_scenes(scenes):
        raise InputRefused(f"{tables}: {why_not} in {split:.80}; name a split with more scenes.")
    repeats = drawn_scenes(scenes, arguments.bootstrap, SEED)
    first, second = (replicate(_matched(path, truth, split), truth.samples.scene, repeats) for path in paths)
    compared = differences(first, second)
    print(f"A: {paths[0]}\nB: {paths[1]}")
    print(differences_text(compared, split, scenes, arguments.bootstrap))
    if arguments.output is None:
        return None
    content = {"first": str(paths[0]), "second": str(paths[1]), "split": split, "scenes": scenes}
    content |= {"replicates": arguments.bootstrap, "seed": SEED, "differences": _content(compared)}
    write_atomically(arguments.output, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return arguments.output


def _matched(path: Path, truth: DetectionTruth, split: str) -> Matches:
    results = read_detections(path, truth.samples, split, others_allowed=split not in OFFICIAL_SPLITS)
    return match_counted(truth, results.boxes)


def _evaluated(source: Path) -> Path:
    """The results file itself, or the folder with what `bevel evaluate` makes of a run: a shipped one has another."""
    if source.is_file() or any(source.glob(f"{_EVALUATION}*/results.json")) or (source / "results.json").is_file():
        return source
    return folder_of_outputs(run_or_shipped(source))


def _results_of(source: Path, found: Path, split: str) -> Path:
    """The results file of a split, of what `_evaluated` has found. Raises InputRefused where there is none."""
    if found.is_file():
        return found
    for path in (found / f"{_EVALUATION}{split_in_file_name(split)}" / "results.json", found / "results.json"):
        if path.is_file():
            return path
    if found == source and not source.is_dir():
        raise InputRefused(f"{source}: there is no such run folder or results file.")
    raise InputRefused(
        f"{source}: has not been evaluated on {split:.80}; run bevel evaluate {source} --split {split:.80} first."
    )


def _common_split(found: Sequence[Path]) -> str | None:
    """The only split that both run folders were evaluated on; None where files are given.

    Raises InputRefused where the runs were evaluated on different splits, or on several.
    """
    runs = {run: _evaluated_splits(run) for run in found if run.is_dir()}
    evaluated = {run: splits for run, splits in runs.items() if splits}
    if not evaluated:
        return None
    common = set.intersection(*evaluated.values())
    if not common:
        shown = ", ".join(f"{run} on {' and '.join(sorted(splits)):.200}" for run, splits in evaluated.items())
        raise InputRefused(f"different splits cannot be compared, but these are what was evaluated: {shown}.")
    if len(common) > 1:
        raise InputRefused(f"both were evaluated on {' and '.join(sorted(common)):.200}: choose one with --split.")
    return common.pop()


def _evaluated_splits(run: Path) -> set[str]:
    """The splits of a run's evaluations; analysis.json has the name, the folder one that may be a folder's."""
    splits = set()
    for results in run.glob(f"{_EVALUATION}*/results.json"):
        analysis = results.with_name(ANALYSIS)
        content = read_json(analysis) if analysis.is_file() else None
        named = content.get("split") if isinstance(content, dict) else None
        splits.add(named if isinstance(named, str) else results.parent.name.removeprefix(_EVALUATION))
    return splits


def differences_text(compared: Mapping[str, Difference], split: str, scenes: int, draws: int) -> str:
    """The table: both figures, their difference, its interval, and the p-value; * where the interval leaves 0 out."""
    names = {NDS: NDS, MEAN_AP: MEAN_AP, **SHORT_NAMES, **{name: f"AP {name}" for name in DETECTION_CLASSES}}
    lines = [f"{'':<24}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':<18}{'p':>7}"]
    for name, shown in names.items():
        one = compared[name]
        if math.isnan(one.difference):
            lines.append(f"{shown:<24}{'-':>8}{'-':>8}{'-':>9}   no annotations")
            continue
        line = f"{shown:<24}{one.first:>8.4f}{one.second:>8.4f}{one.difference:>+9.4f}   "
        if math.isnan(one.p):
            lines.append(f"{line}annotated in one scene only")
            continue
        between = f"{one.interval.low:+.4f} {one.interval.high:+.4f}"
        lines.append(f"{line}{between:<18}{one.p:>7.3f}{' *' if one.clear else ''}")
    doubt = "; of so few scenes intervals are a rough guess, and too narrow" if rough(scenes) else ""
    lines.append(f"{draws} draws of the {scenes} scenes of {split:.60}, the same for both{doubt}")
    lines.append("* a clear difference: the interval leaves 0 out, p is 0.05 or less (for each line by itself)")
    return "\n".join(lines)


def _content(compared: Mapping[str, Difference]) -> dict[str, Any]:
    names = (NDS, MEAN_AP, *ERRORS, *DETECTION_CLASSES)
    return {
        name: {
            "first": known(one.first),
            "second": known(one.second),
            "difference": known(one.difference),
            "low": known(one.interval.low),
            "high": known(one.interval.high),
            "p": known(one.p),
        }
        for name, one in ((name, compared[name]) for name in names)
    }
