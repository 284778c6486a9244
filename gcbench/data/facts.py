"""Reads facts on datasets: YAML below `evaluation/`, checked against a model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from gcbench.errors import DataError, RecipeError
from gcbench.recipe.yaml_files import read_yaml

_Model = TypeVar("_Model", bound=BaseModel)


def read_facts(path: Path, model: type[_Model], key: str | None = None) -> _Model:
    """The content of a YAML file, or of one of its keys.

    Args:
        path: the file.
        model: what it must be.
        key: its only key that counts; None takes the whole file.

    Raises:
        DataError: the file is missing or no YAML, or a value is not what the model says; file and key are named.
    """
    try:
        content = read_yaml(path)
    except RecipeError as error:
        raise DataError(error.message) from error
    if key is not None:
        if key not in content:
            raise DataError(f"{path} has no key '{key}'.")
        content = content[key]
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ([key] if key else []) + list(first["loc"])) or "file"
        raise DataError(f"{path}: '{where}': {first['msg']}.") from error
