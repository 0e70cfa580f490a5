"""bevel tune: a search that goes on where it was stopped, and what it refuses."""

import builtins
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.faults import InputRefused
from tests.small_run import small_config
from tools.run_config import read_config, write_config
from tools.tune import TuneArguments, _next_trial, _open_study, tune

pytest.importorskip("optuna")

VARIED = ("training.learning_rate=0.001:0.02", "detector.head.box_weight")


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> TuneArguments:
    config = small_config(1)
    training = replace(config.training, batch_size=1, validate_every=1, patience=1)  # trials do without the last two
    write_config(tmp_path / "config.json", replace(config, training=training))
    return TuneArguments(
        str(tmp_path / "config.json"), nuscenes_root, "mini_val", output=tmp_path / "tuned", vary=VARIED, trials=3,
        device="cpu", threads=1,
    )  # fmt: skip


def trials(output: Path) -> list[str]:
    return sorted((output / "trials.txt").read_text().splitlines())


def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    arguments: TuneArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    ranges = {"training.learning_rate": (0.001, 0.02), "detector.head.box_weight": (0.0625, 1.0)}
    with pytest.raises(InputRefused, match="a search of another config"):
        _open_study(tmp_path / "again", "another", {})
    journal = (tmp_path / "again" / "journal.jsonl").read_text()
    (fingerprint,) = {word for word in journal.split('"') if len(word) == 16 and set(word) <= set("0123456789abcdef")}
    drawn = _next_trial(_open_study(tmp_path / "again", fingerprint, {}), ranges, again)
    assert drawn is not None
    assert drawn[0] == 1
    tune(again)
    assert trials(tmp_path / "again") == whole
    with pytest.raises(InputRefused, match="a search of another config"):
        tune(replace(again, seed=1))


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("training.learning_rat", "the config has no such number"),
        ("training.batch_size", "the config has no such number"),
        ("training.learning_rate=0.1", "PATH=LOW:HIGH"),
        ("training.learning_rate=0.1:0.2", "between them"),
        ("detector.head.box_weight=0:1", "must be positive"),
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
