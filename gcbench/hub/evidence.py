"""What was measured with a run's model, from the reproduction that the run belongs to; and what may not be published.

A pre-training's evidence are the results of all finished runs that started from its encoder, a trained model's its own
result. Each is shown beside the paper as `gcbench report` shows it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.files import sha256
from gcbench.hub.facts import Measurement
from gcbench.recipe.tables import Table, load_table
from gcbench.reporting.compare import TableSpec, compare
from gcbench.reporting.comparison import Cell, Entry
from gcbench.reporting.intervals import SceneBootstrap
from gcbench.reporting.paper import load_paper_table
from gcbench.reporting.recorded import Recorded, RecordedCell, encoder_run
from gcbench.reporting.settings import TableSettings
from gcbench.reporting.verdicts import PERCENT, metric_unit
from gcbench.runs.results import PretrainResult, TableResult
from gcbench.runs.store import Run


@dataclass(frozen=True)
class Evidence:
    """What a run knows of its model.

    Attributes:
        result: of the run itself; None for converted weights.
        job: as it was asked for.
        files: path in the repository -> result file on disk.
        measurements: the numbers in them, beside the paper.
        curves: picture of its losses; None without one.
    """

    result: PretrainResult | TableResult | None
    job: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    curves: Path | None = None

    @property
    def synthetic(self) -> bool:
        """The model has seen synthetic rooms."""
        return self.result is not None and self.result.provenance.synthetic


def gather(run: Run, weights: Path, *, with_results: bool) -> Evidence:
    """The evidence of a finished run, after what may not be published was refused.

    Args:
        run: a pre-training, or a training of a segmenter.
        weights: the file that is to be published.
        with_results: also what was measured with its encoder.

    Raises:
        InputError: the run is not done, was made with uncommitted changes, or its weights are not those of its result.
        RunError: a result is broken.
    """
    if not run.is_done:
        raise InputError(
            f"{run.folder} is {run.status or 'no run'}, so there is nothing to publish.",
            f"Go on with: gcbench runs resume {run.folder}",
        )
    result = run.result()
    if result.kind == "figure":
        raise InputError(f"{run.folder} drew a figure; it has no model.", "Give a pre-training or a training.")
    check_weights(result, weights, run.folder)
    check_clean(result, str(run.folder))
    found = _cells_of(run) if with_results else []
    for cell in found:
        check_clean(cell.result, str(cell.folder))
    files = {f"results/{run.folder.name}.json": run.result_path}
    files |= {cell.file: cell.folder / run.result_path.name for cell in found}
    curves = run.figures_folder / "curves.png"
    return Evidence(
        result=result,
        job=run.job(),
        files=files,
        measurements=tuple(_measurements(found)),
        curves=curves if curves.is_file() else None,
    )


def check_clean(result: PretrainResult | TableResult, where: str) -> None:
    """Refuse what nobody could make again.

    Raises:
        InputError: it was made with uncommitted changes of gcbench.
    """
    if result.provenance.git_dirty:
        raise InputError(
            f"{where} was made with uncommitted changes of gcbench, so nobody can make it again.",
            "Commit them and run it anew; or leave out such results with --no-results.",
        )


def check_weights(result: PretrainResult | TableResult, weights: Path, where: Path) -> None:
    """Refuse weights that are not those that the run wrote and scored.

    Raises:
        InputError: they differ, or the result does not say which they are.
    """
    if result.kind == "pretrain":
        known = result.provenance.weights_hash
    else:
        score = result.checkpoints.get(result.protocol.checkpoint)
        known = score.sha256 if score is not None else None
    if known is None:
        raise InputError(f"The result in {where} does not say which weights it is of.", "Run it anew.")
    if not sha256(weights).startswith(known):
        raise InputError(
            f"{weights} is not what the run in {where} wrote: its SHA-256 is not {known}...",
            "Restore the file, or run it anew.",
        )


@dataclass(frozen=True)
class _Found:
    """A result and the cell that it fills."""

    table: str
    row: str
    column: str
    seed: int
    folder: Path
    result: TableResult

    @property
    def file(self) -> str:
        return f"results/{self.folder.name}.json"


def _cells_of(run: Run) -> list[_Found]:
    """The cells of all tables that this run fills, or that were trained from its encoder."""
    out = run.folder.parents[2]
    if not (out / "cells").is_dir():
        return []
    recorded = Recorded(out)
    return [
        _Found(table, cell.row, cell.column, cell.seed, cell.run.folder, cell.result)
        for table in recorded.tables()
        for cell in recorded.cells(table)
        if cell.result.kind != "pretrain" and _is_of(cell, run.folder.resolve())
    ]


def _is_of(cell: RecordedCell, folder: Path) -> bool:
    encoder = encoder_run(cell.run)
    return folder == cell.run.folder.resolve() or (encoder is not None and folder == encoder.resolve())


def _measurements(found: Sequence[_Found]) -> list[Measurement]:
    measurements: list[Measurement] = []
    paths = {id(item.result): item.file for item in found}
    bootstrap = SceneBootstrap()
    for name in dict.fromkeys(item.table for item in found):
        table = load_table(name)
        comparison = compare(
            TableSpec.of(table),
            [item for item in found if item.table == name],
            load_paper_table(name),
            departures=TableSettings(table),
            bootstrap=bootstrap,
        )
        cells = [cell for row in comparison.cells for cell in row if cell.column.kind == "trained"]
        for cell in cells:
            for entry in cell.entries:
                measurements += _of_entry(table, cell, entry, paths)
    return measurements


def _of_entry(table: Table, cell: Cell, entry: Entry, paths: Mapping[int, str]) -> list[Measurement]:
    found = []
    results = [result for result in entry.results if result.kind != "pretrain"]
    first = results[0]
    label_set = load_label_set(first.protocol.label_set)
    for metric, value in entry.metrics.items():
        if metric_unit(metric).unit != PERCENT:
            continue
        printed = cell.paper.get(metric)
        found.append(
            Measurement(
                table=table.id,
                row=cell.row.id,
                column=cell.column.id,
                title=f"{table.title.partition(':')[0]}: {cell.row.title}, {cell.column.title}",
                metric=metric,
                value=value.mean,
                spread=value.spread,
                interval=value.interval,
                seeds=entry.seeds,
                task=first.kind,
                label_set=label_set.name,
                dataset="scannet" if label_set.dataset == "scannet" else "s3dis",
                split=first.protocol.split,
                protocol=first.protocol.describe(),
                fingerprint=first.protocol.fingerprint(),
                paper=None if printed is None or first.provenance.synthetic else printed.value,
                difference=value.difference,
                verdict=value.verdict.value,
                why=value.why or entry.why_not_comparable,
                files=tuple(paths[id(result)] for result in results),
                measured=max(result.provenance.ended for result in results),
                synthetic=any(result.provenance.synthetic for result in results),
            )
        )
    return found
