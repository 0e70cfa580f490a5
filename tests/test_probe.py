"""The linear probe: its targets, its precision and that it finds what is there to be found."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from datasets.faults import InputRefused
from perception.grid import BevGrid
from perception.linear_probe import LinearProbe, average_precision, drawn_cells, object_cells
from tests.random_batch import random_boxes
from tools.probe import ANY, ProbeArguments, probe

GRID = BevGrid((-16.0, 16.0), (-12.0, 12.0), 1.0)


def test_average_precision_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    for levels in (5, 1000):  # many equal scores, and hardly any
        scores = torch.randint(0, levels, (400,), generator=generator).float()
        truth = torch.rand(400, generator=generator) < 0.1
        expected = average_precision_score(truth.numpy(), scores.numpy())
        assert average_precision(scores, truth) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(average_precision(scores, torch.zeros(400, dtype=torch.bool)))


def test_objects_stand_where_their_boxes_do() -> None:
    boxes = random_boxes(12, torch.Generator().manual_seed(0), reach=18.0)
    found = object_cells(boxes, GRID)
    expected = torch.zeros_like(found)
    for index in range(12):
        x, y = boxes.centers[index, :2].tolist()
        width, length, _ = boxes.sizes_wlh[index].tolist()
        yaw = float(boxes.yaws[index])
        for row in range(GRID.shape[0]):
            for column in range(GRID.shape[1]):
                dx, dy = column - 15.5 - x, row - 11.5 - y
                along, across = math.cos(yaw) * dx + math.sin(yaw) * dy, math.cos(yaw) * dy - math.sin(yaw) * dx
                own = math.floor(x + 16) == column and math.floor(y + 12) == row
                if own or (abs(along) <= length / 2 and abs(across) <= width / 2):
                    expected[boxes.labels[index], row, column] = True
    assert torch.equal(found, expected)
    assert 12 < found.sum() < 200
    assert not object_cells(boxes[torch.zeros(12, dtype=torch.bool)], GRID).any()


def test_drawn_cells_stand_for_all() -> None:
    occupied = torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.1
    chosen, weights = drawn_cells(occupied, 40, torch.Generator().manual_seed(0))
    assert len(chosen) == int(occupied.sum()) + 40
    assert len(chosen.unique()) == len(chosen)
    assert weights.sum() == pytest.approx(500)
    assert occupied[chosen][: int(occupied.sum())].all()


def test_a_probe_finds_what_is_linear_and_nothing_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 8, generator=generator) * 50 + 7
    truth = torch.stack([features[:, 2] > 120, features[:, 5] + features[:, 1] > 130], dim=1)
    learn, test = slice(0, 2000), slice(2000, 4000)
    fitted = LinearProbe(features[learn], truth[learn], torch.ones(2000))
    scores = fitted(features[test])
    noise = torch.randn(4000, 8, generator=generator)
    of_noise = LinearProbe(noise[learn], truth[learn], torch.ones(2000))(noise[test])
    for target in (0, 1):
        assert average_precision(scores[:, target], truth[test][:, target]) > 0.97
        assert average_precision(of_noise[:, target], truth[test][:, target]) < 0.15


def test_the_command_sets_a_run_beside_its_own_start(
    untrained_run: Path, synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ProbeArguments(
        (untrained_run,), synthetic_root, samples=2, output=tmp_path / "probe.json", device="cpu", threads=1
    )
    (row,) = json.loads(probe(given).read_text())
    # The run was not trained: its weights are those of its seed.
    assert row["before"] == row["after"]
    assert set(row["before"]) == {"camera", "lidar", "radar"}
    assert all(0 < by_class[ANY] <= 1 for by_class in row["before"].values())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("seed 0")
    assert sum(ANY in line and line.endswith("0.0000") for line in printed) == 3
    assert np.isfinite([by_class[ANY] for by_class in row["after"].values()]).all()
    with pytest.raises(InputRefused, match="no run folder"):
        probe(ProbeArguments((tmp_path,), synthetic_root))
