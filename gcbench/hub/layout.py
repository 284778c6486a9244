"""What a published model consists of, and the manifest that says so. Imports no torch.

    model.safetensors   the weights                   config.json     what they are
    golden.json         golden features               manifest.json   SHA-256 and size of every other file
    recipe.json         what it was trained with      results/*.json  what was measured with it
    README.md           the card, with model-index    .eval_results/*.yaml
    curves.png          losses over the steps

Nothing else is ever published: a run folder also holds photos, renders and predictions of scans, which the terms of
ScanNet and S3DIS do not let anyone pass on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gcbench import __version__
from gcbench.errors import DataError, InputError
from gcbench.files import sha256, write_atomic
from gcbench.protocols.encoder_files import CONFIG, WEIGHTS
from gcbench.runs.schema import Strict

MANIFEST, GOLDEN, RECIPE, CARD, CURVES = "manifest.json", "golden.json", "recipe.json", "README.md", "curves.png"
RESULTS, EVALUATIONS = "results", ".eval_results"
NEEDED = (CONFIG, WEIGHTS, MANIFEST)  # to load
_NAME = re.compile(
    r"model\.safetensors|(?:config|golden|recipe)\.json|README\.md|curves\.png"
    r"|results/[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.json|\.eval_results/[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.yaml"
)
_AGAIN = "Download it again (hf cache rm), or ask who published it."


class FileEntry(Strict):
    """One file: its SHA-256, 64 hex digits, and its size in bytes."""

    sha256: str
    size: int


class Manifest(Strict):
    """`manifest.json`.

    Attributes:
        model_type: as in `config.json`.
        gcbench: version that wrote it.
        files: every other file of the model by its path in the repository.
    """

    schema_version: Literal[1] = 1
    model_type: str
    gcbench: str = __version__
    files: dict[str, FileEntry]


def is_publishable(name: str) -> bool:
    """Whether a path in the repository is one that a published model may have."""
    return name == MANIFEST or _NAME.fullmatch(name) is not None


def files_in(folder: Path) -> list[str]:
    """All files of a folder, as paths with ``/``.

    Raises:
        InputError: one of them is nothing that may be published, or a link.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or not is_publishable(name):
            raise InputError(
                f"{name} is no file of a published model, so nothing was published.",
                "Only weights, settings, results and the card may be: never scans, photos, labels or predictions.",
            )
        names.append(name)
    return names


def write_manifest(folder: Path, model_type: str) -> Manifest:
    """Hash all files of a folder and write `manifest.json`.

    Raises:
        InputError: see `files_in`.
    """
    names = [name for name in files_in(folder) if name != MANIFEST]
    files = {name: FileEntry(sha256=sha256(folder / name), size=(folder / name).stat().st_size) for name in names}
    manifest = Manifest(model_type=model_type, files=files)
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """`manifest.json` of a folder.

    Raises:
        DataError: it is missing, broken, or names files that no model has.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{folder} has no {MANIFEST}, so nothing of it can be checked.", _AGAIN) from error
    except (OSError, ValidationError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise DataError(f"{path} cannot be read ({first_line}).", _AGAIN) from error
    strange = [name for name in manifest.files if not is_publishable(name) or name == MANIFEST]
    if strange:
        raise DataError(f"{path} names '{strange[0]}', which no model has.", _AGAIN)
    return manifest


def changed_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> dict[str, str]:
    """Which of the files are not those of the manifest, and why, in words; empty when all are."""
    found: dict[str, str] = {}
    for name in names:
        entry, path = manifest.files.get(name), folder / name
        if entry is None:
            found[name] = "is not in the manifest"
        elif not path.is_file():
            found[name] = "is missing"
        elif path.stat().st_size != entry.size:
            found[name] = f"has {path.stat().st_size:,} bytes, {entry.size:,} were published"
        elif sha256(path) != entry.sha256:
            found[name] = "is not what was published (its SHA-256 differs)"
    return found


def check_unchanged(folder: Path, manifest: Manifest, names: Iterable[str], where: str) -> None:
    """Refuse files that are not those of the manifest.

    Raises:
        DataError: one differs.
    """
    changed = changed_files(folder, manifest, names)
    if changed:
        lines = "; ".join(f"{name} {why}" for name, why in changed.items())
        raise DataError(f"'{where}' was damaged or changed: {lines}.", _AGAIN)
