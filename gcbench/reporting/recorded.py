"""What a reproduction's folder holds for a table: its cells' results, each with the encoder it started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcbench.errors import RunError
from gcbench.runs.cells import recorded_runs, recorded_tables
from gcbench.runs.results import CellContent, FigureResult, PretrainResult, load_result
from gcbench.runs.store import Run, RunStore


@dataclass(frozen=True)
class RecordedCell:
    """A finished run and the cell that it fills.

    Attributes:
        encoder: the pre-training that its encoder is from, where that run is at hand.
    """

    row: str
    column: str
    seed: int
    run: Run
    result: CellContent
    encoder: PretrainResult | None


class Recorded:
    """Results of a reproduction, each read once, however many tables it stands in.

    Args:
        out: the reproduction's folder, with `cells/` and `runs/`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._results: dict[Path, CellContent] = {}

    def tables(self) -> list[str]:
        """Ids of the tables of which runs were planned, in natural order: tables by number, then figures."""
        return sorted(recorded_tables(self.out), key=natural_order)

    def cells(self, table: str) -> list[RecordedCell]:
        """Results of the table's runs that are done.

        Raises:
            RunError: the table's file or a result is broken.
        """
        return [
            RecordedCell(cell.row, cell.column, cell.seed, run, self._result(run), self._encoder(run))
            for cell, run in recorded_runs(self.out, table)
            if run.is_done
        ]

    def pretrainings(self, tables: list[str]) -> list[Run]:
        """Finished pre-trainings that cells of these tables are, or started from; of every recipe the lowest seed."""
        done = {run.folder for table in tables for _, run in recorded_runs(self.out, table) if run.is_done}
        wanted = done | {encoder_run(Run(folder)) for folder in done}
        first: dict[str, tuple[int, Run]] = {}
        for run in RunStore(self.out / "runs").runs("pretrain"):
            if run.folder not in wanted or not run.is_done:
                continue
            result = self._result(run)
            recipe = result.provenance.recipe_hash
            if recipe not in first or result.seed < first[recipe][0]:
                first[recipe] = (result.seed, run)
        return [run for _, run in first.values()]

    def _result(self, run: Run) -> CellContent:
        if run.folder not in self._results:
            result = run.result()
            if isinstance(result, FigureResult):
                raise RunError(
                    f"{run.folder} fills no cell of a table: it drew a figure.", "Run `gcbench reproduce` again."
                )
            self._results[run.folder] = result
        return self._results[run.folder]

    def _encoder(self, run: Run) -> PretrainResult | None:
        folder = encoder_run(run)
        if folder is None or not (folder / "result.json").is_file():
            return None
        result = self._results.get(folder) or load_result(folder / "result.json")
        if not isinstance(result, PretrainResult):
            return None
        self._results[folder] = result
        return result


def natural_order(table: str) -> tuple[bool, str, int]:
    """Sorts ids as people count: tables first, ``table10`` after ``table2``."""
    words = table.rstrip("0123456789")
    return words != "table", words, int(table[len(words) :] or 0)


def training_job(run: Run) -> dict[str, Any]:
    """The job of a run; of a cell of several folds the job of the first, whose recipe all of them share.

    Raises:
        RunError: the job is missing or broken.
    """
    job = run.job()
    folds = job.get("folds")
    return _run_beside(run, Path(str(folds[0])).parent).job() if isinstance(folds, list) and folds else job


def encoder_run(run: Run) -> Path | None:
    """Folder of the pre-training whose encoder a run started from; None for a random start or a given encoder."""
    try:
        job = training_job(run)
    except RunError:
        return None
    weights, key = job.get("encoder"), job.get("encoder_key")
    if not weights or str(key).startswith("given:"):
        return None
    return _run_beside(run, Path(str(weights)).parent.parent).folder


def _run_beside(run: Run, folder: Path) -> Run:
    """The run of another job's folder, wherever the whole reproduction has been moved to."""
    return Run(run.folder.parents[1] / folder.parent.name / folder.name)
