"""bevel tune: a search that goes on where it was stopped, and what it refuses."""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from datasets.faults import InputRefused
from tests import nuscenes_fixture
from tests.small_run import small_config
from tools.exit_codes import Interrupted
from tools.run_config import RunConfig, read_config, write_config
from tools.tune import TuneArguments, _with_values, tune

pytest.importorskip("optuna")

VARIED = ("training.learning_rate=0.001:0.02", "detector.head.box_weight")


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> TuneArguments:
    config = small_config(1, modality_dropout=0.25)
    training = replace(config.training, batch_size=1, validate_every=1, patience=1)  # trials do without the last two
    write_config(tmp_path / "config.json", replace(config, training=training))
    return TuneArguments(
        str(tmp_path / "config.json"), nuscenes_root, "mini_val", output=tmp_path / "tuned", vary=VARIED, trials=3,
        device="cpu", threads=1,
    )  # fmt: skip


def trials(output: Path) -> list[str]:
    return sorted((output / "trials.txt").read_text().splitlines())


def score_at_once(arguments: TuneArguments, config: RunConfig, folder: Path) -> float:
    """A figure without a training: the best learning rate is 0.01."""
    return 1 - abs(config.training.learning_rate - 0.01) * config.detector.head.box_weight


def press_ctrl_c(arguments: TuneArguments, config: RunConfig, folder: Path) -> float:
    raise KeyboardInterrupt


def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    arguments: TuneArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(arguments)
    whole, best = trials(tmp_path / "tuned"), read_config(tmp_path / "tuned" / "best-config.json")
    assert len(whole) == 4
    first = next(line for line in whole if line.split()[0] == "0").split()
    assert [float(number) for number in first[2:]] == [0.005, 0.25]  # the config as it is
    table = capsys.readouterr().out
    assert "trial     NDS  learning_rate  box_weight" in table
    # The best of the table is what the best config has.
    rows = [line.split() for line in (tmp_path / "tuned" / "trials.txt").read_text().splitlines()[1:]]
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    assert best.training.validate_every == 1
    assert best.training.learning_rate == pytest.approx(float(rows[0][2]), rel=1e-3)
    assert best.detector.head.box_weight == pytest.approx(float(rows[0][3]), rel=1e-3)
    # Stopped after the first trial, and once more after the second was drawn, but not trained.
    again = replace(arguments, output=tmp_path / "again")
    tune(replace(again, trials=1))
    with monkeypatch.context() as patch:
        patch.setattr("tools.tune._score", press_ctrl_c)
        with pytest.raises(Interrupted, match="the same command goes on"):
            tune(again)
    tune(again)
    assert trials(tmp_path / "again") == whole
    with pytest.raises(InputRefused, match="a search of another config"):
        tune(replace(again, seed=1))


