"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Two cores serve all test processes; and bit-equality is promised for one thread.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of datasets that may not be written to go to the user's cache: not to that of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sensor data (its README names the licence: it is never committed)."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("BEVEL_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real sensor data at {folder}: set BEVEL_REAL_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataset of tests/small_world.py, written once for each test process; only read it."""
    from datasets.synthetic.simulate import simulate
    from tests.small_world import SMALL_WORLD

    root = tmp_path_factory.mktemp("synthetic") / "small_world"
    simulate(root, SMALL_WORLD)
    return root


@pytest.fixture(scope="session")
def nuscenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that tests/nuscenes_fixture.py writes unless told otherwise; only read it."""
    from tests.nuscenes_fixture import write_dataset

    root = tmp_path_factory.mktemp("nuscenes")
    write_dataset(root)
    return root


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small detector that was not trained; only read it."""
    from tests.untrained_run import write_untrained_run

    folder = tmp_path_factory.mktemp("runs") / "small"
    write_untrained_run(folder)
    return folder


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """As at a terminal: a shell starts what runs in its background with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
