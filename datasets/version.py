"""The version of Bevel, installed or run from a checkout that is not."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def bevel_version() -> str:
    """As the installed package has it, otherwise as the pyproject.toml of this checkout does."""
    try:
        return version("bevel")
    except PackageNotFoundError:
        pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
        found: str = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
        return found