def test_a_search_that_is_killed_anywhere_proposes_what_it_would_have(
    arguments: TuneArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each line of its journal, and in the middle of one; ten trials are random, the others are not."""
    monkeypatch.setattr("tools.tune._score", score_at_once)
    arguments = replace(arguments, trials=12)
    whole = trials(tune(arguments))
    assert len({line.split()[2] for line in whole}) == 13
    journal = (tmp_path / "tuned" / "journal.jsonl").read_bytes()
    lines = journal.splitlines(keepends=True)
    assert len(lines) == 2 + 2 * 12
    kept = [*range(1, 6), *range(len(lines) - 4, len(lines))]
    cut = [b"".join(lines[:count]) for count in kept] + [journal[: -len(lines[-1]) - len(lines[-2]) // 2]]
    for number, rest in enumerate(cut):
        folder = tmp_path / f"killed {number}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(rest)
        assert trials(tune(replace(arguments, output=folder))) == whole


def test_the_table_is_there_where_a_search_was_killed_before_it_wrote_it(
    arguments: TuneArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.tune._score", score_at_once)
    table = tune(arguments) / "trials.txt"
    whole = table.read_text()
    table.unlink()
    tune(arguments)
    assert table.read_text() == whole
    # Fewer trials than there are: none is added.
    tune(replace(arguments, trials=1))
    assert table.read_text() == whole


def test_a_search_in_another_dataset_is_another_search(
    arguments: TuneArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.tune._score", score_at_once)
    tune(arguments)
    longer, later, moved = tmp_path / "longer", tmp_path / "later", tmp_path / "moved"
    nuscenes_fixture.write_dataset(longer, keyframes=4)
    nuscenes_fixture.write_dataset(moved)
    with monkeypatch.context() as patch:  # the same tokens at another time of day
        patch.setattr(nuscenes_fixture, "START_US", nuscenes_fixture.START_US + 3_600_000_000)
        nuscenes_fixture.write_dataset(later)
    for root in (longer, later):
        with pytest.raises(InputRefused, match="a search of another config, dataset"):
            tune(replace(arguments, data_root=root))
    with pytest.raises(InputRefused, match="a search of another config, dataset"):
        tune(replace(arguments, split="mini_val", val_split="mini_train"))
    tune(replace(arguments, data_root=moved, trials=4))
    assert len(trials(tmp_path / "tuned")) == 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"val_split": "mini_train"}, "mini_train and mini_train share scenes"),
        ({"val_split": "mini_vol"}, "mini_vol"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"trials": 0}, "--trials and --steps must be"),
    ],
)
def test_what_no_trial_could_do_is_refused_before_there_is_a_folder(
    arguments: TuneArguments, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputRefused, match=said):
        tune(replace(arguments, **changed))
    assert not (tmp_path / "tuned").exists()


def test_a_trial_that_the_config_refuses_is_left_out(
    arguments: TuneArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The BEV's edge is a whole number of cells at both bounds, and hardly ever between them."""
    monkeypatch.setattr("tools.tune._score", score_at_once)
    output = tune(replace(arguments, vary=("detector.grid.cell_size=3.2:6.4",)))
    said = capsys.readouterr().out
    assert "Trial 1 is left out: " in said
    assert "Trial 2 is left out: " in said
    assert len(trials(output)) == 2
    assert read_config(output / "best-config.json") == read_config(tmp_path / "config.json")
    tune(replace(arguments, vary=("detector.grid.cell_size=3.2:6.4",)))
    assert "is left out" not in capsys.readouterr().out


def test_values_are_set_together() -> None:
    @dataclass(frozen=True)
    class Rising:
        low: float
        high: float

        def __post_init__(self) -> None:
            if self.low >= self.high:
                raise ValueError("low must be less than high")

    @dataclass(frozen=True)
    class Outer:
        inner: Rising
        scale: float

    changed = _with_values(Outer(Rising(1.0, 2.0), 1.0), {"inner.low": 3.0, "scale": 2.0, "inner.high": 4.0})
    assert changed == Outer(Rising(3.0, 4.0), 2.0)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("training.learning_rat", "the config has no such number"),
        ("training.batch_size", "the config has no such number"),
        ("training.learning_rate=0.1", "PATH=LOW:HIGH"),
        ("training.learning_rate=0.1:0.2", "between them"),
        ("detector.head.box_weight=0:1", "must be positive"),
        (
            "training.ema_decay",
            r"ema_decay must lie in \[0, 1\), not 3.6: give other bounds, as training",
        ),
        ("training.ema_decay=0.5:1", r"ema_decay must lie in \[0, 1\), not 1.0"),
        ("training.modality_dropout", r"modality_dropout must lie in \[0, 1\), not 1.0"),
    ],
)
def test_what_cannot_be_varied_is_refused(arguments: TuneArguments, vary: str, said: str) -> None:
    with pytest.raises(InputRefused, match=said):
        tune(replace(arguments, vary=(vary,)))


def test_without_optuna_it_is_refused_in_one_sentence(
    arguments: TuneArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any, **more: Mapping[str, Any]) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputRefused, match=r"bevel tune needs optuna: pip install 'bevel\[tune\]'"):
        tune(arguments)
