"""Which libraries a module may import. `make lint` (import-linter) holds which of gcbench's own modules it may."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "gcbench").rglob("*.py"))
# Import name of a distribution, where it is not the distribution's own name.
IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "huggingface-hub": "huggingface_hub",
    "torch-scatter": "torch_scatter",
    "umap-learn": "umap",
    "libigl": "igl",
}


def imported(source: str) -> Iterator[str]:
    """Yield the dotted names that a source text imports, also by `require("name", ...)` and `import_module("name")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("require", "import_module") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def importers_of(library: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.partition(".")[0] == library for name in imported(path.read_text()))
    }


def test_the_search_sees_every_way_to_import() -> None:
    source = (
        "import a.b\ndef f():\n    from c.d import e\n    require('g.h', 'x', 'y')\n    importlib.import_module('i')\n"
    )
    assert sorted(imported(source)) == ["a.b", "c.d", "g.h", "i"]


def test_spconv_is_imported_by_the_sparse_modules_only() -> None:
    importers = importers_of("spconv")
    assert importers
    assert all(name.startswith("gcbench/models/sparse_") for name in importers), importers


def test_gsplat_is_imported_by_its_backend_only() -> None:
    assert importers_of("gsplat") <= {"gcbench/splatting/gsplat_backend.py"}


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = [re.split(r"[^A-Za-z0-9-]", line, maxsplit=1)[0].lower() for line in lines]
    known = {IMPORT_NAMES.get(name, name) for name in names} | set(sys.stdlib_module_names) | {"gcbench"}
    used = {name.partition(".")[0]: path.name for path in SOURCES for name in imported(path.read_text())}
    assert {name: where for name, where in used.items() if name not in known} == {}


@pytest.mark.parametrize(
    "package", ["recipe", "runs", "scoring", "reporting", "errors", "structures", "resources", "cli"]
)
def test_a_laptop_package_imports_no_torch(package: str) -> None:
    """Importing every module of the package loads none of the heavy libraries."""
    folder = ROOT / "gcbench" / package
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    # A `__main__` runs on import.
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files if path.stem != "__main__"
    ]
    assert modules
    loads = "; ".join(f"import {module.removesuffix('.__init__')}" for module in modules)
    check = f"{loads}; import sys; print([name for name in ('torch', 'spconv', 'gsplat') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")
