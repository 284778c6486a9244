"""Table definitions: which rows and columns a table of the paper has, and the recipe behind each cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gcbench.errors import InputError, RecipeError
from gcbench.recipe.loader import Value, flatten_values
from gcbench.recipe.yaml_files import read_yaml
from gcbench.resources import resource_path


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class TableRow(_Part):
    """A row: the encoder it starts from and what it changes in a column's recipe.

    Attributes:
        runs: False for a row that is shown with the paper's numbers only.
        pretrain: the pre-training recipe whose encoder is loaded, or None for a random start.
        values: dotted key -> value and source, laid over the column's recipe.
        also: tables in which the same trainings stand under the same row and columns; they are run once.
    """

    id: str
    title: str
    runs: bool
    pretrain: str | None
    values: Mapping[str, Value]
    also: tuple[str, ...] = ()


class Fold(_Part):
    """Splits trained on and scored on."""

    train: tuple[str, ...]
    val: tuple[str, ...]


class TableColumn(_Part):
    """A column: data, label set and recipe; several folds are scored together (summed counts).

    Attributes:
        recipe: of kind `semantic` or `instance`. A variant of it is called ``<recipe>-<variant>``.
        limit: the data-efficient set that is trained on, e.g. ``"points-20"``; None takes the folds' splits whole.
    """

    id: str
    title: str
    data: Literal["scannet", "s3dis"]
    label_set: str
    recipe: str
    limit: str | None = None
    folds: tuple[Fold, ...]


class Table(_Part):
    """A table of the paper as it is reproduced."""

    id: str
    title: str
    source: str
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]
    columns: tuple[TableColumn, ...]


def table_names() -> list[str]:
    """Ids of all tables."""
    return sorted(path.stem for path in resource_path("recipes", "tables").glob("*.yaml"))


def load_table(table_id: str) -> Table:
    """Load a table definition.

    Raises:
        InputError: there is no such table.
        RecipeError: its file is not what it must be.
    """
    if table_id not in table_names():
        raise InputError(f"There is no table '{table_id}'.", f"Known: {', '.join(table_names())}.")
    path = resource_path("recipes", "tables", f"{table_id}.yaml")
    document = read_yaml(path)
    try:
        rows = tuple(_row(path, row) for row in document.pop("rows"))
        columns = tuple(_column(column) for column in document.pop("columns"))
        return Table(**{**document, "metrics": tuple(document["metrics"])}, rows=rows, columns=columns)
    except (KeyError, TypeError, ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _row(path: Path, row: dict[str, Any]) -> TableRow:
    values = dict(flatten_values(path, row.get("values") or {}))
    return TableRow(**{"runs": True, "pretrain": None, **row, "values": values, "also": tuple(row.get("also", ()))})


def _column(column: dict[str, Any]) -> TableColumn:
    folds = tuple(Fold(train=tuple(fold["train"]), val=tuple(fold["val"])) for fold in column["folds"])
    return TableColumn(**{**column, "folds": folds})
