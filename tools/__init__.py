"""The commands: `bevel --help`, which is `python -m tools --help`."""

import sys
from importlib.util import find_spec
from pathlib import Path


def _refuse_foreign_datasets() -> None:
    # Hugging Face ships a package that is also called `datasets`. Where both are installed the wrong one may win,
    # and the first sign of it would be an ImportError deep in the code that names neither.
    root = Path(__file__).resolve().parent.parent
    specification = find_spec("datasets")
    found = Path(specification.origin).resolve() if specification is not None and specification.origin else None
    if found is not None and found.parent.parent == root:
        return
    message = (
        f"Bevel's own package 'datasets' ({root / 'datasets'}) is hidden by {found or 'nothing at all'}: another "
        "package of that name (Hugging Face's) is installed here, so give Bevel a virtual environment of its own "
        "(make setup) or run 'pip uninstall datasets'."
    )
    if Path(sys.argv[0]).name in ("bevel", "-m"):  # a command says one sentence; an import raises
        print(message, file=sys.stderr)
        raise SystemExit(3)
    raise ImportError(message)


_refuse_foreign_datasets()
