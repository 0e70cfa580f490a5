"""What CUDA is compared with comes out of its files as it went in, and can be computed again."""

from pathlib import Path

import pytest
import torch

from tests.cuda_reference import TRAINING, cases, reference, results, tensors_in, trained, write_references


def test_a_reference_that_was_written_is_computed_again_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_references(tmp_path, ["temporal", TRAINING])
    monkeypatch.setenv("BEVEL_CPU_REFERENCE", str(tmp_path))
    reference.cache_clear()
    held, training = reference("temporal"), reference(TRAINING)
    reference.cache_clear()
    for name, value in tensors_in(cases()["temporal"].batch).items():
        assert torch.equal(tensors_in(held.batch)[name], value), name
    assert len(held.batch.previous) == 1
    again = results(held.network(), held.batch)
    assert again.keys() == held.results.keys()
    assert any(name.startswith("gradient/temporal.") for name in again)
    for name, value in again.items():
        assert torch.equal(value, held.results[name]), name
    found = trained(training.network(), training.batch, "muon", "fp32")
    assert torch.equal(found["losses"], training.results["muon/losses"])
    assert found["losses"][-1] < found["losses"][0]
