"""What is reproduced, and the jobs that it takes, each keyed by the content of what goes into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcbench.errors import InputError
from gcbench.protocols.jobs import Job
from gcbench.recipe.tables import Table
from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.store import Run


@dataclass(frozen=True)
class PlannedJob:
    """A job, the run it belongs to, and the runs that must be done before it.

    Attributes:
        samples: scenes that a training takes, `steps` times the batch; None for other jobs.
        lacks: the dataset that is not there, for a plan that is only shown.
    """

    job: Job
    run: Run
    needs: tuple[Path, ...]
    effort: str
    samples: int | None = None
    lacks: str | None = None


@dataclass(frozen=True)
class Selection:
    """Rows and columns of one table, by id."""

    table: Table
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Selection:
        """Ids in the table's order; none means all that can be run.

        Raises:
            InputError: an id the table does not have, or a row that only the paper has.
        """
        return cls(table, _choose(table, rows, "row"), _choose(table, columns, "column"))


@dataclass(frozen=True)
class Choice:
    """How to reproduce.

    Attributes:
        data: prepared dataset folders by dataset name; empty means synthetic rooms from the preset.
        overrides: ``"kind.section.key=value"``, e.g. ``"pretrain.schedule.steps=20"``.
        encoder: an exported or converted encoder's folder: rows with a pre-trained encoder take it and pre-train none.
        variant: of the columns' recipes, such as ``official``; None takes the paper's.
        only_show: datasets may be missing; the plan says where.
    """

    seeds: int = 1
    preset: str | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    encoder: Path | None = None
    variant: str | None = None
    only_show: bool = False


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        jobs: in an order in which each comes after those it needs.
        cells: by table the runs whose results fill its cells.
        figures: the runs that draw figures of scenes.
    """

    jobs: list[PlannedJob] = field(default_factory=list)
    cells: dict[str, list[CellRun]] = field(default_factory=dict)
    figures: list[Run] = field(default_factory=list)

    def add(self, planned: PlannedJob) -> PlannedJob:
        """Add a job unless it is there already, under whatever name."""
        for known in self.jobs:
            if (known.job.kind, known.job.key) == (planned.job.kind, planned.job.key):
                return known
        self.jobs.append(planned)
        return planned

    def record(self, out: Path) -> None:
        """Write down which runs fill which cells, for the report."""
        for table, cells in self.cells.items():
            record_cells(out, table, cells)


def _choose(table: Table, wanted: Sequence[str], what: str) -> tuple[str, ...]:
    known = [row.id for row in table.rows if row.runs] if what == "row" else [column.id for column in table.columns]
    for name in wanted:
        if name not in known:
            raise InputError(f"{table.id} has no {what} '{name}' to run.", f"Its {what}s: {', '.join(known)}.")
    return tuple(name for name in known if not wanted or name in wanted)
