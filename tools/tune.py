"""Search hyperparameters of a config on a validation split; the same command goes on where it was stopped."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from tools.devices import DeviceChoice
from tools.evaluate import EvaluateArguments, measure
from tools.exit_codes import Diverged, Interrupted
from tools.open_dataset import DataRoot, tables_root
from tools.presets import preset_or_config
from tools.run_config import RunConfig, config_to_json, write_config
from tools.train import TrainArguments, train
from tools.training.loading import MissingSensorsPolicy
from tools.training.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna.study import Study

_VARIED = (
    "training.learning_rate",
    "training.weight_decay",
    "detector.head.box_weight",
    "detector.head.velocity_weight",
)
_FACTOR = 4.0  # without bounds a number is varied from its value over this to its value times this
_STUDY = "bevel"


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
    averaged weights; one that diverges counts 0. Raises InputRefused where optuna is not installed, for a number that
    the config does not have, and for a folder that holds another search; Interrupted after Ctrl-C.
    """
    config = preset_or_config(arguments.config)
    ranges = dict(_range_of(config, one) for one in arguments.vary)
    if not ranges or arguments.trials < 1:
        raise InputRefused("--vary must name at least one number of the config, and --trials must be at least 1.")
    tables_root(arguments.data_root)
    output = arguments.output or Path("runs") / f"tune-{Path(arguments.config).stem}"
    study = _open_study(
        output, _fingerprint(arguments, config, ranges), {path: _value(config, path) for path in ranges}
    )
    while (trial := _next_trial(study, ranges, arguments)) is not None:
        number, values = trial
        study.tell(number, _score(arguments, config, values, output / "trials" / f"{number:04d}"))
        write_atomically(output / "trials.txt", (_table(study) + "\n").encode())
    best = study.best_trial
    write_config(output / "best-config.json", _with_values(config, best.params))
    print(_table(study))
    print(f"the best, trial {best.number}: {output / 'best-config.json'}")
    return output


def _open_study(output: Path, fingerprint: str, first: Mapping[str, float]) -> "Study":
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputRefused("bevel tune needs optuna: pip install 'bevel[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    output.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(output / "journal.jsonl")))
    study = optuna.create_study(storage=storage, study_name=_STUDY, direction="maximize", load_if_exists=True)
    if study.user_attrs.setdefault("fingerprint", fingerprint) != fingerprint:
        raise InputRefused(f"{output} holds a search of another config, split or range: name another --output.")
    if not study.trials:
        study.set_user_attr("fingerprint", fingerprint)
        study.enqueue_trial(dict(first))
    return study


def _next_trial(
    study: "Study", ranges: Mapping[str, tuple[float, float]], arguments: TuneArguments
) -> tuple[int, dict[str, float]] | None:
    """The trial that was stopped, or a new one; None where there have been enough."""
    from optuna.distributions import FloatDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    stopped = study.get_trials(states=(TrialState.RUNNING,))
    if stopped:
        return stopped[0].number, stopped[0].params
    count = len(study.get_trials(states=(TrialState.COMPLETE,)))
    if count >= arguments.trials:
        return None
    # Each trial has random numbers of its own: a search that was stopped goes on as if it had not been.
    study.sampler = TPESampler(seed=1000 * arguments.seed + count)
    trial = study.ask({path: FloatDistribution(low, high, log=True) for path, (low, high) in ranges.items()})
    return trial.number, trial.params


def _score(arguments: TuneArguments, config: RunConfig, values: Mapping[str, float], folder: Path) -> float:
    """Train with these values, or go on with it, and return the NDS."""
    changed = _with_values(config, values)
    # The trial is validated when it ends, with its averaged weights.
    changed = replace(changed, training=replace(changed.training, validate_every=None, patience=None))
    given = folder.with_suffix(".json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_config(given, changed)
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
    except Interrupted as interruption:
        raise Interrupted("Stopped in a trial, checkpoint saved; the same command goes on.") from interruption
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
    return path, (low, high)


def _value(config: RunConfig, path: str) -> float:
    found: Any = config
    for name in path.split("."):
        found = getattr(found, name, None) if is_dataclass(found) else None
    if isinstance(found, bool) or not isinstance(found, float):
        raise InputRefused(f"--vary {path}: the config has no such number (of a kind that has fractions).")
    return found


def _with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    for path, value in values.items():
        config = _replaced(config, path.split("."), value)
    return config


def _replaced(node: Any, names: list[str], value: float) -> Any:
    inner = value if len(names) == 1 else _replaced(getattr(node, names[0]), names[1:], value)
    return replace(node, **{names[0]: inner})


def _fingerprint(arguments: TuneArguments, config: RunConfig, ranges: Mapping[str, tuple[float, float]]) -> str:
    """Of all that a trial's figure depends on."""
    what = [config_to_json(config), arguments.split, arguments.val_split, arguments.steps, arguments.seed, ranges]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
