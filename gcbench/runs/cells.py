"""Which runs fill which cells of a table: written by the reproduction, read by the report.

One file for each table, ``<out>/cells/<table>.json``, so that a run that several tables need is made once and stands in
all of them, whatever their rows are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from gcbench.errors import RunError
from gcbench.runs.files import read_json, write_json
from gcbench.runs.schema import Strict
from gcbench.runs.store import Run, RunStore


class CellRun(Strict):
    """The run behind one cell for one seed.

    Attributes:
        row, column: ids of the cell.
        run: the run's folder below the store, e.g. ``"semantic/scannet-gaussiancross-seed0-1a2b3c4d"``.
    """

    row: str
    column: str
    seed: int
    run: str


class _Cells(Strict):
    schema_version: int = 1
    table: str
    cells: tuple[CellRun, ...]


def record_cells(out: Path, table: str, cells: Iterable[CellRun]) -> None:
    """Add runs to those that the table is known to have; what stands there already stays.

    Raises:
        RunError: the table's file is broken.
    """
    known = _read(out, table)
    write_json(_path(out, table), _Cells(table=table, cells=tuple(dict.fromkeys((*known, *cells)))).model_dump())


def recorded_tables(out: Path) -> list[str]:
    """Ids of the tables of which runs were planned."""
    return sorted(path.stem for path in (out / "cells").glob("*.json"))


def recorded_runs(out: Path, table: str) -> Iterator[tuple[CellRun, Run]]:
    """Planned runs of a table, done or not.

    Raises:
        RunError: the table's file is broken.
    """
    root = RunStore(out / "runs").root
    for cell in _read(out, table):
        yield cell, Run(root / cell.run)


def _read(out: Path, table: str) -> tuple[CellRun, ...]:
    path = _path(out, table)
    if not path.exists():
        return ()
    try:
        found = _Cells.model_validate(read_json(path))
    except ValidationError as error:
        raise RunError(
            f"{path} does not say which runs fill a table: {error}", "Run `gcbench reproduce` again."
        ) from error
    for cell in found.cells:
        parts = Path(cell.run).parts
        if found.table != table or len(parts) != 2 or ".." in parts or Path(cell.run).is_absolute():
            raise RunError(f"{path}: '{cell.run}' is no run of {table}.", "Run `gcbench reproduce` again.")
    return found.cells


def _path(out: Path, table: str) -> Path:
    return out / "cells" / f"{table}.json"
