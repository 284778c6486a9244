"""From a table, its rows, columns and seeds to jobs, each keyed by the content of what goes into it.

Jobs that several cells share (rooms, prepared data, one pre-training per seed) stand in the plan once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcbench.errors import InputError
from gcbench.files import short_sha256
from gcbench.protocols.encoder_files import given_encoder
from gcbench.protocols.jobs import (
    FoldsJob,
    InstanceJob,
    Job,
    JobRecipe,
    PretrainJob,
    SegmentationJob,
    SemanticJob,
    room_jobs,
)
from gcbench.recipe.loader import LoadedRecipe, load_recipe, preset_names, recipe_names
from gcbench.recipe.schema import (
    RECIPE_KINDS,
    InstanceRecipe,
    PretrainRecipe,
    RoomsRecipe,
    Schedule,
    SegmentationRecipe,
    SemanticRecipe,
)
from gcbench.recipe.tables import Fold, Table, TableColumn, TableRow
from gcbench.runs.store import Run, RunStore

ROOMS_RECIPE = "rooms/sizes"


@dataclass(frozen=True)
class PlannedJob:
    """A job, the run it belongs to, and the runs that must be done before it."""

    job: Job
    run: Run
    needs: tuple[Path, ...]
    effort: str


@dataclass(frozen=True)
class Choice:
    """What to reproduce.

    Attributes:
        data: prepared dataset folders by dataset name; empty means synthetic rooms from the preset.
        overrides: ``"kind.section.key=value"``, e.g. ``"pretrain.schedule.steps=20"``.
        encoder: an exported or converted encoder's folder: rows with a pre-trained encoder take it and pre-train none.
        variant: of the columns' recipes, such as ``official``; None takes the paper's.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    seeds: int
    preset: str | None
    data: Mapping[str, Path]
    overrides: tuple[str, ...]
    encoder: Path | None = None
    variant: str | None = None


@dataclass
class Plan:
    """Jobs in an order in which each comes after those it needs; `cells` are the runs whose results fill the table."""

    jobs: list[PlannedJob] = field(default_factory=list)
    cells: list[Run] = field(default_factory=list)

    def add(self, planned: PlannedJob) -> PlannedJob:
        """Add a job unless it is there already."""
        for known in self.jobs:
            if known.run.folder == planned.run.folder:
                return known
        self.jobs.append(planned)
        return planned


def choose(table: Table, wanted: Sequence[str], what: str) -> tuple[str, ...]:
    """Row or column ids in the table's order; empty means all that can be run.

    Raises:
        InputError: an id the table does not have, or a row that only the paper has.
    """
    known = [row.id for row in table.rows if row.runs] if what == "row" else [column.id for column in table.columns]
    for name in wanted:
        if name not in known:
            raise InputError(f"{table.id} has no {what} '{name}' to run.", f"Its {what}s: {', '.join(known)}.")
    return tuple(name for name in known if not wanted or name in wanted)


def plan_table(table: Table, choice: Choice, out: Path) -> Plan:
    """The jobs behind the chosen cells.

    Raises:
        InputError: no data and no preset that brings rooms, an unknown preset, a dataset that is not given, or an
            encoder that is not there, is of other sizes, or that no chosen row takes; an unknown variant.
        DataError: a data-efficient set is missing.
        RecipeError: an override does not fit its recipe.
    """
    if choice.preset is not None and choice.preset not in preset_names("semantic"):
        raise InputError(
            f"There is no preset '{choice.preset}' for tables.", f"Known: {', '.join(preset_names('semantic'))}."
        )
    for override in choice.overrides:
        if override.partition(".")[0] not in RECIPE_KINDS:
            raise InputError(
                f"'{override}' does not say which recipe it overrides.",
                f"Start it with {', '.join(RECIPE_KINDS)}, e.g. pretrain.schedule.steps=100.",
            )
    takes = [row.id for row in table.rows if row.pretrain]
    if choice.encoder is not None and not set(takes) & set(choice.rows):
        raise InputError("--encoder: none of the chosen rows takes an encoder.", f"Those rows do: {', '.join(takes)}.")
    if choice.variant is not None:
        known = variants(table)
        if choice.variant not in known:
            raise InputError(f"{table.id} has no variant '{choice.variant}'.", f"Known: {', '.join(known) or 'none'}.")
    return _Planner(table, choice, out).plan()


