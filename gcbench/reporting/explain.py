"""Why is my number different? All that a reproduction's folder tells of one cell, each thing with its share.

A share is measured: the same predictions scored in another way, another checkpoint, another seed, another run that
differs in one key. Shares depend on each other and are never summed. What was not measured is named as that, with the
command that measures it.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gcbench.errors import DataError, InputError, RecipeError
from gcbench.recipe.loader import LoadedRecipe, load_recipe, preset_names, recipe_from_values
from gcbench.recipe.tables import Table, TableColumn, TableRow, load_table, table_names
from gcbench.reporting.budget_facts import training_facts
from gcbench.reporting.explain_commands import SEEDS, reproduce_command, same_again
from gcbench.reporting.explain_shares import AUGMENTED, Predict, ShareMeter
from gcbench.reporting.explanation import Explanation, Fact, Share, Unmeasured, by_size
from gcbench.reporting.measured_runs import CellGroup, cell_groups, closest_to
from gcbench.reporting.paper import PaperValue, load_paper_table
from gcbench.reporting.recipe_differences import KeyDifference, RecipeComparison, compare_recipe
from gcbench.reporting.rescoring import Progress
from gcbench.reporting.stored_jobs import StoredRecipe, Training, as_yaml, pretraining
from gcbench.reporting.verdicts import PERCENT, metric_unit
from gcbench.runs.results import AnyResult, InstanceResult, Result, SemanticResult
from gcbench.runs.store import RunStore


@dataclass(frozen=True)
class Cell:
    """What is asked about: a metric of a row and a column of a table."""

    table: Table
    row: TableRow
    column: TableColumn
    metric: str

    @property
    def ids(self) -> tuple[str, str, str]:
        return self.table.id, self.row.id, self.column.id

    @property
    def id(self) -> str:
        return "/".join((*self.ids, self.metric))

    @property
    def title(self) -> str:
        return f"{self.table.title}. {self.row.title}, {self.column.title}, {self.metric}"

    @property
    def unit(self) -> str:
        """Of its numbers, as the tables have them."""
        unit = metric_unit(self.metric).unit
        return "%" if unit == PERCENT else unit

    def paper(self) -> PaperValue | None:
        """What the paper prints, None if nothing."""
        try:
            return load_paper_table(self.table.id).cells.get(self.id)
        except DataError:
            return None

    def recipes(self) -> list[LoadedRecipe]:
        """The paper's recipes for it: the training's and the pre-training's."""
        trained = self.column.kind == "trained"
        found = [load_recipe(self.column.recipe, row=self.row.values)] if trained else []
        return found + ([load_recipe(self.row.pretrain)] if self.row.pretrain else [])


def parse_cell(text: str) -> Cell:
    """A cell from ``<table>/<row>/<column>[/<metric>]``; without a metric the column's first.

    Raises:
        InputError: there is no such table, row, column or metric; those there are are named.
    """
    parts = text.split("/")
    if not 3 <= len(parts) <= 4:
        raise InputError(
            f"'{text}' is no cell.",
            f"Write <table>/<row>/<column> or <table>/<row>/<column>/<metric>. Tables: {', '.join(table_names())}.",
        )
    table = load_table(parts[0])
    row = next((row for row in table.rows if row.id == parts[1]), None)
    if row is None:
        raise InputError(f"{table.id} has no row '{parts[1]}'.", f"Its rows: {_ids(table.rows)}.")
    columns = [column for column in table.columns if column.has(row.id)]
    column = next((column for column in columns if column.id == parts[2]), None)
    if column is None:
        raise InputError(f"{table.id}/{row.id} has no column '{parts[2]}'.", f"Its columns: {_ids(columns)}.")
    metric = parts[3] if len(parts) == 4 else column.metrics[0]
    if metric not in column.metrics:
        raise InputError(f"{table.id}/{column.id} has no metric '{metric}'.", f"It has: {', '.join(column.metrics)}.")
    return Cell(table, row, column, metric)


