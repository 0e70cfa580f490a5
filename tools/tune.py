"""Search hyperparameters of a config on a validation split; the same command goes on where it was stopped."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.truth import load_truth
from tools.devices import DeviceChoice
from tools.evaluate import EvaluateArguments, measure
from tools.exit_codes import Diverged, Interrupted
from tools.open_dataset import DataRoot, instants, open_tables, refuse_shared_scenes, split_of_reader, tables_root
from tools.presets import preset_or_config
from tools.run_config import RunConfig, config_to_json, write_config
from tools.train import TrainArguments, train
from tools.training.loading import MissingSensorsPolicy
from tools.training.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

_VARIED = (
    "training.learning_rate",
    "training.weight_decay",
    "detector.head.box_weight",
    "detector.head.velocity_weight",
)
_FACTOR = 4.0  # without bounds a number is varied from its value over this to its value times this
_STUDY = "bevel"

Node = TypeVar("Node")
Ranges = Mapping[str, tuple[float, float]]
"""For each number that is varied its path in the config, and its bounds."""


@dataclass(frozen=True)
class TuneArguments:
    """What `bevel tune` takes."""

    config: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PRESET|CONFIG.JSON")]]
    """A preset or a config file: the first trial is this one."""
    data_root: DataRoot
    """The dataroot: the folder that holds v1.0-mini, say."""
    val_split: str
    """What is scored: a split that is neither trained on nor the one you report figures on."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str | None = None
    """What is trained on, otherwise mini_train or train."""
    output: Path | None = None
    """The folder for everything, otherwise runs/tune-PRESET."""
    vary: tuple[str, ...] = _VARIED
    """Numbers of the config, each as PATH or PATH=LOW:HIGH (otherwise from a quarter of it to four times it)."""
    trials: int = 20
    """Trials in all, those of before included."""
    steps: int | None = None
    """Steps of each training, instead of the config's."""
    seed: int = 0
    """Of the search."""
    workers: int | None = None
    """Loader processes, instead of the config's."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """What to do about sensor files that are missing or broken."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


def tune(arguments: TuneArguments) -> Path:
    """Search, print the table of trials, write it and the best config; returns the folder.

    The search is Optuna's (TPE: Bergstra et al. 2011), on a logarithmic scale. A trial's figure is the NDS of the
    averaged weights; one that diverges counts 0, one that the config refuses has none. Raises InputRefused where optuna
    is not installed, for a number that the config does not have or a bound that it refuses, for splits that are not
    there or share scenes, and for a folder that holds another search; Interrupted after Ctrl-C.
    """
    if not arguments.vary or arguments.trials < 1 or (arguments.steps is not None and arguments.steps < 1):
        raise InputRefused("--vary must name a number of the config, and --trials and --steps must be at least 1.")
    config = preset_or_config(arguments.config)
    ranges = dict(_range_of(config, one) for one in arguments.vary)
    fingerprint = _fingerprint(arguments, config, ranges)
    output = arguments.output or Path("runs") / f"tune-{Path(arguments.config).stem}"
    # Two searches at once would train the same trial.
    with RunFolder(output).locked():
        study = _open_study(output, fingerprint)
        try:
            _search(study, arguments, config, ranges, output)
        except (KeyboardInterrupt, Interrupted) as interruption:
            raise Interrupted("Stopped in a trial; the same command goes on.") from interruption
        best = study.best_trial
        write_config(output / "best-config.json", _with_values(config, best.params))
        table = _table(study)
        write_atomically(output / "trials.txt", f"{table}\n".encode())
    print(table)
    print(f"the best, trial {best.number}: {output / 'best-config.json'}")
    return output


def _open_study(output: Path, fingerprint: str) -> "Study":
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputRefused("bevel tune needs optuna: pip install 'bevel[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = output / "journal.jsonl"
    _remove_cut_line(journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=_STUDY, direction="maximize", load_if_exists=True)
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", fingerprint)
    elif known != fingerprint:
        raise InputRefused(
            f"{output} holds a search of another config, dataset, split, range, --steps or --seed: name another "
            "--output."
        )
    return study


def _remove_cut_line(journal: Path) -> None:
    """Remove what a full disk left of a journal's last line: the next line would be written behind it."""
    written = journal.read_bytes() if journal.is_file() else b""
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        write_atomically(journal, whole)


def _search(study: "Study", arguments: TuneArguments, config: RunConfig, ranges: Ranges, output: Path) -> None:
    """Do the trials that are left. Those that have ended are in the journal, and in the table."""
    from optuna.trial import TrialState

    while (trial := _next_trial(study, arguments, config, ranges)) is not None:
        number, values = trial
        try:
            changed = _with_values(config, values)
        except ValueError as error:  # both bounds of each number are fine: not what lies between, or several at once
            print(f"Trial {number} is left out: {error}.")
            study.tell(number, state=TrialState.FAIL)
            continue
        study.tell(number, _score(arguments, changed, output / "trials" / f"{number:04d}"))
        write_atomically(output / "trials.txt", f"{_table(study)}\n".encode())


def _next_trial(
    study: "Study", arguments: TuneArguments, config: RunConfig, ranges: Ranges
) -> tuple[int, dict[str, float]] | None:
    """The trial that was stopped, or a new one; None where there have been enough."""
    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState, create_trial

    trials = study.get_trials()
    ended = sum(trial.state.is_finished() for trial in trials)
    if ended >= arguments.trials:
        return None
    if ended == len(trials):
        distributions: dict[str, BaseDistribution] = {
            path: FloatDistribution(low, high, log=True) for path, (low, high) in ranges.items()
        }
        values = _proposed(study, distributions, arguments.seed) if trials else _values(config, ranges)
        # One line of the journal. (`Study.ask` writes one for each value: a search that is killed between two of them
        # would go on with a trial that has only some.)
        study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=distributions))
    (stopped,) = study.get_trials(states=(TrialState.RUNNING,))
    return stopped.number, stopped.params


