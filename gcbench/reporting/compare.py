"""Joins the results of a table with the paper, cell by cell. Imports no torch, and quickly.

Rules
    Only like is averaged with like: results of one cell that differ in protocol, data, preset or recipe are separate
    entries, each named. A cell that was not run is blank, and so is one that lacks a part: a mean column without one of
    its columns, a number of several folds without one of them. What gets a verdict, and which: `verdicts.judged_value`.

Values are in the unit of their metric (`verdicts.metric_unit`): percent, or what the paper's table prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from gcbench.errors import DataError, InputError
from gcbench.reporting.comparison import (
    Cell,
    ColumnSpec,
    Comparison,
    Entry,
    ProtocolUse,
    RowSpec,
    TableSpec,
    seeds_text,
)
from gcbench.reporting.paper import PaperTable
from gcbench.reporting.verdicts import MetricValue, Verdict, judged_value, metric_unit

if TYPE_CHECKING:
    from gcbench.runs.results import CellContent, TableResult

__all__ = [
    "Cell",
    "ColumnSpec",
    "Comparison",
    "Departures",
    "Entry",
    "Found",
    "RowSpec",
    "TableSpec",
    "Verdict",
    "compare",
]

SYNTHETIC = "measured on synthetic rooms"
ONE_SEED = "one seed: no spread"
NOT_RUN = "not run"
NO_CELL = "the table has no such cell"

Bootstrap = Callable[[Sequence["TableResult"]], Mapping[str, tuple[float, float]]]


class Found(Protocol):
    """A finished result and the cell it fills, e.g. `gcbench.reporting.recorded.RecordedCell`."""

    @property
    def row(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def result(self) -> CellContent: ...


@dataclass(frozen=True)
class Departures:
    """How a result's settings differ from the table's own recipe, each in words.

    Attributes:
        protocol: differences that make the number another one: evaluation, data, schedule, probe.
        others: differences that a reader must know of.
    """

    protocol: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def compare(
    table: TableSpec,
    found: Iterable[Found],
    paper: PaperTable | None,
    *,
    departures: Callable[[Found], Departures] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Comparison:
    """Join results with the paper.

    Args:
        table: rows, columns and metrics.
        found: results with their cells, in any order; single folds are left out, and what fits no cell is listed.
        paper: its numbers, None to leave them out.
        departures: how a result's settings differ from the table's recipe (`settings.TableSettings`).
        bootstrap: intervals over scenes by metric, as fractions (`intervals.SceneBootstrap`); None leaves them out.
            What it refuses is a warning of the entry.

    Raises:
        InputError: a result lacks a metric of its column, or is of another kind than it.
    """
    return _Joiner(table, paper, departures or (lambda _: Departures()), bootstrap).join(list(found))


def measured_values(result: CellContent) -> dict[str, float]:
    """A result's numbers by metric, as it stores them; of a pre-training what the paper's tables print."""
    if result.kind != "pretrain":
        return dict(result.metrics)
    finite = [point.psnr_train for point in result.psnr if math.isfinite(point.psnr_train)]
    return {
        "PSNR": finite[-1] if finite else math.nan,
        "memory": result.peak_memory_mb,
        "seconds": result.seconds_per_scene,
    }


class _Joiner:
    def __init__(
        self,
        table: TableSpec,
        paper: PaperTable | None,
        departures: Callable[[Found], Departures],
        bootstrap: Bootstrap | None,
    ) -> None:
        self.table, self.paper = table, paper
        self.departures, self.bootstrap = departures, bootstrap
        self.labels: dict[str, str] = {}

    def join(self, found: list[Found]) -> Comparison:
        by_cell: dict[tuple[str, str], list[Found]] = {}
        for item in found:
            if item.result.kind == "pretrain" or item.result.fold is None:
                by_cell.setdefault((item.row, item.column), []).append(item)
        known = {
            (row.id, column.id)
            for row in self.table.rows
            for column in self.table.columns
            if column.kind != "mean" and (column.rows is None or row.id in column.rows)
        }
        protocols = self._label_protocols(item.result for key in known & set(by_cell) for item in by_cell[key])
        cells = tuple(self._row(row, by_cell) for row in self.table.rows)
        unused = tuple(sorted(f"{self.table.id}/{row}/{column}" for row, column in set(by_cell) - known))
        return Comparison(self.table, self.paper.source if self.paper else "", cells, protocols, unused)

    def _label_protocols(self, results: Iterable[CellContent]) -> tuple[ProtocolUse, ...]:
        protocols = [result.protocol for result in results if result.kind != "pretrain"]
        described = {protocol.fingerprint(): protocol.describe() for protocol in protocols}
        ordered = sorted(described, key=lambda fingerprint: (described[fingerprint], fingerprint))
        self.labels = {fingerprint: _letter(number) for number, fingerprint in enumerate(ordered)}
        return tuple(ProtocolUse(self.labels[one], one, described[one]) for one in ordered)

    def _row(self, row: RowSpec, by_cell: Mapping[tuple[str, str], list[Found]]) -> tuple[Cell, ...]:
        cells: dict[str, Cell] = {}
        for column in self.table.columns:
            if column.kind != "mean":
                cells[column.id] = self._cell(row, column, by_cell.get((row.id, column.id), []))
        for column in self.table.columns:
            if column.kind == "mean":
                cells[column.id] = self._mean_cell(row, column, [cells[part] for part in column.of])
        return tuple(cells[column.id] for column in self.table.columns)

    def _cell(self, row: RowSpec, column: ColumnSpec, found: list[Found]) -> Cell:
        blank = self._blank_cell(row, column)
        if not blank.exists:
            return blank
        alike: dict[tuple[Any, ...], list[Found]] = {}
        lacking = ""
        for item in found:
            self._check(item, column)
            folds = len(item.result.folds) if item.result.kind != "pretrain" else 0
            if folds and folds != column.folds:
                lacking = f"{folds} of {column.folds} folds"
                continue
            alike.setdefault((*_like_key(item.result), self.departures(item)), []).append(item)
        entries = [self._entry(group, blank) for _, group in sorted(alike.items(), key=lambda pair: str(pair[0]))]
        return self._filled(blank, entries, lacking or NOT_RUN)

    def _mean_cell(self, row: RowSpec, column: ColumnSpec, parts: Sequence[Cell]) -> Cell:
        """One entry for every way of measuring that all parts share; two candidates of one part would be a guess."""
        blank = self._blank_cell(row, column)
        if not blank.exists:
            return blank
        by_setting = [_by_setting(part.entries) for part in parts]
        entries = []
        for setting in dict.fromkeys(key for part in by_setting for key in part):
            candidates = [part.get(setting, []) for part in by_setting]
            if all(len(found) == 1 for found in candidates):
                entry = self._mean_entry([found[0] for found in candidates], blank)
                entries += [entry] if entry is not None else []
        missing = [part.column.title for part in parts if not part.entries]
        needs = f"needs {' and '.join(missing)}" if missing else "its columns share no seed and protocol"
        return self._filled(blank, entries, needs if len(missing) < len(parts) else NOT_RUN)

    def _blank_cell(self, row: RowSpec, column: ColumnSpec) -> Cell:
        metrics = self.table.metrics_of(column)
        ids = {metric: f"{self.table.id}/{row.id}/{column.id}/{metric}" for metric in metrics}
        paper = self.paper
        printed = {metric: paper.cells[key] for metric, key in ids.items() if key in paper.cells} if paper else {}
        return Cell(row, column, metrics, printed, (), NO_CELL)

    def _filled(self, blank: Cell, entries: list[Entry], why_blank: str) -> Cell:
        entries.sort(key=lambda entry: (bool(entry.why_not_comparable), entry.label))
        return replace(blank, entries=tuple(entries), blank="" if entries else why_blank)

    def _check(self, item: Found, column: ColumnSpec) -> None:
        where = f"{self.table.id}/{item.row}/{item.column}, seed {item.seed}"
        if (item.result.kind == "pretrain") != (column.kind == "pretraining"):
            raise InputError(
                f"{where}: a result of kind '{item.result.kind}' stands in a column of kind '{column.kind}'.",
                "Run `gcbench reproduce` again: it writes which run fills which cell.",
            )
        values = measured_values(item.result)
        missing = [metric for metric in self.table.metrics_of(column) if metric not in values]
        if missing:
            raise InputError(f"The result of {where}, has no '{missing[0]}'.", "Score the run again.")

    def _entry(self, group: list[Found], cell: Cell) -> Entry:
        latest: dict[int, Found] = {}
        for item in sorted(group, key=lambda item: item.result.provenance.ended):
            latest[item.seed] = item
        seeds = tuple(sorted(latest))
        results = tuple(latest[seed].result for seed in seeds)
        differs = self.departures(group[0])
        older = len(group) - len(latest)
        warnings = [f"{older} older result(s) of the same seed left out"] if older else []
        warnings += [*_doubts(results), *differs.others, *([ONE_SEED] if len(seeds) == 1 else [])]
        why_not = _why_not_comparable(results[0], differs)
        values = {seed: measured_values(latest[seed].result) for seed in seeds}
        intervals, none = self._intervals(results)
        return Entry(
            label="" if results[0].kind == "pretrain" else self.labels[results[0].protocol.fingerprint()],
            seeds=seeds,
            results=results,
            metrics={
                metric: self._value(cell, metric, [values[seed][metric] for seed in seeds], why_not, intervals)
                for metric in cell.metrics
            },
            why_not_comparable=why_not,
            warnings=(*warnings, *none),
        )

    def _mean_entry(self, parts: list[Entry], cell: Cell) -> Entry | None:
        """The mean of the parts for every seed that all of them have; None without one."""
        seeds = tuple(sorted(set.intersection(*(set(part.seeds) for part in parts))))
        if not seeds:
            return None
        left_out = sorted({seed for part in parts for seed in part.seeds} - set(seeds))
        warnings = [f"without {seeds_text(left_out)}, which a column lacks"] if left_out else []
        warnings += [ONE_SEED] if len(seeds) == 1 else []
        by_seed = [dict(zip(part.seeds, part.results, strict=True)) for part in parts]
        chosen = tuple(of_part[seed] for of_part in by_seed for seed in seeds)
        why_not = next((part.why_not_comparable for part in parts if part.why_not_comparable), "")
        intervals, none = self._intervals(chosen)
        values = {}
        for metric in cell.metrics:
            means = [math.fsum(measured_values(one[seed])[metric] for one in by_seed) / len(parts) for seed in seeds]
            values[metric] = self._value(cell, metric, means, why_not, intervals)
        label = "+".join(part.label for part in parts)
        return Entry(label, seeds, chosen, values, why_not, (*warnings, *none), tuple(parts))

    def _intervals(self, results: Sequence[CellContent]) -> tuple[Mapping[str, tuple[float, float]], list[str]]:
        """The intervals by metric, and why there are none where stored counts cannot be used."""
        scored = [result for result in results if result.kind != "pretrain"]
        if self.bootstrap is None or not scored:
            return {}, []
        try:
            return self.bootstrap(scored), []
        except (InputError, DataError) as error:
            return {}, [f"no interval over scenes: {error.message}"]

    def _value(
        self,
        cell: Cell,
        metric: str,
        stored: Sequence[float],
        why_not: str,
        intervals: Mapping[str, tuple[float, float]],
    ) -> MetricValue:
        unit, bounds = metric_unit(metric), intervals.get(metric)
        return judged_value(
            [unit.scale * value for value in stored],
            cell.paper.get(metric),
            self.paper,
            unit=unit,
            why_not=why_not,
            interval=None if bounds is None else (unit.scale * bounds[0], unit.scale * bounds[1]),
        )


def _letter(number: int) -> str:
    """A .. Z, then A1 .. Z1 and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def _like_key(result: CellContent) -> tuple[Any, ...]:
    """Results are averaged over seeds only where all of this is equal."""
    origin = result.provenance
    return (
        "" if result.kind == "pretrain" else result.protocol.fingerprint(),
        origin.synthetic,
        origin.preset or "",
        origin.recipe,
        origin.recipe_hash,
        origin.data_fingerprint,
    )


def _by_setting(entries: Iterable[Entry]) -> dict[tuple[Any, ...], list[Entry]]:
    """Entries by what columns must share to be averaged: everything but the classes and the recipe made for them."""
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        result = entry.results[0]
        if result.kind == "pretrain":
            continue
        origin, protocol = result.provenance, result.protocol.model_dump(exclude={"label_set", "ignored"})
        key = (*map(str, protocol.values()), origin.synthetic, origin.preset, origin.data_fingerprint)
        found.setdefault(key, []).append(entry)
    return found


def _doubts(results: Sequence[CellContent]) -> list[str]:
    doubts = []
    if len({result.provenance.git_commit for result in results}) > 1:
        doubts.append("the seeds were run with different commits of gcbench")
    if any(result.provenance.git_dirty for result in results):
        doubts.append("run with uncommitted changes of gcbench")
    return doubts


def _why_not_comparable(result: CellContent, differs: Departures) -> str:
    origin = result.provenance
    if origin.synthetic:
        return SYNTHETIC
    if origin.preset is not None:
        return f"run with the preset '{origin.preset}', which changes the paper's settings"
    return f"another protocol than the table's: {', '.join(differs.protocol)}" if differs.protocol else ""
