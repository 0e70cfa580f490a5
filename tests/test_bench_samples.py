"""The benchmark of samples: what it compares does agree, whatever the times are."""

from pathlib import Path

import torch

from tools.benchmarks.samples import bench_samples


def test_all_ways_do_the_same_work(synthetic_root: Path) -> None:
    threads = torch.get_num_threads()
    result = bench_samples(rounds=1, repeats=1, world=synthetic_root)
    assert torch.get_num_threads() == threads
    sweeps, boxes, pictures, voxels = result.comparisons
    assert float(sweeps.agreement.split()[-2]) < 1e-4
    assert boxes.agreement == "40 of 40 counts equal"
    assert "dB" in pictures.agreement
    ours, theirs = voxels.agreement.replace(",", "").split()[0], voxels.agreement.split()[-1]
    assert ours == theirs
    assert result.samples_per_second > 0
    table = result.table()
    for comparison in result.comparisons:
        assert comparison.work in table
        assert all(ratio > 0 for ratio in comparison.ratios().values())
