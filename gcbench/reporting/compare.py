"""Joins the results of a table with the paper, cell by cell. Imports no torch, and quickly.

Rules
    Only like is averaged with like: results of one cell that differ in protocol, data, preset or recipe are separate
    entries, each named. A cell that was not run is blank. Results from synthetic rooms, or of a preset that changes
    the paper's settings, never get a verdict.

Values are percent, as in the paper; the spread is the sample standard deviation over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from gcbench.errors import InputError
from gcbench.reporting.paper import PaperTable, PaperValue

if TYPE_CHECKING:
    from gcbench.runs.results import TableResult

SYNTHETIC = "measured on synthetic rooms"


class Verdict(str, Enum):
    """What a cell says about the paper's number."""

    REPRODUCED = "reproduced"
    WITHIN_NOISE = "within noise"
    BELOW = "below"
    ABOVE = "above"
    NOT_COMPARABLE = "not comparable"
    NO_PAPER_VALUE = "no paper value"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class RowSpec:
    """A row of a table.

    Attributes:
        also: tables whose results of this row stand here too.
    """

    id: str
    title: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a table (a dataset); it has one number per metric."""

    id: str
    title: str


@dataclass(frozen=True)
class TableSpec:
    """What a table has, whether it was run or not."""

    id: str
    title: str
    rows: Sequence[RowSpec]
    columns: Sequence[ColumnSpec]
    metrics: Sequence[str]

    @classmethod
    def of(cls, table: Any) -> TableSpec:
        """From a table definition of the recipes (`id`, `title`, `rows`, `columns`, `metrics`)."""
        return cls(
            id=table.id,
            title=table.title,
            rows=tuple(RowSpec(row.id, row.title, tuple(row.also)) for row in table.rows),
            columns=tuple(ColumnSpec(column.id, column.title) for column in table.columns),
            metrics=tuple(table.metrics),
        )


@dataclass(frozen=True)
class MetricValue:
    """One metric of one entry, percent.

    Attributes:
        mean: over the seeds; NaN if it is undefined for one of them.
        spread: sample standard deviation, None for one seed.
        difference: mean minus the paper's value; None where they are not comparable.
    """

    mean: float
    spread: float | None
    values: tuple[float, ...]
    difference: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Entry:
    """Results of one cell that were measured alike: one per seed.

    Attributes:
        label: letter of the protocol in `Comparison.protocols`.
        why_not_comparable: empty if a verdict may be given.
        warnings: what a reader must know before trusting the mean.
    """

    label: str
    results: tuple[TableResult, ...]
    metrics: dict[str, MetricValue]
    why_not_comparable: str
    warnings: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(result.seed for result in self.results)


@dataclass(frozen=True)
class Cell:
    """One row and column: the paper's values by metric, and the entries, none if it was not run."""

    row: RowSpec
    column: ColumnSpec
    paper: dict[str, PaperValue]
    entries: tuple[Entry, ...]


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
        return len(self.table.rows) * len(self.table.columns)

    @property
    def synthetic(self) -> bool:
        """Some results come from synthetic rooms."""
        return any(result.provenance.synthetic for entry in self.entries for result in entry.results)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why entries are not comparable with the paper, each reason once."""
        return tuple(dict.fromkeys(entry.why_not_comparable for entry in self.entries if entry.why_not_comparable))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for entry in self.entries for seed in entry.seeds}))

    def tally(self) -> dict[Verdict, int]:
        """How many numbers of the entries got which verdict."""
        verdicts = [value.verdict for entry in self.entries for value in entry.metrics.values()]
        return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}

    def coverage(self) -> str:
        """One sentence: how much of the table was run."""
        seeds = "no seeds" if not self.seeds else f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        return f"{self.cells_run} of {self.cells_total} cells run, {seeds}"


def compare(table: TableSpec, results: Iterable[TableResult], paper: PaperTable | None) -> Comparison:
    """Join results with the paper.

    Args:
        table: rows, columns and metrics.
        results: in any order; folds and results of other tables are left out, and what fits no cell is listed.
        paper: its numbers, None to leave them out.

    Raises:
        InputError: a result lacks a metric of the table.
    """
    by_cell: dict[tuple[str, str], list[TableResult]] = {}
    also = {(other, row.id) for row in table.rows for other in row.also}
    for result in results:
        if (result.table == table.id or (result.table, result.row) in also) and result.fold is None:
            by_cell.setdefault((result.row, result.column), []).append(result)
    known = {(row.id, column.id) for row in table.rows for column in table.columns}
    protocols = _label_protocols(result for key in known & set(by_cell) for result in by_cell[key])
    cells = tuple(
        tuple(
            _cell(table, row, column, by_cell.get((row.id, column.id), []), protocols, paper)
            for column in table.columns
        )
        for row in table.rows
    )
    unused = tuple(sorted(f"{table.id}/{row}/{column}" for row, column in set(by_cell) - known))
    return Comparison(table, paper.source if paper else "", cells, tuple(protocols.values()), unused)


def _label_protocols(results: Iterable[TableResult]) -> dict[str, ProtocolUse]:
    described = {result.protocol.fingerprint(): result.protocol.describe() for result in results}
    ordered = sorted(described, key=lambda fingerprint: (described[fingerprint], fingerprint))
    return {
        fingerprint: ProtocolUse(_letter(number), fingerprint, described[fingerprint])
        for number, fingerprint in enumerate(ordered)
    }


def _letter(number: int) -> str:
    """A .. Z, then A1 .. Z1 and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def _cell(
    table: TableSpec,
    row: RowSpec,
    column: ColumnSpec,
    results: list[TableResult],
    protocols: dict[str, ProtocolUse],
    paper: PaperTable | None,
) -> Cell:
    ids = {metric: f"{table.id}/{row.id}/{column.id}/{metric}" for metric in table.metrics}
    printed = {metric: paper.cells[key] for metric, key in ids.items() if paper and key in paper.cells}
    alike: dict[tuple[Any, ...], list[TableResult]] = {}
    for result in results:
        missing = [metric for metric in table.metrics if metric not in result.metrics]
        if missing:
            raise InputError(f"The result of {row.id}/{column.id}, seed {result.seed}, has no '{missing[0]}'.")
        alike.setdefault(_like_key(result), []).append(result)
    entries = [
        _entry(group, protocols[group[0].protocol.fingerprint()].label, table.metrics, printed, paper)
        for _, group in sorted(alike.items(), key=lambda item: str(item[0]))
    ]
    entries.sort(key=lambda entry: (bool(entry.why_not_comparable), entry.label))
    return Cell(row, column, printed, tuple(entries))


