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


class StandIn(_Part):
    """What a row's pre-training takes under a preset instead of what the row is about.

    Attributes:
        note: says so; it stands in every result.
        values: dotted key -> value and source, laid over the pre-training recipe.
    """

    note: str
    values: Mapping[str, Value]


class TableRow(_Part):
    """A row: the encoder it starts from and what it changes in a column's recipe.

    Attributes:
        runs: False for a row that is shown with the paper's numbers only.
        pretrain: the pre-training recipe whose encoder is loaded, or None for a random start.
        values: dotted key -> value and source, laid over the column's recipe.
        stand_ins: preset -> what stands in for something that the preset has not.
    """

    id: str
    title: str
    runs: bool
    pretrain: str | None
    values: Mapping[str, Value]
    stand_ins: Mapping[str, StandIn]


class Fold(_Part):
    """Splits trained on and scored on."""

    train: tuple[str, ...]
    val: tuple[str, ...]


class TableColumn(_Part):
    """A column.

    Attributes:
        kind: ``trained``: a training on top of the row's encoder is scored; ``pretraining``: what the row's
            pre-training itself measured; ``mean``: the mean of other columns.
        metrics: the column's numbers, in the table's order.
        rows: ids of the rows that have this column; None means all.
        of: the columns that a mean is over.
        data, label_set: of a training.
        recipe: of kind `semantic` or `instance`. A variant of it is called ``<recipe>-<variant>``.
        limit: the data-efficient set that is trained on, e.g. ``"points-20"``; None takes the folds' splits whole.
        folds: several are scored together (summed counts).
    """

    id: str
    title: str
    kind: Literal["trained", "pretraining", "mean"] = "trained"
    metrics: tuple[str, ...]
    rows: tuple[str, ...] | None = None
    of: tuple[str, ...] = ()
    data: Literal["scannet", "s3dis"] = "scannet"
    label_set: str = ""
    recipe: str = ""
    limit: str | None = None
    folds: tuple[Fold, ...] = ()

    def has(self, row: str) -> bool:
        """Whether a row has this column."""
        return self.rows is None or row in self.rows


class Table(_Part):
    """A table of the paper as it is reproduced, or a figure that is drawn from numbers of the same kind.

    Attributes:
        metrics: of columns that name none of their own.
        presets: preset -> kind of recipe -> values laid over it, for tables that are smaller still under a preset.
    """

    id: str
    title: str
    source: str
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]
    columns: tuple[TableColumn, ...]
    presets: Mapping[str, Mapping[str, Mapping[str, Value]]]


def table_names() -> list[str]:
    """Ids of all tables."""
    names = (path.stem for path in resource_path("recipes", "tables").glob("*.yaml"))
    return sorted(names, key=lambda name: (not name.startswith("table"), name))


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
        metrics = tuple(document.pop("metrics"))
        rows = tuple(_row(path, row) for row in document.pop("rows"))
        columns = tuple(_column(column, metrics) for column in document.pop("columns"))
        overlays: dict[str, Any] = document.pop("presets", {})
        presets = {
            preset: {kind: _values(path, values) for kind, values in kinds.items()}
            for preset, kinds in overlays.items()
        }
        return Table(**document, metrics=metrics, rows=rows, columns=columns, presets=presets)
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _values(path: Path, node: Any) -> dict[str, Value]:
    return dict(flatten_values(path, node))


def _row(path: Path, row: dict[str, Any]) -> TableRow:
    values = _values(path, row.get("values") or {})
    stand_ins = {
        preset: StandIn(note=content["note"], values=_values(path, content["values"]))
        for preset, content in row.get("stand_ins", {}).items()
    }
    return TableRow(**{"runs": True, "pretrain": None, **row, "values": values, "stand_ins": stand_ins})


def _column(column: dict[str, Any], metrics: tuple[str, ...]) -> TableColumn:
    folds = tuple(Fold(train=tuple(fold["train"]), val=tuple(fold["val"])) for fold in column.get("folds", ()))
    lists: dict[str, Any] = {key: tuple(column[key]) for key in ("metrics", "rows", "of") if key in column}
    return TableColumn(**{"metrics": metrics, **column, **lists, "folds": folds})
