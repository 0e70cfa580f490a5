"""Weights on disk: they come back bit-equal, and what does not fit is refused with its name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from datasets.faults import InputRefused
from perception.detector import Detector
from perception.weights import load_weights, save_weights
from tests.random_batch import random_batch
from tests.small_run import small_detector


def detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(small_detector())


def saved_config(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["config"])


def test_weights_come_back_bit_equal(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    saved = detector(0)
    save_weights(saved, path, '{"preset": "small", "note": "ü"}')
    loaded = detector(1)
    load_weights(loaded, path)
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert saved_config(path) == '{"preset": "small", "note": "ü"}'
    batch = random_batch(1, torch.Generator().manual_seed(0))
    assert torch.equal(saved.eval()(batch).bev, loaded.eval()(batch).bev)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_saving_over_a_file_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(detector(0), path, "{}")
    save_weights(detector(1), path, "[]")
    loaded = detector(0)
    load_weights(loaded, path)
    assert torch.equal(loaded.fusion.at_cells.query, detector(1).fusion.at_cells.query)
    assert saved_config(path) == "[]"


def test_weights_of_another_architecture_are_refused_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    config = small_detector()
    others = [
        (replace(config, radar=None), "lacks radar"),
        (replace(config, head=replace(config.head, hidden=32)), "regress"),
    ]
    for other, word in others:
        save_weights(Detector(other), path, "{}")
        network = detector(2)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(InputRefused, match=word):
            load_weights(network, path)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save_weights(detector(), path, "{}")
    with pytest.raises(InputRefused, match=r"unknown tensor \S*radar\."):
        load_weights(Detector(replace(config, radar=None)), path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(detector(), path, "{}")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    network = detector()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(header, len(whole), (15,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputRefused, match="checksum"):
            load_weights(network, path)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path, network = tmp_path / "weights.safetensors", detector()
    with pytest.raises(InputRefused, match="no such"):
        load_weights(network, path)
    save_weights(network, path, "{}")
    whole = path.read_bytes()
    for content in (b"", b"\x80\x04K\x01.", whole[: len(whole) // 2], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(InputRefused, match="not a readable"):
            load_weights(network, path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputRefused, match="not a Bevel"):
        load_weights(network, path)


def test_saving_to_a_folder_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file|not"):
        save_weights(detector(), tmp_path / "missing" / "weights.safetensors", "{}")
    assert list(tmp_path.iterdir()) == []
