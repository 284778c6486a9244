"""A table beside the paper, as data: what it has, what was found for each cell, and what that says.

Made by `gcbench.reporting.compare.compare`. Imports no torch, and quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gcbench.reporting.paper import PaperValue
from gcbench.reporting.verdicts import MetricValue, Verdict

if TYPE_CHECKING:
    from gcbench.runs.results import CellContent


@dataclass(frozen=True)
class RowSpec:
    """A row of a table; `runs` is False where only the paper has numbers."""

    id: str
    title: str
    runs: bool = True


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a table; it has one number per metric.

    Attributes:
        metrics: of this column; empty means the table's.
        kind: ``trained``, ``pretraining`` or ``mean``, see `gcbench.recipe.tables.TableColumn`.
        rows: ids of the rows that have it; None means all.
        of: the columns that a mean is over.
        folds: how many are scored together.
    """

    id: str
    title: str
    metrics: tuple[str, ...] = ()
    kind: Literal["trained", "pretraining", "mean"] = "trained"
    rows: tuple[str, ...] | None = None
    of: tuple[str, ...] = ()
    folds: int = 1


@dataclass(frozen=True)
class TableSpec:
    """What a table has, whether it was run or not; `metrics` are of the columns that name none of their own."""

    id: str
    title: str
    rows: Sequence[RowSpec]
    columns: Sequence[ColumnSpec]
    metrics: Sequence[str]

    @classmethod
    def of(cls, table: Any) -> TableSpec:
        """From a table definition of the recipes (`gcbench.recipe.tables.Table`)."""
        return cls(
            id=table.id,
            title=table.title,
            rows=tuple(RowSpec(row.id, row.title, row.runs) for row in table.rows),
            columns=tuple(
                ColumnSpec(
                    id=column.id,
                    title=column.title,
                    metrics=tuple(column.metrics),
                    kind=column.kind,
                    rows=column.rows,
                    of=tuple(column.of),
                    folds=max(len(column.folds), 1),
                )
                for column in table.columns
            ),
            metrics=tuple(table.metrics),
        )

    def metrics_of(self, column: ColumnSpec) -> tuple[str, ...]:
        """The numbers of a column, in order."""
        return column.metrics or tuple(self.metrics)

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """Every metric once, in the order in which the columns have them."""
        return tuple(dict.fromkeys(metric for column in self.columns for metric in self.metrics_of(column)))


@dataclass(frozen=True)
class Entry:
    """Results of one cell that were measured alike: one per seed.

    Attributes:
        label: letter of the protocol in `Comparison.protocols`; of a mean its parts' letters; empty for a pre-training.
        seeds: one for each value of a metric.
        results: one per seed; of a mean the results of all its parts.
        why_not_comparable: empty if a verdict may be given.
        warnings: what a reader must know before trusting the mean.
        parts: of a mean, the entries it is over.
    """

    label: str
    seeds: tuple[int, ...]
    results: tuple[CellContent, ...]
    metrics: dict[str, MetricValue]
    why_not_comparable: str
    warnings: tuple[str, ...]
    parts: tuple[Entry, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Measured on synthetic rooms."""
        return any(result.provenance.synthetic for result in self.results)


@dataclass(frozen=True)
class Cell:
    """One row and column: the paper's values by metric, and the entries; without any, `blank` says why."""

    row: RowSpec
    column: ColumnSpec
    metrics: tuple[str, ...]
    paper: dict[str, PaperValue]
    entries: tuple[Entry, ...]
    blank: str = ""

    @property
    def exists(self) -> bool:
        """The row has this column."""
        return self.column.rows is None or self.row.id in self.column.rows

    @property
    def counts(self) -> bool:
        """The cell can be run."""
        return self.exists and self.row.runs


@dataclass(frozen=True)
class ProtocolUse:
    """A protocol that occurs in the table, under a letter."""

    label: str
    fingerprint: str
    description: str


@dataclass(frozen=True)
class Comparison:
    """A whole table beside the paper.

    Attributes:
        source: where the paper's numbers come from; empty if there are none.
        cells: row by row.
        unused: ids of results that belong to no cell of the table.
    """

    table: TableSpec
    source: str
    cells: tuple[tuple[Cell, ...], ...]
    protocols: tuple[ProtocolUse, ...]
    unused: tuple[str, ...] = field(default=())

    @property
    def entries(self) -> list[Entry]:
        return [entry for row in self.cells for cell in row for entry in cell.entries]

    @property
    def cells_run(self) -> int:
        return sum(bool(cell.entries) for row in self.cells for cell in row)

    @property
    def cells_total(self) -> int:
        """Cells that can be run: not those of rows of the paper alone."""
        return sum(cell.counts for row in self.cells for cell in row)

    @property
    def synthetic(self) -> bool:
        """Some results come from synthetic rooms."""
        return any(entry.synthetic for entry in self.entries)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for entry in self.entries for seed in entry.seeds}))

    def tally(self) -> dict[Verdict, int]:
        """How many numbers have which verdict; those of cells that could be run but were not are `NOT_RUN`."""
        cells = [cell for row in self.cells for cell in row if cell.counts]
        verdicts = [value.verdict for entry in self.entries for value in entry.metrics.values()]
        verdicts += [Verdict.NOT_RUN for cell in cells if not cell.entries for _ in cell.metrics]
        return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}

    def coverage(self) -> str:
        """One sentence: how much of the table was run."""
        return f"{self.cells_run} of {self.cells_total} cells run, {seeds_text(self.seeds)}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as people say them."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else "no seeds"
