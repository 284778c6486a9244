"""Where the numbers of one cell come from, for a terminal: facts, runs, files, and the recipe with its sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gcbench.reporting.comparison import Cell, Entry
from gcbench.reporting.provenance_text import entry_facts, heading, seed_lines
from gcbench.reporting.recorded import RecordedCell, training_job

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_provenance(cell: Cell, found: Sequence[RecordedCell]) -> RenderableType:
    """Everything that is known of a cell; nothing is printed here.

    Args:
        cell: of a comparison.
        found: the table's results, of which those of the cell, or of the columns that it is the mean of, are shown.

    Raises:
        RunError: a run's job is broken.
    """
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = []
    for entry in cell.entries:
        lines += [Text(heading(cell, entry), style="bold"), *_seeds(cell, entry)]
        lines.append(_grid([(fact.label, fact.text) for fact in entry_facts(cell, entry)]))
    if not cell.entries:
        lines.append(Text(f"{cell.row.title} · {cell.column.title}: {cell.blank or 'not run'}", style="bold"))
    columns = cell.column.of or (cell.column.id,)
    of_cell = [item for item in found if item.row == cell.row.id and item.column in columns]
    for item in of_cell:
        lines += [Text(f"\nSeed {item.seed}: {item.run.folder}", style="bold"), _grid(_files(item))]
    recipes = {item.result.provenance.recipe_hash: training_job(item.run).get("recipe", {}) for item in of_cell}
    for recipe_hash, recipe in recipes.items():
        lines += [Text(f"\nRecipe {recipe.get('name', '?')} [{recipe_hash}]", style="bold"), _recipe(recipe)]
    return Group(*lines)


def _seeds(cell: Cell, entry: Entry) -> list[RenderableType]:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    lines = seed_lines(cell, entry)
    if not lines:
        return []
    table = Table("seed", *lines[0].values, "time", "memory", "started (UTC)", "weights", box=SIMPLE_HEAD)
    for line in lines:
        table.add_row(str(line.seed), *line.values.values(), line.time, line.memory, line.started, line.weights)
    return [table]


def _files(item: RecordedCell) -> list[tuple[str, str]]:
    files = sorted(path for path in item.run.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [(path.relative_to(item.run.folder).as_posix(), f"{path.stat().st_size:,} bytes") for path in files]


def _recipe(recipe: dict[str, Any]) -> RenderableType:
    sources = recipe.get("sources", {})
    values = recipe.get("values", {}).items()
    return _grid([(key, str(value), str(sources.get(key, ""))) for key, value in values])


def _grid(rows: Sequence[tuple[str, ...]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(part) for part in row))
    return grid