def _like_key(result: TableResult) -> tuple[Any, ...]:
    """Results are averaged over seeds only where all of this is equal."""
    origin = result.provenance
    return (
        result.protocol.fingerprint(),
        origin.synthetic,
        origin.preset or "",
        origin.recipe,
        origin.recipe_hash,
        origin.data_fingerprint,
    )


def _entry(
    results: list[TableResult],
    label: str,
    metrics: Sequence[str],
    printed: dict[str, PaperValue],
    paper: PaperTable | None,
) -> Entry:
    latest: dict[int, TableResult] = {}
    for result in sorted(results, key=lambda result: result.provenance.ended):
        latest[result.seed] = result
    warnings = []
    if len(latest) < len(results):
        warnings.append(f"{len(results) - len(latest)} older result(s) of the same seed left out")
    chosen = tuple(latest[seed] for seed in sorted(latest))
    if len({result.provenance.git_commit for result in chosen}) > 1:
        warnings.append("the seeds were run with different commits of gcbench")
    if any(result.provenance.git_dirty for result in chosen):
        warnings.append("run with uncommitted changes of gcbench")
    why_not = _why_not_comparable(chosen[0])
    values = {
        metric: _value(tuple(100.0 * result.metrics[metric] for result in chosen), printed.get(metric), paper, why_not)
        for metric in metrics
    }
    return Entry(label, chosen, values, why_not, tuple(warnings))


def _why_not_comparable(result: TableResult) -> str:
    origin = result.provenance
    if origin.synthetic:
        return SYNTHETIC
    if origin.preset is not None:
        return f"run with the preset '{origin.preset}', which changes the paper's settings"
    return ""


def _value(
    values: tuple[float, ...], printed: PaperValue | None, paper: PaperTable | None, why_not: str
) -> MetricValue:
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 and not math.isnan(mean) else None
    if why_not or math.isnan(mean):
        return MetricValue(mean, spread, values, None, Verdict.NOT_COMPARABLE)
    if printed is None or paper is None:
        return MetricValue(mean, spread, values, None, Verdict.NO_PAPER_VALUE)
    difference = mean - printed.value
    return MetricValue(mean, spread, values, difference, _verdict(difference, spread, len(values), paper))


def _verdict(difference: float, spread: float | None, n: int, paper: PaperTable) -> Verdict:
    """The paper's number is one run: the noise of its difference to a mean of n runs is spread * sqrt(1 + 1/n)."""
    if abs(difference) <= paper.reproduced_within + 1e-9:
        return Verdict.REPRODUCED
    if spread is not None and abs(difference) <= paper.noise_factor * spread * math.sqrt(1 + 1 / n):
        return Verdict.WITHIN_NOISE
    return Verdict.BELOW if difference < 0 else Verdict.ABOVE