def explain(
    cell: Cell, out: Path, progress: Progress = lambda done, total: None, predict: Predict | None = None
) -> Explanation:
    """Say all that can be said of a cell's number.

    Args:
        cell: what is asked about.
        out: a reproduction's folder.
        progress: gets how many scenes of how many are scored again, for every seed.
        predict: runs kept models again under test-time augmentation; None runs no model.

    Raises:
        InputError: the cell was not run.
        RunError: a file of a run is broken.
    """
    if not cell.row.runs:
        raise InputError(f"{cell.id}: only the paper has this row, nothing runs for it.", "Choose a row that runs.")
    if cell.column.kind == "mean":
        return _explain_mean(cell, out)
    return _explain_run(cell, out, progress, predict)


def _explain_run(cell: Cell, out: Path, progress: Progress, predict: Predict | None) -> Explanation:
    store = RunStore(out / "runs")
    groups, own = _groups(cell, out, store)
    training = own.parts[0]
    before = pretraining(training, store)
    recipes = [
        compare_recipe(ran.recipe, paper)
        for paper in cell.recipes()
        for ran in (training, before)
        if ran is not None and ran.recipe.kind == paper.recipe.kind
    ]
    meter = ShareMeter(own, cell.metric, store, progress)
    augmented = meter.augmented(predict) if predict else []
    shares = [*meter.scoring(), *augmented, *meter.checkpoints(), *meter.other_runs(recipes), *meter.spreads()]
    result, stated = own.results[0].result, cell.paper()
    notes = list(meter.notes)
    if before is None and training.job.encoder is not None:
        notes.append("The encoder was given, or its pre-training was removed: how it was pre-trained is not known.")
    if len(groups) > 1:
        others = ", ".join(group.name for group in groups if group is not own)
        notes.append(f"Explained is the run that is closest to the paper's recipe; runs with other values: {others}.")
    return Explanation(
        cell=cell.id,
        title=cell.title,
        unit=cell.unit,
        values=meter.values,
        paper=stated.value if stated else None,
        place=stated.place if stated else "",
        not_comparable=_not_comparable(result),
        protocol=result.protocol.describe() if isinstance(result, Result) else "measured while pre-training",
        runs=tuple(one.run.folder.name for one in own.results),
        shares=by_size(shares),
        unmeasured=(
            *_augmentation(cell, out, result, measured=bool(augmented)),
            *_unmeasured(cell, own, before, store, recipes, meter.measured_keys),
        ),
        recipes=tuple(recipes),
        facts=tuple(_facts(cell, own, before, store)),
        notes=tuple(notes),
    )


def _explain_mean(cell: Cell, out: Path) -> Explanation:
    """A mean of columns: each column's part of the difference."""
    store = RunStore(out / "runs")
    columns = [column for column in cell.table.columns if column.id in cell.column.of]
    cells = [Cell(cell.table, cell.row, column, cell.metric) for column in columns]
    groups = [_groups(part, out, store)[1] for part in cells]
    by_column = [ShareMeter(own, cell.metric, store, lambda done, total: None).values for own in groups]
    seeds = sorted(set.intersection(*(set(values) for values in by_column)))
    if not seeds:
        raise InputError(f"{cell.id}: its columns have no seed in common.", "Run all of them with the same --seeds.")
    values = {seed: statistics.fmean(numbers[seed] for numbers in by_column) for seed in seeds}
    mean, shares = statistics.fmean(values.values()), []
    for part, numbers in zip(cells, by_column, strict=True):
        printed = part.paper()
        if printed is not None:
            share = (printed.value - statistics.fmean(numbers[seed] for seed in seeds)) / len(cells)
            change = f"the paper's {printed.value:g} in the column {part.column.id}"
            shares.append(Share("column", change, mean + share, share, len(seeds), f"gcbench explain {part.id}"))
    stated = cell.paper()
    return Explanation(
        cell=cell.id,
        title=cell.title,
        unit=cell.unit,
        values=values,
        paper=stated.value if stated else None,
        place=stated.place if stated else "",
        not_comparable=next(filter(None, (_not_comparable(own.results[0].result) for own in groups)), ""),
        protocol=f"mean of the columns {', '.join(cell.column.of)}",
        runs=tuple(one.run.folder.name for own in groups for one in own.results),
        shares=by_size(shares),
        notes=tuple(f"Each column is explained by itself: gcbench explain {part.id} --runs {out}" for part in cells),
    )


