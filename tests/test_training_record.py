"""What a run leaves behind beside its weights: numbers, pictures, rates, revisions, and how it was gone on with."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perception.detector import Detector
from tests.small_run import small_config
from tools.report import seconds_in_training
from tools.run_config import write_config
from tools.train import TrainArguments, train
from tools.training import run_folder
from tools.training.run_folder import RunFolder
from tools.training.run_report import write_run_report
from tools.training.validation import Validated, Validation

PICTURE = torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(4, 6, 3)


def measured(validation: Validation, detector: Detector) -> Validated:
    return Validated({"val/NDS": 0.25, "val/mAP": 0.5}, PICTURE)


def test_a_run_has_its_numbers_rates_revision_and_pictures(
    nuscenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Validation, "measure", measured)
    monkeypatch.setattr("tools.evaluate.evaluate", lambda arguments: None)
    config = small_config(3)
    training = replace(config.training, batch_size=2, accumulate=2, reference_batch_size=16)
    write_config(tmp_path / "config.json", replace(config, training=training))
    given = TrainArguments(str(tmp_path / "config.json"), nuscenes_root, output=tmp_path / "run", device="cpu")
    run = RunFolder(train(replace(given, val_split="mini_val", validate_every=2, threads=1)))
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row.get("val/NDS") for row in rows] == [None, 0.25, 0.25]
    events = EventAccumulator(str(run.tensorboard)).Reload()
    for name in ("loss", "learning_rate", "gradient_norm"):
        shown = events.Scalars(name)
        assert [event.step for event in shown] == [0, 1, 2]
        assert [event.value for event in shown] == pytest.approx([row[name] for row in rows], rel=1e-6)
    assert [(event.step, event.value) for event in events.Scalars("val/NDS")] == [(1, 0.25), (2, 0.25)]
    pictures = events.Images("val/detections")
    assert [picture.step for picture in pictures] == [1, 2]
    for picture in pictures:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), PICTURE.numpy())
    # The rate as it is stated, and as it is used for a quarter of its batch.
    said = run.log.read_text()
    assert "learning rate 0.005 for batches of 16, scaled by the square root to 0.0025 for 4 = 2 samples" in said
    environment = json.loads(run.environment.read_text())
    assert environment["git_revision"] == run_folder._git_revision()
    assert "resumed" not in environment
    assert re.search(r"training: 3/3, .*, loss \d+\.\d{3}, [1-9]\d*\.\d samples/s\n", capsys.readouterr().err)


def test_the_seconds_of_all_sessions_are_counted() -> None:
    clock = [1.0, 2.0, 5.0, 0.5, 1.5, 0.25]
    assert (
        seconds_in_training([{"step": float(step), "seconds": now} for step, now in enumerate(clock)])
        == 5.0 + 1.5 + 0.25
    )
    assert seconds_in_training([]) == seconds_in_training([{"step": 0.0}]) == 0.0


def test_each_session_is_recorded_and_the_page_says_where_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()

    def in_environment(revision: str, cores: int) -> None:
        environment = {"command": ["bevel", "train"], "git_revision": revision, "cpu_cores": cores}
        monkeypatch.setattr(run_folder, "describe_environment", lambda: environment)

    in_environment("first", 2)
    run.start(small_config(1))
    run.resumed(5)
    page = write_run_report(run).read_text()
    assert "Trained at revision first." in page
    assert "Sessions" not in page
    in_environment("second", 8)
    run.resumed(7)
    in_environment("second", 8)
    run.resumed(9)
    rows = [{"step": step, "seconds": now} for step, now in enumerate((60.0, 119.0, 1.0, 61.0))]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = json.loads(run.environment.read_text())
    assert environment["git_revision"] == "first"
    assert [(one["from_step"], one["git_revision"]) for one in environment["resumed"]] == [
        (5, "first"),
        (7, "second"),
        (9, "second"),
    ]
    page = write_run_report(run).read_text()
    assert "Trained at revision first, from step 7 at second." in page
    assert "from step 7: git_revision second\nfrom step 7: cpu_cores 8</pre>" in page
    assert "3:00 min" in page


def test_a_note_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.environment.write_text("{")
    assert run.read_environment() == {}
    run.resumed(3)
    assert [session["from_step"] for session in run.read_environment()["resumed"]] == [3]
    assert "Trained at revision unknown" in write_run_report(run).read_text()