def _proposed(study: "Study", distributions: dict[str, "BaseDistribution"], seed: int) -> dict[str, float]:
    """What the trials that have a figure suggest to try next."""
    import optuna
    from optuna.trial import TrialState

    # Each trial has random numbers of its own: a search that was stopped goes on as if it had not been.
    sampler = optuna.samplers.TPESampler(seed=1000 * seed + len(study.get_trials()))
    in_memory = optuna.create_study(direction="maximize", sampler=sampler)
    in_memory.add_trials(study.get_trials(states=(TrialState.COMPLETE,)))
    return in_memory.ask(distributions).params


def _score(arguments: TuneArguments, config: RunConfig, folder: Path) -> float:
    """Train this config, or go on with it, and return the NDS."""
    # The trial is validated when it ends, with its averaged weights.
    config = replace(config, training=replace(config.training, validate_every=None, patience=None))
    given = folder.with_suffix(".json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_config(given, config)
    run = RunFolder(folder)
    try:
        train(
            TrainArguments(
                str(given),
                arguments.data_root,
                version=arguments.version,
                split=arguments.split,
                output=folder,
                steps=arguments.steps,
                workers=arguments.workers,
                resume=run.config.is_file(),
                missing_sensors=arguments.missing_sensors,
                device=arguments.device,
                threads=arguments.threads,
            )
        )
    except Diverged as divergence:
        print(divergence)
        return 0.0
    _, evaluation, _ = measure(
        EvaluateArguments(
            folder,
            arguments.data_root,
            version=arguments.version,
            split=arguments.val_split,
            missing_sensors=arguments.missing_sensors,
            device=arguments.device,
            threads=arguments.threads,
        )
    )
    return evaluation.metrics.nds


def _table(study: "Study") -> str:
    """The finished trials, the best first."""
    from optuna.trial import TrialState

    done = sorted(
        study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: (-(trial.value or 0), trial.number)
    )
    names = list(done[0].params)
    widths = [max(len(name.rpartition(".")[2]), 10) for name in names]
    header = "trial     NDS" + "".join(
        f"  {name.rpartition('.')[2]:>{width}}" for name, width in zip(names, widths, strict=True)
    )
    rows = [
        f"{trial.number:>5}  {trial.value or 0:.4f}"
        + "".join(f"  {trial.params[name]:>{width}.4g}" for name, width in zip(names, widths, strict=True))
        for trial in done
    ]
    return "\n".join([header, *rows])


def _range_of(config: RunConfig, given: str) -> tuple[str, tuple[float, float]]:
    """The path and the bounds in `PATH` or `PATH=LOW:HIGH`."""
    path, equals, bounds = given.partition("=")
    value = _value(config, path)
    try:
        low, high = map(float, bounds.split(":")) if equals else (value / _FACTOR, value * _FACTOR)
    except ValueError as error:
        raise InputRefused(f"--vary {given}: give the bounds as PATH=LOW:HIGH.") from error
    if not 0 < low <= value <= high < math.inf or low == high:
        raise InputRefused(f"--vary {given}: the bounds must be positive, and the config's {value:g} between them.")
    for bound in (low, high):
        try:
            _with_values(config, {path: bound})
        except ValueError as error:
            raise InputRefused(f"--vary {given}: {error}: give other bounds, as {path}=LOW:HIGH.") from error
    return path, (low, high)


def _value(config: RunConfig, path: str) -> float:
    found: Any = config
    for name in path.split("."):
        found = getattr(found, name, None) if is_dataclass(found) else None
    if isinstance(found, bool) or not isinstance(found, float):
        raise InputRefused(f"--vary {path}: the config has no such number (of a kind that has fractions).")
    return found


def _values(config: RunConfig, ranges: Ranges) -> dict[str, float]:
    return {path: _value(config, path) for path in ranges}


def _with_values(node: Node, values: Mapping[str, float]) -> Node:
    """The config, or a part of it, with these values at their paths. Raises ValueError where it refuses them.

    All at once: two values may fit together, and neither of them the other's old one.
    """
    parts: dict[str, dict[str, float]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        parts.setdefault(name, {})[rest] = value
    changed = {
        name: inner[""] if "" in inner else _with_values(getattr(node, name), inner) for name, inner in parts.items()
    }
    return replace(node, **changed)  # type: ignore[type-var]


def _fingerprint(arguments: TuneArguments, config: RunConfig, ranges: Ranges) -> str:
    """Of all that a trial's figure depends on. (Not of --missing-sensors: `refuse` scores only where none is missing.)

    Raises InputRefused for splits that are not there, share scenes, or have nothing to score against.
    """
    reader = open_tables(tables_root(arguments.data_root), arguments.version, config.sample)
    split = arguments.split or split_of_reader(reader, "train")
    samples, val_samples = (instants(reader, reader.frame_tokens(one)) for one in (split, arguments.val_split))
    refuse_shared_scenes(reader, split, arguments.val_split)
    load_truth(reader.index, reader.version, arguments.val_split, reader.root / reader.version)
    what = [config_to_json(config), samples, val_samples, arguments.steps, arguments.seed, ranges]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