def _groups(cell: Cell, out: Path, store: RunStore) -> tuple[list[CellGroup], CellGroup]:
    """All groups of results of a cell, and the one that is explained.

    Raises:
        InputError: there is none.
    """
    groups = cell_groups(out, *cell.ids, store)
    if not groups:
        done = [
            run.job().get("recipe") or {} for kind in ("semantic", "instance", "pretrain") for run in store.runs(kind)
        ]
        preset = next((recipe["preset"] for recipe in done if recipe.get("preset")), None)
        raise InputError(
            f"{cell.id} was not run in {out}.",
            f"Run it: {reproduce_command(cell.ids, out, preset=preset)}"
            + ("" if preset else f" --data DATA, or --preset {preset_names('rooms')[0]} for synthetic rooms."),
        )
    return groups, closest_to(groups, cell.recipes())


def _not_comparable(result: AnyResult) -> str:
    if result.provenance.synthetic:
        return "measured on synthetic rooms"
    if result.provenance.preset is not None:
        return f"run with the preset '{result.provenance.preset}', which changes the paper's settings"
    return ""


def _augmentation(cell: Cell, out: Path, result: AnyResult, *, measured: bool) -> Iterator[Unmeasured]:
    if isinstance(result, SemanticResult) and result.protocol.inference == "single-pass" and not measured:
        why = "it needs the model; what was kept of its predictions are classes, not probabilities"
        yield Unmeasured(AUGMENTED, why, shlex.join(["gcbench", "explain", cell.id, "--runs", str(out), "--predict"]))


def _unmeasured(
    cell: Cell,
    own: CellGroup,
    before: Training | None,
    store: RunStore,
    recipes: Iterable[RecipeComparison],
    measured: Container[str],
) -> Iterator[Unmeasured]:
    training, result = own.parts[0], own.results[0].result

    def command(*changes: str, seeds: int | None = None) -> str:
        return same_again(cell.ids, cell.column, training, before, store, changes, seeds)

    if isinstance(result, InstanceResult):
        left_out = ", ".join(name for name in result.protocol.ignored if name != "unlabelled")
        why = "no instance of them was proposed, so none can be scored"
        yield Unmeasured(f"the classes that are left out ({left_out})", why)
    for recipe in recipes:
        ran = training if before is None or recipe.kind == training.recipe.kind else before
        keys = [d for d in recipe.differences if not d.without_effect and f"{recipe.kind}.{d.key}" not in measured]
        alone = next((d for d in keys if _fits_alone(ran.recipe, d)), None)
        if keys:
            what = f"{len(keys)} values of {recipe.ours} that are not the paper's"
            change = f"{recipe.kind}.{alone.key}={as_yaml(alone.paper)}" if alone else ""
            why = "each needs a run that differs in it alone" + (f", such as {alone.key}" if alone else "")
            yield Unmeasured(what, why, command(change) if change else "")
    if len(own.results) < 2:
        yield Unmeasured("the spread over seeds", "there is one seed", command(seeds=SEEDS))


def _fits_alone(ran: StoredRecipe, difference: KeyDifference) -> bool:
    """Whether a recipe stays one with just this key at the paper's value."""
    if difference.key not in ran.values:
        return False
    try:
        recipe_from_values(ran.kind, ran.name, {**ran.values, difference.key: difference.paper})
    except RecipeError:
        return False
    return True


def _facts(cell: Cell, own: CellGroup, before: Training | None, store: RunStore) -> Iterator[Fact]:
    """Budgets and data, ours beside the paper's."""
    for training in (own.parts[0], before):
        paper = next((r for r in cell.recipes() if training and r.recipe.kind == training.recipe.kind), None)
        if training is None or paper is None:
            continue
        what = "pre-training" if training.recipe.kind == "pretrain" else "training"
        if len(own.parts) > 1 and training is own.parts[0]:
            what = f"training of each of the {len(own.parts)} folds, such as {training.job.val[0]}"
        yield from training_facts(what, cell.column, training, paper, store)


def _ids(parts: Iterable[TableRow | TableColumn]) -> str:
    return ", ".join(part.id for part in parts)