def variants(table: Table) -> list[str]:
    """Variants that every column's recipe has, such as ``official``."""
    of_column = [
        {name.removeprefix(f"{column.recipe}-") for name in recipe_names() if name.startswith(f"{column.recipe}-")}
        for column in table.columns
    ]
    return sorted(set.intersection(*of_column))


class _Planner:
    def __init__(self, table: Table, choice: Choice, out: Path) -> None:
        self.table, self.choice, self.out = table, choice, out
        self.store = RunStore(out / "runs")
        self.result = Plan()
        self.recipes: dict[tuple[str, str], LoadedRecipe] = {}

    def plan(self) -> Plan:
        """Seeds outside, rows inside: a first complete table appears as early as possible."""
        for seed in range(self.choice.seeds):
            for column in (c for c in self.table.columns if c.id in self.choice.columns):
                for row in (r for r in self.table.rows if r.id in self.choice.rows):
                    self.result.cells.append(self._cell(row, column, seed))
        return self.result

    def _cell(self, row: TableRow, column: TableColumn, seed: int) -> Run:
        folds = [self._fold(row, column, fold, seed) for fold in column.folds]
        if len(folds) == 1:
            return folds[0].run
        first = folds[0].job
        if not isinstance(first, SemanticJob):
            raise InputError(f"{self.table.id}, {column.id}: only semantic segmentation has several folds.")
        job = FoldsJob(
            name=f"{column.id}-{row.id}-seed{seed}",
            table=self.table.id,
            row=row.id,
            column=column.id,
            label_set=column.label_set,
            protocol=str(first.recipe.values["evaluation.protocol"]),
            folds=tuple(fold.run.folder / "result.json" for fold in folds),
            fold_keys=tuple(fold.job.key for fold in folds),
            seed=seed,
        )
        return self._add(job, tuple(fold.run.folder for fold in folds), f"{len(folds)} folds").run

    def _fold(self, row: TableRow, column: TableColumn, fold: Fold, seed: int) -> PlannedJob:
        column = self._owner(column, fold)
        data, data_key, needs = self._data(column.data)
        variant = f"-{self.choice.variant}" if self.choice.variant else ""
        loaded = self._recipe(f"{column.recipe}{variant}", row)
        recipe = loaded.recipe
        assert isinstance(recipe, SemanticRecipe | InstanceRecipe)
        encoder, encoder_key, encoder_needs = self._encoder(row, recipe, seed)
        name = fold.val[0] if len(column.folds) > 1 else None
        suffix = f"-{name}" if name else ""
        kind: type[SegmentationJob] = SemanticJob if isinstance(recipe, SemanticRecipe) else InstanceJob
        limit_key, scenes = self._training_set(column, fold)
        job = kind(
            name=f"{column.id}-{row.id}{suffix}-seed{seed}",
            table=self.table.id,
            row=row.id,
            column=column.id,
            fold=name,
            recipe=JobRecipe.of(loaded),
            data=data,
            data_key=data_key,
            label_set=column.label_set,
            train=fold.train,
            val=fold.val,
            limit=column.limit,
            limit_key=limit_key,
            encoder=encoder,
            encoder_key=encoder_key,
            seed=seed,
        )
        return self._add(job, (*needs, *encoder_needs), _budget(recipe.schedule, scenes))

    def _training_set(self, column: TableColumn, fold: Fold) -> tuple[str | None, int | None]:
        """What the column's data-efficient set is known by, and the number of training scenes; None is not known."""
        if not self.choice.data:  # rooms get their sets when they are prepared
            return ("rooms" if column.limit else None), None
        from gcbench.data.storage import PreparedDataset
        from gcbench.data.subsets import load, subset_file

        dataset = PreparedDataset.open(self.choice.data[column.data])
        if column.limit is None:
            return None, len(dataset.scene_names(fold.train))
        scenes = load(dataset, column.limit).scene_count
        return short_sha256(subset_file(dataset, column.limit)), scenes

    def _encoder(
        self, row: TableRow, recipe: SegmentationRecipe, seed: int
    ) -> tuple[Path | None, str | None, tuple[Path, ...]]:
        """Weights of a row's encoder, their key, and the runs that make them; none for a random start."""
        if not row.pretrain:
            return None, None, ()
        if self.choice.encoder is not None:
            weights = given_encoder(self.choice.encoder, recipe.encoder)
            return weights, f"given:{short_sha256(weights)}", ()
        planned = self._pretraining(row.pretrain, seed)
        return planned.run.folder / "encoder" / "model.safetensors", planned.job.key, (planned.run.folder,)

    def _owner(self, column: TableColumn, fold: Fold) -> TableColumn:
        """The column that is just this fold, if the table has one: Area 5 is trained once for both its columns."""
        for other in self.table.columns:
            if other.folds == (fold,) and _setting(other) == _setting(column):
                return other
        return column

    def _pretraining(self, recipe: str, seed: int) -> PlannedJob:
        loaded = self._recipe(recipe)
        assert isinstance(loaded.recipe, PretrainRecipe)
        data, data_key, needs = self._data(loaded.recipe.data.dataset)
        name = f"{recipe.split('/')[-1]}-seed{seed}"
        job = PretrainJob(name=name, recipe=JobRecipe.of(loaded), data=data, data_key=data_key, seed=seed)
        return self._add(job, needs, _budget(loaded.recipe.schedule, None))

    def _data(self, dataset: Literal["scannet", "s3dis"]) -> tuple[Path, str, tuple[Path, ...]]:
        if self.choice.data:
            return self._given_data(dataset)
        if self.choice.preset is None:
            raise InputError(
                f"{self.table.id} at the paper's size needs real data.",
                "Give --data ROOT with ROOT/scannet and ROOT/s3dis (made by `gcbench data prepare`), "
                f"or try it on synthetic rooms with --preset {preset_names('rooms')[0]}.",
            )
        loaded = self._recipe(ROOMS_RECIPE)
        assert isinstance(loaded.recipe, RoomsRecipe)
        rooms, prepare = room_jobs(dataset, JobRecipe.of(loaded), self.out / "data")
        sizes = loaded.recipe.scannet if dataset == "scannet" else loaded.recipe.s3dis
        count = f"{sizes.scenes + sizes.val} rooms"
        rooms_run = self._add(rooms, (), count).run
        prepare_run = self._add(prepare, (rooms_run.folder,), count).run
        return prepare.out, prepare.key, (rooms_run.folder, prepare_run.folder)

    def _given_data(self, dataset: str) -> tuple[Path, str, tuple[Path, ...]]:
        if dataset not in self.choice.data:
            raise InputError(
                f"{self.table.id} needs '{dataset}', which is not in the data folder.",
                f"Prepare it with `gcbench data prepare {dataset} RAW OUT`, or choose other --columns.",
            )
        from gcbench.data.storage import PreparedDataset

        folder = self.choice.data[dataset]
        return folder, PreparedDataset.open(folder).fingerprint, ()

    def _recipe(self, name: str, row: TableRow | None = None) -> LoadedRecipe:
        key = (name, row.id if row else "")
        if key not in self.recipes:
            kind = name.partition("/")[0]
            overrides = [text.removeprefix(f"{kind}.") for text in self.choice.overrides if text.startswith(f"{kind}.")]
            values = row.values if row else None
            self.recipes[key] = load_recipe(
                name,
                row=values,
                preset=self.choice.preset,
                overrides=overrides,
                pretrained=row is not None and row.pretrain is not None,
            )
        return self.recipes[key]

    def _add(self, job: Job, needs: tuple[Path, ...], effort: str) -> PlannedJob:
        return self.result.add(PlannedJob(job, self.store.run(job.kind, job.name, job.key), needs, effort))


def _setting(column: TableColumn) -> tuple[str, str, str, str | None]:
    return column.data, column.label_set, column.recipe, column.limit


def _budget(schedule: Schedule, scenes: int | None) -> str:
    """Steps and samples, with the paper's epochs beside them; `scenes` is None where their number is not known yet."""
    epochs = f"{schedule.epochs:,} epochs" if schedule.epochs is not None else ""
    if scenes is None and schedule.steps is None:
        return epochs
    steps = schedule.total_steps(scenes or 0)
    budget = f"{steps:,} steps, {steps * schedule.batch_size:,} samples"
    return f"{budget} ({epochs})" if epochs else budget
