"""Statistics of datasets: known answers of the small fixture and of the real extracts, the table, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.utils.data_classes import RadarPointCloud

from datasets.classes import DETECTION_CLASSES, RADAR_CHANNELS
from datasets.faults import InputRefused
from datasets.frames import RADAR_FIELDS
from datasets.nuscenes.statistics.boxes import box_columns, box_figures
from datasets.nuscenes.statistics.clocks import can_bus_figures
from datasets.nuscenes.statistics.figures import Figure
from datasets.nuscenes.statistics.lidar import lidar_figures
from datasets.nuscenes.statistics.measure import Measurement
from datasets.nuscenes.statistics.radar import passes_filters, radar_figures
from datasets.nuscenes.statistics.table import FACTOR, Column, as_json, differences, markdown
from tests.nuscenes_fixture import read_table, write_dataset, write_radar, write_table
from tools.__main__ import main
from tools.exit_codes import ExitCode

Figures = dict[tuple[str, str], Figure]


def measured(*roots: Path, sweeps: int = 200) -> Figures:
    """The figures by section (without what n counts) and name."""
    measurement, steps = Measurement([(root, None) for root in roots], sweeps), []
    figures = measurement.figures(lambda: steps.append(1))
    assert len(steps) == measurement.steps
    named = {(figure.section.partition(" (n:")[0], figure.name): figure for figure in figures}
    assert len(named) == len(figures)
    return named


@pytest.fixture(scope="module")
def of_fixture(nuscenes_root: Path) -> Figures:
    return measured(nuscenes_root)


def test_what_the_fixture_holds_is_found(of_fixture: Figures) -> None:
    known: dict[tuple[str, str], tuple[tuple[float, ...], int]] = {
        ("What is there", "scenes"): ((2,), 2),
        ("What is there", "keyframes"): ((6,), 6),
        ("What is there", "LIDAR_TOP: sweeps there, read"): ((22, 22), 22),
        # Five points in each of ten boxes, and a ring of 200 on the ground 12 m around the vehicle; ring is i % 32.
        ("LiDAR", "points stored, mean"): ((250,), 22),
        ("LiDAR", "returns beyond 2.5 m, 5, 50, 95 %"): ((250, 250, 250), 22),
        ("LiDAR", "of beam 0, mean"): ((8,), 22),
        ("LiDAR", "of beam 31, mean"): ((7,), 22),
        ("LiDAR", "their intensity, 5, 50, 95 %"): ((50, 50, 50), 22),
        ("Boxes a keyframe", "boxes: mean, 5, 50, 95 %"): ((10, 10, 10, 10), 6),
        ("Boxes a keyframe", "boxes within 50 m: mean, 5, 50, 95 %"): ((10, 10, 10, 10), 6),
        ("Boxes", "without a LiDAR point (%)"): ((0,), 60),
        ("Boxes", "visibility 0-40, -60, -80, -100 % (%)"): ((0, 0, 0, 100), 60),
        ("Boxes", "vehicles: moving, parked, stopped (%)"): ((40, 40, 20), 30),
        ("Boxes", "cycles: with_rider, without_rider (%)"): ((50, 50), 12),
        ("Boxes", "vehicles: faster than 0.5 m/s (%)"): ((40,), 30),
        ("Boxes", "cycles: their speed, 5, 50, 95 % (m/s)"): ((4, 4, 4), 6),
        ("Boxes", "pedestrians: their speed, 5, 50, 95 % (m/s)"): ((1.2, 1.2, 1.2), 6),
        ("Radar points in a box", "car at 10-20 m: mean, with any (%)"): ((0, 0), 6),
        ("Tracks", "keyframes of a track, 5, 50, 95 %"): ((3, 3, 3), 20),
        ("Tracks", "... of its scene's, 5, 50, 95 % (%)"): ((100, 100, 100), 20),
        ("Tracks", "bus: width, length, height, mean (m)"): ((2.9, 11.0, 3.5), 2),
        ("Tracks", "bus: ... standard deviation (m)"): ((0, 0, 0), 2),
        ("Clocks", "LIDAR_TOP: rate (Hz), spread (± ms)"): ((10, 0), 20),
        ("Clocks", "RADAR_FRONT: rate (Hz), spread (± ms)"): ((10, 0), 20),
        # Only keyframes are recorded of the cameras: they say nothing about the cameras' clocks.
        ("Clocks", "CAM_FRONT: rate (Hz), spread (± ms)"): ((), 0),
        ("Keyframes beside their sample", "CAM_FRONT, 5, 50, 95 % (ms)"): ((-35, -35, -35), 6),
        ("CAN bus", "pose: rate (Hz), spread (± ms)"): ((), 0),
    }
    for key, (values, count) in known.items():
        assert of_fixture[key].values == pytest.approx(values, abs=1e-6), key
        assert of_fixture[key].count == count, key
    for name in DETECTION_CLASSES:
        assert of_fixture["Boxes a keyframe", f"{name}: mean, share of all (%)"].values == (1.0, 10.0)
    in_bands = [figure for (section, name), figure in of_fixture.items() if section == "LiDAR points in a box"]
    assert len(in_bands) == 4 * 11
    assert {figure.values for figure in in_bands} == {(5.0, 5.0, 5.0), ()}
    assert sum(figure.count for figure in in_bands) == 2 * 60


def test_radar_returns_of_the_fixture(of_fixture: Figures, nuscenes_root: Path) -> None:
    devkit = NuScenes("v1.0-mini", str(nuscenes_root), verbose=False)
    for channel in RADAR_CHANNELS:
        rows = [row for row in devkit.sample_data if row["channel"] == channel]
        clouds = [RadarPointCloud.from_file(str(nuscenes_root / row["filename"])).points for row in rows]
        for which in ("all", "filtered"):  # every return of the fixture is a good one
            returns = of_fixture[channel, f"{which}: returns a sweep, 5, 50, 95 %"]
            assert returns.values == pytest.approx(np.quantile([c.shape[1] for c in clouds], [0.05, 0.5, 0.95]))
            assert returns.count == len(rows) == 22
            strength = of_fixture[channel, f"{which}: RCS, 5, 50, 95 % (dBsm)"]
            assert strength.values == pytest.approx(np.quantile(np.hstack(clouds)[5], [0.05, 0.5, 0.95]))
            assert strength.comparison == "decibels"
        assert of_fixture[channel, "dyn_prop 0 to 7 (% of all)"].values == (100, *[0] * 7)
        assert of_fixture[channel, "ambig_state 0 to 4 (% of all)"].values == (0, 0, 0, 100, 0)
        assert of_fixture[channel, "invalid_state 0 (% of all)"].values == (100,)


def test_the_filters_are_the_devkits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(1, 50, (5000, 18))
    for name, states in (("dyn_prop", 8), ("ambig_state", 5), ("invalid_state", 18)):
        # Zero is likely, so that many returns pass.
        column = RADAR_FIELDS.index(name)
        points[:, column] = rng.integers(0, states, len(points)) * (rng.random(len(points)) < 0.4)
    points[rng.random(len(points)) < 0.6, RADAR_FIELDS.index("ambig_state")] = 3
    write_radar(tmp_path / "a.pcd", points)
    RadarPointCloud.default_filters()
    kept = RadarPointCloud.from_file(str(tmp_path / "a.pcd")).points.T
    mine = points.astype(np.float32)[passes_filters(points.astype(np.float32))]
    assert 100 < len(mine) < len(points)
    assert np.array_equal(mine[:, :3], kept[:, :3])
    figures = {f.name: f for f in radar_figures("RADAR_FRONT", [torch.from_numpy(points.astype(np.float32))])}
    assert figures["filtered: returns a sweep, 5, 50, 95 %"].values == (kept.shape[0],) * 3
    speeds = np.hypot(kept[:, 8], kept[:, 9])
    assert figures["filtered: compensated speed, 5, 50, 95 % (m/s)"].values == pytest.approx(
        np.quantile(speeds, [0.05, 0.5, 0.95]), rel=1e-5
    )


def test_missing_and_broken_files_are_left_out_and_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, ("scene-0061",))
    files = sorted((tmp_path / "samples" / "LIDAR_TOP").iterdir())
    files[0].unlink()
    files[1].write_bytes(b"half")
    for path in (tmp_path / "samples" / "RADAR_FRONT").iterdir():
        path.unlink()
    (tmp_path / "samples" / "RADAR_FRONT").rmdir()
    (tmp_path / "v1.0-mini" / "visibility.json").unlink()
    found = measured(tmp_path)
    assert found["What is there", "LIDAR_TOP: sweeps there, read"].values == (10, 10)
    assert found["What is there", "LIDAR_TOP: sweeps there, read"].count == 11
    assert found["What is there", "RADAR_FRONT: sweeps there, read"].values == (8, 8)
    assert found["What is there", "sweeps that could not be read"].values == (1,)
    assert found["LiDAR", "points stored, mean"] == Figure("LiDAR (n: sweeps)", "points stored, mean", (250.0,), 9)
    assert found["Boxes", "visibility 0-40, -60, -80, -100 % (%)"].values == ()
    few = measured(tmp_path, sweeps=2)
    assert few["What is there", "LIDAR_TOP: sweeps there, read"].values == (10, 2)


def test_datasets_taken_together_are_one(nuscenes_root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, ("scene-0553",), keyframes=1, can_bus=True)
    both = measured(nuscenes_root, tmp_path)
    assert both["What is there", "keyframes"].values == (7,)
    assert both["LiDAR", "points stored, mean"].count == 23
    assert both["Boxes", "without a LiDAR point (%)"].count == 70
    # A scene of one keyframe says nothing about how long objects are followed, but something about their sizes.
    assert both["Tracks", "keyframes of a track, 5, 50, 95 %"].count == 20
    assert both["Tracks", "bus: width, length, height, mean (m)"].count == 3
    assert both["CAN bus", "pose: rate (Hz), spread (± ms)"].values == pytest.approx((50, 0))


def test_nothing_at_all_has_no_values() -> None:
    nothing = [
        *lidar_figures([]),
        *radar_figures("RADAR_FRONT", []),
        *box_figures(box_columns([], lambda token: "", lambda frame: 1)),
    ]
    assert {(figure.values, figure.count) for figure in nothing} == {((), 0)}
    empty = {f.name: f for f in radar_figures("RADAR_FRONT", [torch.zeros(0, 18)])}
    assert empty["all: returns a sweep, 5, 50, 95 %"].values == (0, 0, 0)
    assert empty["all: distance, 5, 50, 95 % (m)"].values == ()


def test_a_dataset_without_annotations_is_measured(tmp_path: Path) -> None:
    write_dataset(tmp_path, ("scene-0061",), keyframes=1)
    (tmp_path / "v1.0-mini" / "sample_annotation.json").unlink()
    found = measured(tmp_path)
    assert found["LiDAR", "points stored, mean"].count == 1
    assert found["Boxes a keyframe", "boxes: mean, 5, 50, 95 %"].count == 0


def test_differences_are_ratios_marked_beyond_the_factor() -> None:
    def figure(*values: float, comparison: str = "ratio") -> Figure:
        return Figure("s", "name", values, 1, comparison)  # type: ignore[arg-type]

    found = differences(figure(3.0, 1.0, 2.0, 0.0, 0.0, 5.0), figure(2.0, 2.0, 2.0, 0.0, 1.0, 0.0))
    assert [d.text for d in found] == ["1.5", "0.5", "1", "1", "0", "∞"]
    assert [d.outside for d in found] == [False, True, False, False, True, True]
    found = differences(figure(-5.0, 3.0, comparison="decibels"), figure(-2.0, 2.0, comparison="decibels"))
    assert [(d.text, d.outside) for d in found] == [("-3.0 dB", True), ("+1.0 dB", False)]
    assert differences(figure(1.0, comparison="none"), figure(9.0, comparison="none")) == []
    assert differences(figure(), figure(9.0)) == []


def test_the_table_is_markdown_in_straight_columns() -> None:
    one = [Figure("A (n: x)", "alpha", (25131.4, 104.2, 9.244, 0.0812, 0.0), 3), Figure("B", "beta", (0.0,), 2)]
    other = [Figure("A (n: x)", "alpha", (10000.0, 104.2, 9.244, 0.0812, 0.0), 1234), Figure("B", "beta", (), 0)]
    lines = markdown([Column("mine", one), Column("theirs", other)]).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 4  # beta is 0 or unknown everywhere
    cells = [cell.strip() for cell in table[3].split("|")[1:-1]]
    assert cells[:3] == ["alpha", "25,131 / 104 / 9.24 / 0.081 / 0", "3"]
    assert cells[4:] == ["1,234", "2.51! / 1 / 1 / 1 / 1"]
    assert lines[-1].startswith("`ratio`")
    alone = markdown([Column("mine", one)])
    assert "ratio" not in alone
    document = as_json([Column("mine", one), Column("theirs", other)])
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["factor"] == FACTOR


def test_the_verb_prints_and_writes(nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["statistics", str(nuscenes_root), "--beside", f"{nuscenes_root}:v1.0-mini"]
    assert main(words) == ExitCode.FINE
    printed = capsys.readouterr().out
    assert "| points stored, mean" in printed
    assert "!" not in printed.partition("`ratio`")[0]
    write_dataset(tmp_path / "other", ("scene-0553",), keyframes=1)
    assert main([*words, "--beside", f"{tmp_path / 'other'},{nuscenes_root}"]) == ExitCode.FINE
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| points stored, mean")]
    assert [cell.strip() for cell in row.split("|")[3:8:2]] == ["22", "22", "23"]
    assert main([*words, "--output", str(tmp_path / "a.md")]) == ExitCode.FINE
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "a.md")]
    assert (tmp_path / "a.md").read_text() == printed
    assert main([*words, "--output", str(tmp_path / "a.json")]) == ExitCode.FINE
    document = json.loads((tmp_path / "a.json").read_text())
    (row,) = [row for row in document["rows"] if row["name"] == "points stored, mean"]
    assert row["columns"] == [{"values": [250.0], "n": 22}] * 2
    assert row["outside_factor"] == [False]


def test_bad_input_is_told_in_one_sentence(
    nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(nuscenes_root)
    for words, named in (
        ([str(tmp_path / "none")], "none"),
        ([root, "--beside", f"{root}:v1.0-trainval"], "no version 'v1.0-trainval'"),
        ([root, "--beside", f"{root},{tmp_path}"], "no nuScenes tables here"),
        ([root, "--output", "table.txt"], ".md or .json"),
        ([root, "--sweeps", "0"], "at least one sweep"),
    ):
        assert main(["statistics", *words]) == ExitCode.INPUT_REFUSED
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert named in said[0]
    (tmp_path / "can_bus").mkdir()
    (tmp_path / "can_bus" / "scene-0061_pose.json").write_text('[{"utime": 1.5}]')
    with pytest.raises(InputRefused, match="utime"):
        can_bus_figures([tmp_path])


def test_a_file_name_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ("scene-0061",), keyframes=1)
    rows = read_table(tmp_path / "data", "sample_data")
    row = next(row for row in rows if row["filename"].startswith("samples/LIDAR_TOP"))
    outside = tmp_path / "outside.pcd.bin"
    (tmp_path / "data" / row["filename"]).rename(outside)
    row["filename"] = "../outside.pcd.bin"
    write_table(tmp_path / "data", "sample_data", rows)
    with pytest.raises(InputRefused):
        measured(tmp_path / "data")


def test_the_real_extracts(real_data: Path) -> None:
    keyframe, minival = real_data / "nuscenes-keyframe", real_data / "nuscenes-minival"
    found = measured(keyframe)
    assert found["What is there", "annotations, all categories"].values == (69,)
    assert found["Boxes a keyframe", "boxes: mean, 5, 50, 95 %"].values[0] == 68  # one is of an eleventh class
    assert found["LiDAR", "points stored, mean"].values == (34_688,)
    assert found["RADAR_FRONT", "all: returns a sweep, 5, 50, 95 %"].count == 1
    assert found["RADAR_FRONT_LEFT", "all: returns a sweep, 5, 50, 95 %"].count == 0
    found = measured(keyframe, minival)
    assert found["What is there", "annotations, all categories"].values == (69 + 4514,)
    assert found["What is there", "LIDAR_TOP: sweeps there, read"] == Figure(
        "What is there (n: records)", "LIDAR_TOP: sweeps there, read", (2.0, 2.0), 788, "none"
    )
    assert found["Tracks", "keyframes of a track, 5, 50, 95 %"].count == 215
    assert found["Clocks", "LIDAR_TOP: rate (Hz), spread (± ms)"].values[0] == pytest.approx(20, abs=0.2)
    assert found["CAN bus", "pose: rate (Hz), spread (± ms)"].values[0] == pytest.approx(50, abs=0.5)


def test_real_boxes_by_class_and_distance_equal_the_devkits(real_data: Path) -> None:
    root = real_data / "nuscenes-minival"
    devkit, counts = NuScenes("v1.0-mini", str(root), verbose=False), []
    for sample in devkit.sample:
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        here = np.array(devkit.get("ego_pose", lidar["ego_pose_token"])["translation"][:2])
        for token in sample["anns"]:
            row = devkit.get("sample_annotation", token)
            distance = np.linalg.norm(np.array(row["translation"][:2]) - here)
            if row["category_name"] == "vehicle.car" and 20 <= distance < 30:
                counts.append(row["num_lidar_pts"])
    found = measured(root)["LiDAR points in a box", "car at 20-30 m: quartiles"]
    assert found.count == len(counts) > 500
    assert found.values == pytest.approx(np.quantile(counts, [0.25, 0.5, 0.75]))
