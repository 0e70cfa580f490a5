"""bevel data objects: annotated objects cut out of a dataset by the command line."""

from pathlib import Path

import pytest

from datasets.object_paste.database import ObjectDatabase
from tools.__main__ import main
from tools.exit_codes import ExitCode

pytestmark = pytest.mark.xdist_group("synthetic world")


def test_objects_are_cut_out_and_counted(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "objects"
    assert main(["data", "objects", "tiny", str(synthetic_root), str(folder), "--split", "mini_train"]) == ExitCode.FINE
    said = capsys.readouterr().out.splitlines()
    database = ObjectDatabase(folder)
    assert said == [f"{len(database.labels)} objects of 3 frames", str(folder)]
    assert len(database.labels) > 30
    assert (database.lidar_sweeps, database.radar_sweeps) == (5, 4)
    assert (database.version, database.scenes) == ("v1.0-mini", ("scene-0061",))


@pytest.mark.parametrize(("config", "reason"), [("huge", "neither a preset"), ("tiny", "exists: name a new folder")])
def test_what_cannot_be_done_is_refused(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, reason: str
) -> None:
    words = ["data", "objects", config, str(synthetic_root), str(tmp_path), "--split", "mini_train"]
    assert main(words) == ExitCode.INPUT_REFUSED
    assert reason in capsys.readouterr().err
