"""A training that fails says why in its log and on its page, and what was saved before is whole."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_run import small_config
from tools.__main__ import main
from tools.exit_codes import CommandFailed, Diverged, ExitCode
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train
from tools.training import checkpoint, in_folder
from tools.training.checkpoint_files import whole_checkpoints
from tools.training.loop import TrainingLoop
from tools.training.run_folder import RunFolder


@pytest.fixture
def arguments(nuscenes_root: Path, tmp_path: Path) -> Callable[[RunConfig], TrainArguments]:
    def make(config: RunConfig) -> TrainArguments:
        write_config(tmp_path / "config.json", config)
        return TrainArguments(
            str(tmp_path / "config.json"), nuscenes_root, output=tmp_path / "run", device="cpu", threads=1
        )

    return make


def explains(run: RunFolder, failure: BaseException) -> bool:
    """Whether the last line of the log and the page say what ended the training."""
    last = run.log.read_text().splitlines()[-1].partition(" ")[2]
    page = run.report.read_text()
    return last == str(failure) and "<h2>Failed</h2>" in page and str(failure)[:40] in page


def test_a_divergence_is_explained_in_the_folder(arguments: Callable[[RunConfig], TrainArguments]) -> None:
    given = arguments(small_config(50, learning_rate=1e30))
    with pytest.raises(Diverged) as divergence:
        train(given)
    run = RunFolder(given.output or Path())
    assert explains(run, divergence.value)
    assert "loss of the last step" in run.report.read_text()


def test_a_page_that_cannot_be_written_hides_no_failure(
    arguments: Callable[[RunConfig], TrainArguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CommandFailed("the disk caught fire")

    def write_nothing(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TrainingLoop, "run", fail)
    monkeypatch.setattr(in_folder, "write_run_report", write_nothing)
    given = arguments(small_config(1))
    with pytest.raises(CommandFailed, match="the disk caught fire"):
        train(given)
    assert RunFolder(given.output or Path()).log.read_text().endswith(" the disk caught fire\n")


def test_a_bug_is_named_in_the_log(
    arguments: Callable[[RunConfig], TrainArguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingLoop, "run", lambda self, **_: {}["no such key"])
    given = arguments(small_config(1))
    with pytest.raises(KeyError):
        train(given)
    assert RunFolder(given.output or Path()).log.read_text().endswith(" KeyError: 'no such key'\n")


def test_a_full_disk_is_told_in_one_sentence_and_leaves_the_checkpoint_before_whole(
    arguments: Callable[[RunConfig], TrainArguments],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = checkpoint.write_flushed

    def write_until_full(path: Path, data: bytes) -> None:
        if path.parent.name.startswith(".step_00000002"):
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_flushed", write_until_full)
    given = arguments(small_config(3, checkpoint_interval=1))
    run = RunFolder(given.output or Path())
    words = ["train", given.config, "--data-root", str(given.data_root), "--output", str(run.path), "--device", "cpu"]
    assert main(words) == ExitCode.FAILED
    (said,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("training: ")]
    assert said.startswith(f"bevel: The checkpoint of step 2 could not be written to {run.checkpoints}: [Errno 28] No")
    assert explains(run, CommandFailed(said.removeprefix("bevel: ")))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000001"]
    assert whole_checkpoints(run.checkpoints) == ([run.checkpoints / "step_00000001"], [])


def test_a_full_disk_under_the_log_hides_no_failure(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log.symlink_to("/dev/full")
    with pytest.raises(CommandFailed, match="those before it are whole"), in_folder._log_of(run):
        raise CommandFailed("The checkpoint could not be written; those before it are whole.")
