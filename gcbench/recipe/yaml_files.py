"""Reads YAML: recipes, and the facts of other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gcbench.errors import RecipeError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a safe loader, in C where PyYAML has it


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        RecipeError: not readable, not YAML, or not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: the top level must be a mapping of keys to values.")
    return document
