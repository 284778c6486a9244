"""Reads the files of `reports/paper` strictly: an unknown key, a wrong type or an id out of place is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gcbench.errors import DataError
from gcbench.recipe.yaml_files import read_yaml
from gcbench.reporting.paper import (
    PaperDelta,
    PaperMetric,
    PaperRowFacts,
    PaperSetting,
    PaperTable,
    PaperValue,
    PrintedTwice,
    Statement,
)

CellId = Annotated[str, Field(pattern=r"^[a-z0-9]+(/[\w.-]+){3}$")]
_WORDS = {  # of pydantic's kinds of error
    "extra_forbidden": "is unknown; a file must have exactly the keys it is defined with",
    "unexpected_keyword_argument": "is unknown; an entry must have exactly the keys it is defined with",
    "missing": "is missing; a file must have exactly the keys it is defined with",
    "missing_argument": "is missing; an entry must have exactly the keys it is defined with",
    "float_type": "is not a number",
    "finite_number": "is not a number",
}
_FileType = TypeVar("_FileType", bound="_File")


class _File(BaseModel):
    """The classes of `paper` that stand in a file are checked by its rules."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _VersionedFile(_File):
    schema_version: Literal[1]


class _Cell(_File):
    id: CellId
    value: float
    place: str


class _Comparison(_File):
    reproduced_within: Annotated[float, Field(gt=0)]
    noise_factor: Annotated[float, Field(gt=0)]


class _TableFile(_VersionedFile):
    table: str
    title: str
    source: str
    unit: Literal["percent"]
    decimals: Annotated[int, Field(ge=0)]
    comparison: _Comparison
    cells: tuple[_Cell, ...]
    blanks: tuple[CellId, ...] = ()
    rows: tuple[PaperRowFacts, ...] = ()
    deltas: tuple[PaperDelta, ...] = ()
    metrics: dict[str, PaperMetric] = {}
    averages: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _cells_and_rows(self) -> _TableFile:
        ids = [*(cell.id for cell in self.cells), *self.blanks]
        _once("cell", ids)
        _once("row", [row.id for row in self.rows])
        known = {row.id for row in self.rows}
        for key in ids:
            table, row, _, _ = key.split("/")
            if table != self.table:
                raise ValueError(f"the cell '{key}' is not of {self.table}")
            if known and row not in known:
                raise ValueError(f"the cell '{key}' is of none of the rows {', '.join(sorted(known))}")
        return self

    @model_validator(mode="after")
    def _deltas(self) -> _TableFile:
        _once("delta of cell", [delta.cell for delta in self.deltas])
        printed = {cell.id for cell in self.cells}
        for delta in self.deltas:
            if not {delta.cell, delta.to} <= printed:
                raise ValueError(f"the delta of '{delta.cell}' to '{delta.to}' is of cells without a number")
        return self


class _SettingsFile(_VersionedFile):
    source: str
    settings: tuple[PaperSetting, ...]

    @model_validator(mode="after")
    def _settings(self) -> _SettingsFile:
        _once("setting", [setting.id for setting in self.settings])
        for setting in self.settings:
            if bool(setting.recipes) != bool(setting.values):
                raise ValueError(f"the setting '{setting.id}' needs both of recipes and values, or none")
        return self


class _StatementsFile(_VersionedFile):
    statements: tuple[Statement, ...]
    printed_twice: tuple[PrintedTwice, ...]

    @model_validator(mode="after")
    def _statements(self) -> _StatementsFile:
        _once("statement", [statement.id for statement in self.statements])
        for said in self.statements:
            of_value = (said.printed is not None, bool(said.above), said.at_most is not None)
            if sum((*of_value, bool(said.rows), bool(said.texts))) != 1 or any(of_value) != bool(said.value):
                raise ValueError(f"the statement '{said.id}' must say one thing, of a value, of rows or of texts")
            if bool(said.rows) != bool(said.printed_table):
                raise ValueError(f"the statement '{said.id}' needs both of rows and printed_table")
        return self


def read_table(path: Path, table_id: str) -> PaperTable:
    """A table's file. Raises `DataError`, as the two below."""
    file = _read(path, _TableFile)
    if file.table != table_id:
        raise DataError(f"{path}: 'table' is '{file.table}', not '{table_id}'.")
    return PaperTable(
        table=file.table,
        title=file.title,
        source=file.source,
        decimals=file.decimals,
        reproduced_within=file.comparison.reproduced_within,
        noise_factor=file.comparison.noise_factor,
        cells={cell.id: PaperValue(cell.value, cell.place) for cell in file.cells},
        blanks=file.blanks,
        rows={row.id: row for row in file.rows},
        deltas=file.deltas,
        metrics=file.metrics,
        averages=file.averages,
    )


def read_settings(path: Path) -> tuple[PaperSetting, ...]:
    """The file of settings."""
    return _read(path, _SettingsFile).settings


def read_statements(path: Path) -> tuple[tuple[Statement, ...], tuple[PrintedTwice, ...]]:
    """The file of statements, and the cells that are printed more than once."""
    file = _read(path, _StatementsFile)
    return file.statements, file.printed_twice


def _read(path: Path, model: type[_FileType]) -> _FileType:
    document = read_yaml(path)
    try:
        return model.model_validate_json(json.dumps(document))
    except TypeError as error:
        raise DataError(f"{path}: a value is of a type that these files do not have: {error}") from error
    except ValidationError as error:
        raise DataError("\n".join(_explain(path, item) for item in error.errors())) from error


def _explain(path: Path, item: Mapping[str, Any]) -> str:
    kind, key = item["type"], ".".join(str(part) for part in item["loc"])
    if kind == "value_error":
        return f"{path}: {item['msg'].removeprefix('Value error, ')}."
    if kind in _WORDS:
        return f"{path}: '{key}' {_WORDS[kind]}."
    if key == "unit":
        return f"{path}: 'unit' is {item['input']!r}; expected unit percent, others are named under 'metrics'."
    return f"{path}: '{key}' is {str(item['input'])[:80]!r}: {item['msg']}."


def _once(what: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise ValueError(f"the {what} '{key}' stands twice")
        seen.add(key)
