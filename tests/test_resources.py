"""The data folders are found in a checkout and in a wheel, and nothing outside them is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gcbench.errors import DataError
from gcbench.resources import DATA_FOLDERS, resource_path

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_a_checkout_has_every_folder(folder: str) -> None:
    assert resource_path(folder) == ROOT / folder
    assert any(path.is_file() for path in resource_path(folder).rglob("*"))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("gcbench",),
        ("..",),
        ("recipes", "..", "pyproject.toml"),
        ("recipes", "/etc/passwd"),
        ("reports", "no-such"),
    ],
)
def test_what_is_outside_or_missing_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        resource_path(*parts)


def test_an_installed_package_carries_the_folders(tmp_path: Path) -> None:
    """The layout of a wheel: the folders inside the package, nothing beside it."""
    package = tmp_path / "gcbench"
    package.mkdir()
    for module in ("__init__.py", "errors.py", "resources.py"):
        shutil.copy(ROOT / "gcbench" / module, package)
    (package / "recipes").mkdir()
    (package / "recipes" / "a.yaml").write_text("a: 1\n")
    code = "from gcbench.resources import resource_path; print(resource_path('recipes', 'a.yaml'))"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == package / "recipes" / "a.yaml"


def test_the_wheel_is_told_to_carry_the_folders() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    assert all(f'{folder} = "gcbench/{folder}"' in settings for folder in DATA_FOLDERS)
