"""What can be reproduced, by the name that the paper gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcbench.errors import InputError
from gcbench.recipe.figures import figure_names
from gcbench.recipe.tables import load_table, table_names
from gcbench.reporting.paper_figures import figure_1_rows
from gcbench.reproduce.plan import Selection

ALL, OVERVIEW = "all", "fig1"


@dataclass(frozen=True)
class Target:
    """What a name stands for.

    Attributes:
        selections: cells of tables, and of figures that are drawn from numbers.
        figures: ids of figures that show scenes.
    """

    selections: tuple[Selection, ...]
    figures: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is called."""
        if len(self.selections) == 1 and not self.figures:
            return self.selections[0].table.title
        return ", ".join([*(selection.table.id for selection in self.selections), *self.figures])


def target_names() -> list[str]:
    """All names."""
    return [*table_names(), OVERVIEW, *figure_names(), ALL]


def load_target(name: str, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Target:
    """The cells and figures behind a name.

    Raises:
        InputError: there is no such name, row or column, or rows are chosen of what is no single table.
    """
    if name not in target_names():
        raise InputError(f"There is no '{name}' to reproduce.", f"Known: {', '.join(target_names())}.")
    if name in table_names():
        return Target((Selection.of(load_table(name), rows, columns),))
    if rows or columns:
        raise InputError("--rows and --columns choose from one table.", "Leave them away, or name the table.")
    if name == ALL:
        return Target(tuple(Selection.of(load_table(table)) for table in table_names()), tuple(figure_names()))
    if name == OVERVIEW:
        return Target(tuple(Selection.of(load_table(table), rows) for table, rows in figure_1_rows().items()))
    return Target((), (name,))
