"""The command `visualize`: a sheet for each chosen keyframe, from annotations, a results file or a run."""

from pathlib import Path

import cv2
import pytest
import torch

from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import write_results
from tests.nuscenes_fixture import read_table, write_dataset, write_table
from tools.visualize import ResultsView, VisualizeArguments, evenly_spread, visualize


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write_dataset(folder, keyframes=2)
    return folder


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_annotations_only(root: Path, tmp_path: Path) -> None:
    output = visualize(VisualizeArguments(data_root=root, frames=2, output=tmp_path / "pictures"))
    found = pictures(output)
    assert [path.name[:10] for path in found] == ["scene-0061", "scene-0103"]
    assert cv2.imread(str(found[0])).shape[1] == 2560


def test_one_token(root: Path, tmp_path: Path) -> None:
    arguments = VisualizeArguments(data_root=root, token="scene-0103-sample-1", output=tmp_path)
    assert len(pictures(visualize(arguments))) == 1
    with pytest.raises(InputRefused, match="no sample with this token"):
        visualize(VisualizeArguments(data_root=root, token="nowhere", output=tmp_path))


def test_run_draws_the_fused_features(root: Path, untrained_run: Path, tmp_path: Path) -> None:
    arguments = VisualizeArguments(root, untrained_run, split="scene-0061", frames=1, min_score=0.0, output=tmp_path)
    (with_run,) = pictures(visualize(arguments))
    assert cv2.imread(str(with_run)).shape[0] > 1000  # the sheet without a network has no row for the features


def test_results_file_gives_the_boxes_back_in_ego(root: Path, tmp_path: Path) -> None:
    reader = NuScenesReader(root)
    frame = reader.frame("scene-0061-sample-0")
    assert frame.annotations is not None
    write_results(tmp_path / "results.json", {frame.token: frame.annotations.boxes_global}, ["lidar"])
    output = visualize(
        VisualizeArguments(root, tmp_path / "results.json", token=frame.token, output=tmp_path / "pictures")
    )
    assert len(pictures(output)) == 1
    boxes, fused = ResultsView({frame.token: frame.annotations.boxes_global}, 0.5, "results").detections(frame)
    assert fused is None
    assert boxes is not None
    torch.testing.assert_close(
        boxes.to(torch.float64).transformed(frame.global_from_ego).centers,
        frame.annotations.boxes_global.centers,
        atol=1e-3,
        rtol=0,
    )


def test_results_of_another_split_are_refused(root: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", {}, ["lidar"])
    with pytest.raises(InputRefused, match="no results for sample"):
        visualize(VisualizeArguments(root, tmp_path / "results.json", output=tmp_path / "pictures"))


def test_missing_sensors_are_drawn_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, ("scene-0061",), keyframes=1)
    for picture in (tmp_path / "samples" / "CAM_FRONT").iterdir():
        picture.unlink()
    for sweep in (tmp_path / "samples" / "LIDAR_TOP").iterdir():
        sweep.write_bytes(b"\0" * 7)
    output = visualize(VisualizeArguments(tmp_path, output=tmp_path / "pictures"))
    assert len(pictures(output)) == 1
    table = capsys.readouterr().out
    assert "CAM_FRONT" in table
    assert "truncated" in table


def test_names_of_scenes_cannot_leave_the_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ("scene-0061",), keyframes=1)
    scenes = read_table(tmp_path / "data", "scene")
    scenes[0]["name"] = "../../<b>evil\n"
    write_table(tmp_path / "data", "scene", scenes)
    output = visualize(VisualizeArguments(tmp_path / "data", output=tmp_path / "pictures"))
    (picture,) = pictures(output)
    assert "/" not in picture.name
    assert "<" not in picture.name


@pytest.mark.parametrize(("count", "expected"), [(0, "abcdef"), (3, "ace"), (1, "a"), (6, "abcdef"), (9, "abcdef")])
def test_frames_are_spread_evenly(count: int, expected: str) -> None:
    assert "".join(evenly_spread(tuple("abcdef"), count)) == expected
    assert evenly_spread((), count) == ()
