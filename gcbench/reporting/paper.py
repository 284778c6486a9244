"""The paper's numbers, cell by cell, from `reports/paper/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcbench.errors import DataError
from gcbench.resources import resource_path

_KEYS = {"schema_version", "table", "title", "source", "unit", "decimals", "comparison", "cells"}
_CELL_KEYS = {"id", "value", "place"}
_COMPARISON_KEYS = {"reproduced_within", "noise_factor"}


@dataclass(frozen=True)
class PaperValue:
    """One printed number (percent) and its place in the paper."""

    value: float
    place: str


@dataclass(frozen=True)
class PaperTable:
    """A table as the paper prints it.

    Attributes:
        cells: by id, ``<table>/<row>/<column>/<metric>``.
        reproduced_within: largest difference, in points, that counts as reproduced.
        noise_factor: a difference is within noise up to this many sample spreads times sqrt(1 + 1/n).
    """

    table: str
    title: str
    source: str
    decimals: int
    reproduced_within: float
    noise_factor: float
    cells: Mapping[str, PaperValue]


def load_paper_table(table_id: str) -> PaperTable:
    """The paper's numbers of a table.

    Raises:
        DataError: there is no such file, or it has an unknown key, a wrong type or the same cell twice.
    """
    from gcbench.recipe.yaml_files import read_yaml

    path = resource_path("reports", "paper", f"{table_id}.yaml")
    document = read_yaml(path)
    _same_keys(path, "the file", document, _KEYS)
    _same_keys(path, "comparison", document["comparison"], _COMPARISON_KEYS)
    if document["unit"] != "percent" or document["table"] != table_id or document["schema_version"] != 1:
        raise DataError(f"{path}: expected schema_version 1, table {table_id} and unit percent.")
    cells: dict[str, PaperValue] = {}
    for cell in document["cells"]:
        _same_keys(path, "a cell", cell, _CELL_KEYS)
        if cell["id"] in cells or not str(cell["id"]).startswith(f"{table_id}/"):
            raise DataError(f"{path}: cell id '{cell['id']}' stands twice, or is not of {table_id}.")
        cells[cell["id"]] = PaperValue(_number(path, cell["id"], cell["value"]), str(cell["place"]))
    return PaperTable(
        table=table_id,
        title=str(document["title"]),
        source=str(document["source"]),
        decimals=int(document["decimals"]),
        reproduced_within=_number(path, "reproduced_within", document["comparison"]["reproduced_within"]),
        noise_factor=_number(path, "noise_factor", document["comparison"]["noise_factor"]),
        cells=cells,
    )


def _same_keys(path: Path, what: str, mapping: Any, keys: set[str]) -> None:
    if not isinstance(mapping, dict) or set(mapping) != keys:
        raise DataError(f"{path}: {what} must have exactly the keys {', '.join(sorted(keys))}.")


def _number(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{path}: '{key}' is {value!r}, which is not a number.")
    return float(value)
