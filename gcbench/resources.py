"""Finds the three data folders (`recipes`, `evaluation`, `reports`), in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

from gcbench.errors import DataError

DATA_FOLDERS = ("recipes", "evaluation", "reports")
_PACKAGE = Path(__file__).resolve().parent


def resource_path(*parts: str) -> Path:
    """Path of a file or folder inside the data folders, e.g. ``resource_path("evaluation", "labels")``.

    In a wheel the folders lie inside the package, in a checkout beside it.

    Raises:
        DataError: there is no such file or folder.
    """
    if not parts or parts[0] not in DATA_FOLDERS:
        raise DataError(f"'{'/'.join(parts)}' is not inside one of {', '.join(DATA_FOLDERS)}.")
    for root in (_PACKAGE, _PACKAGE.parent):
        folder = root / parts[0]
        if not folder.is_dir():
            continue
        path = folder.joinpath(*parts[1:])
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"'{'/'.join(parts)}' leads out of {folder}.")
        if path.exists():
            return path
    raise DataError(
        f"gcbench's own file '{'/'.join(parts)}' is missing.",
        "Check the name; if it should be there, reinstall gcbench.",
    )
