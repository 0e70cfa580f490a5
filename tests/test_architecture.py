"""The import order of the house, read from the source: tools -> perception -> datasets -> calibration."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("calibration", "datasets", "perception", "tools")
# The network must be importable where these are not installed (a GPU machine, a robot).
KEPT_OUT = {"calibration": {"open3d", "nuscenes"}, "perception": {"open3d", "nuscenes"}}
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    imported = imported_packages(path)
    assert not imported & above, f"{path} imports from a layer above its own"
    assert not imported & KEPT_OUT.get(layer, set()), f"{path} needs a package that its layer must do without"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_postpones_annotations(path: Path) -> None:
    source = path.read_text()
    for forbidden in ("import pickle", "weights_only=False", "allow_pickle=True", "yaml.load("):
        assert forbidden not in source, f"{path}: {forbidden}"
    # jaxtyping's runtime checks see nothing behind postponed annotations.
    assert "from __future__ import annotations" not in source, path


def test_spconv_has_one_door() -> None:
    importers = {
        str(path.relative_to(ROOT)) for path in SOURCES if imported_packages(path) & {"spconv", "spconv_triton"}
    }
    # And benchmarks that compare with its voxeliser, and with its layers called directly.
    assert importers <= {"perception/sparse.py", "tools/benchmarks/samples.py", "tools/benchmarks/lidar_encoder.py"}
