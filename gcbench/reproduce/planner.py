"""From tables, their rows, columns and seeds to jobs, each keyed by the content of what goes into it.

Jobs that several cells share (rooms, prepared data, one pre-training per seed) stand in the plan once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gcbench.data.metadata import data_efficient, expected_scenes
from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.errors import InputError
from gcbench.files import short_sha256
from gcbench.protocols.encoder_files import given_encoder
from gcbench.protocols.jobs import (
    FoldsJob,
    InstanceJob,
    Job,
    JobRecipe,
    PretrainJob,
    SceneFigureJob,
    SegmentationJob,
    SemanticJob,
    room_jobs,
)
from gcbench.recipe.figures import load_figure
from gcbench.recipe.loader import LoadedRecipe, Value, load_recipe, preset_names, recipe_names
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
from gcbench.reproduce.plan import Choice, Plan, PlannedJob, Selection
from gcbench.runs.cells import CellRun
from gcbench.runs.store import Run, RunStore

ROOMS_RECIPE = "rooms/sizes"


def plan_tables(selections: Sequence[Selection], choice: Choice, out: Path, *, figures: Sequence[str] = ()) -> Plan:
    """The jobs behind the chosen cells and figures; what several of them need stands in the plan once.

    Args:
        selections: cells of tables.
        choice: how.
        out: the reproduction's folder.
        figures: ids of figures that show scenes; they are drawn for the first seed.

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
    for selection in selections:
        _check(selection, choice)
    planner = _Planner(choice, out)
    for seed in range(choice.seeds):
        for selection in selections:
            planner.add(selection, seed)
    for figure in figures:
        planner.add_figure(figure)
    return planner.result


def _check(selection: Selection, choice: Choice) -> None:
    table = selection.table
    takes = [row.id for row in table.rows if row.pretrain]
    if choice.encoder is not None and not set(takes) & set(selection.rows):
        raise InputError("--encoder: none of the chosen rows takes an encoder.", f"Those rows do: {', '.join(takes)}.")
    if choice.variant is not None:
        known = variants(table)
        if choice.variant not in known:
            raise InputError(f"{table.id} has no variant '{choice.variant}'.", f"Known: {', '.join(known) or 'none'}.")


def variants(table: Table) -> list[str]:
    """Variants that every column's recipe has, such as ``official``."""
    of_column = [
        {name.removeprefix(f"{column.recipe}-") for name in recipe_names() if name.startswith(f"{column.recipe}-")}
        for column in table.columns
        if column.kind == "trained"
    ]
    return sorted(set.intersection(*of_column))


class _Planner:
    def __init__(self, choice: Choice, out: Path) -> None:
        self.choice, self.out = choice, out
        self.store = RunStore(out / "runs")
        self.result = Plan()
        self.recipes: dict[str, LoadedRecipe] = {}

    def add(self, selection: Selection, seed: int) -> None:
        """Add the jobs of the chosen cells for one seed, column by column."""
        cells = self.result.cells.setdefault(selection.table.id, [])
        for column in (c for c in selection.table.columns if c.id in selection.columns and c.kind != "mean"):
            for row in (r for r in selection.table.rows if r.id in selection.rows and column.has(r.id)):
                run = self._cell(_Place(selection.table, row), column, seed).folder
                cells.append(CellRun(row=row.id, column=column.id, seed=seed, run=f"{run.parent.name}/{run.name}"))

    def add_figure(self, figure: str) -> None:
        """Add the jobs of a figure."""
        definition = load_figure(figure, self.choice.preset).definition
        if self.choice.encoder is not None:
            raise InputError(
                f"{figure} renders what was pre-trained, an encoder alone cannot.", "Leave --encoder away."
            )
        pretraining = self._pretraining(None, definition.pretrain, 0)
        data = self._data(definition.data, figure)
        job = SceneFigureJob(
            name=figure,
            definition=definition,
            data=data.folder,
            data_key=data.key,
            pretraining=pretraining.run.folder,
            pretraining_key=pretraining.job.key,
            seed=0,
        )
        needs = (*data.needs, pretraining.run.folder)
        planned = PlannedJob(job, self._run(job), needs, f"{definition.scenes} scenes", lacks=data.lacks)
        self.result.figures.append(self._add(planned).run)

    def _cell(self, place: _Place, column: TableColumn, seed: int) -> Run:
        table, row = place.table, place.row
        if column.kind == "pretraining":
            if row.pretrain is None or self.choice.encoder is not None:
                raise InputError(
                    f"{table.id}, {row.id}: {column.id} is measured while pre-training, which is left out."
                )
            return self._pretraining(place, row.pretrain, seed).run
        folds = [self._fold(place, column, fold, seed) for fold in column.folds]
        if len(folds) == 1:
            return folds[0].run
        first = folds[0].job
        if not isinstance(first, SemanticJob):
            raise InputError(f"{table.id}, {column.id}: only semantic segmentation has several folds.")
        job = FoldsJob(
            name=f"{column.id}-{row.id}-seed{seed}",
            table=table.id,
            row=row.id,
            column=column.id,
            label_set=column.label_set,
            protocol=str(first.recipe.values["evaluation.protocol"]),
            folds=tuple(fold.run.folder / "result.json" for fold in folds),
            fold_keys=tuple(fold.job.key for fold in folds),
            seed=seed,
        )
        needs = tuple(fold.run.folder for fold in folds)
        return self._add(PlannedJob(job, self._run(job), needs, f"{len(folds)} folds", lacks=folds[0].lacks)).run

    def _fold(self, place: _Place, column: TableColumn, fold: Fold, seed: int) -> PlannedJob:
        table, row = place.table, place.row
        column = _owner(table, column, fold)
        data = self._data(column.data, table.id)
        variant = f"-{self.choice.variant}" if self.choice.variant else ""
        name = f"{column.recipe}{variant}"
        values = {**place.overlay(self.choice.preset, name), **row.values}
        loaded = self._recipe(name, values, pretrained=row.pretrain is not None)
        recipe = loaded.recipe
        assert isinstance(recipe, SemanticRecipe | InstanceRecipe)
        encoder, encoder_key, encoder_needs = self._encoder(place, recipe, seed)
        of_fold = fold.val[0] if len(column.folds) > 1 else None
        suffix = f"-{of_fold}" if of_fold else ""
        kind: type[SegmentationJob] = SemanticJob if isinstance(recipe, SemanticRecipe) else InstanceJob
        limit_key, scenes = self._training_set(column, fold)
        job = kind(
            name=f"{column.id}-{row.id}{suffix}-seed{seed}",
            table=table.id,
            row=row.id,
            column=column.id,
            fold=of_fold,
            recipe=JobRecipe.of(loaded),
            data=data.folder,
            data_key=data.key,
            label_set=column.label_set,
            train=fold.train,
            val=fold.val,
            limit=column.limit,
            limit_key=limit_key,
            encoder=encoder,
            encoder_key=encoder_key,
            seed=seed,
            notes=place.notes(self.choice.preset),
        )
        return self._train(job, (*data.needs, *encoder_needs), recipe.schedule, scenes, data.lacks)

    def _training_set(self, column: TableColumn, fold: Fold) -> tuple[str | None, int | None]:
        """What the column's data-efficient set is known by, and the number of training scenes; None is not known."""
        if self._makes_rooms:  # they get their sets when they are prepared
            return ("rooms" if column.limit else None), None
        from gcbench.data.storage import PreparedDataset
        from gcbench.data.subsets import load, subset_file

        if column.data not in self.choice.data:  # a plan that is only shown
            return column.limit, _official_count(column.data, fold.train, column.limit)
        dataset = PreparedDataset.open(self.choice.data[column.data])
        if column.limit is None:
            return None, len(dataset.scene_names(fold.train))
        scenes = load(dataset, column.limit).scene_count
        return short_sha256(subset_file(dataset, column.limit)), scenes

    def _encoder(
        self, place: _Place, recipe: SegmentationRecipe, seed: int
    ) -> tuple[Path | None, str | None, tuple[Path, ...]]:
        """Weights of a row's encoder, their key, and the runs that make them; none for a random start."""
        if not place.row.pretrain:
            return None, None, ()
        if self.choice.encoder is not None:
            weights = given_encoder(self.choice.encoder, recipe.encoder)
            return weights, f"given:{short_sha256(weights)}", ()
        planned = self._pretraining(place, place.row.pretrain, seed)
        return planned.run.folder / "encoder" / "model.safetensors", planned.job.key, (planned.run.folder,)

    def _pretraining(self, place: _Place | None, recipe: str, seed: int) -> PlannedJob:
        preset = self.choice.preset
        values = {**place.overlay(preset, recipe), **place.stand_in(preset)} if place else {}
        loaded = self._recipe(recipe, values)
        assert isinstance(loaded.recipe, PretrainRecipe)
        of_data = loaded.recipe.data
        data = self._data(of_data.dataset, place.table.id if place else recipe)
        job = PretrainJob(
            name=f"{recipe.split('/')[-1]}-seed{seed}",
            recipe=JobRecipe.of(loaded),
            data=data.folder,
            data_key=data.key,
            seed=seed,
            notes=place.notes(preset) if place else (),
        )
        scenes = None if self._makes_rooms else self._scenes(of_data.dataset, of_data.splits)
        return self._train(job, data.needs, loaded.recipe.schedule, scenes, data.lacks)

    @property
    def _makes_rooms(self) -> bool:
        return not self.choice.data and self.choice.preset is not None

    def _scenes(self, dataset: str, splits: Sequence[str]) -> int:
        from gcbench.data.storage import PreparedDataset

        if dataset not in self.choice.data:
            return _official_count(dataset, splits)
        return len(PreparedDataset.open(self.choice.data[dataset]).scene_names(splits))

    def _data(self, dataset: Literal["scannet", "s3dis", "scannetpp"], what: str) -> _Data:
        if dataset == "scannetpp" or not self._makes_rooms:
            return self._given_data(dataset, what)
        loaded = self._recipe(ROOMS_RECIPE)
        assert isinstance(loaded.recipe, RoomsRecipe)
        rooms, prepare = room_jobs(dataset, JobRecipe.of(loaded), self.out / "data")
        sizes = loaded.recipe.scannet if dataset == "scannet" else loaded.recipe.s3dis
        count = f"{sizes.scenes + sizes.val} rooms"
        rooms_run = self._add(PlannedJob(rooms, self._run(rooms), (), count)).run
        prepare_run = self._add(PlannedJob(prepare, self._run(prepare), (rooms_run.folder,), count)).run
        return _Data(prepare.out, prepare.key, (rooms_run.folder, prepare_run.folder))

    def _given_data(self, dataset: str, what: str) -> _Data:
        if dataset in self.choice.data:
            from gcbench.data.storage import PreparedDataset

            folder = self.choice.data[dataset]
            return _Data(folder, PreparedDataset.open(folder).fingerprint, ())
        if self.choice.only_show:
            return _Data(Path(dataset), "missing", (), lacks=dataset)
        if not self.choice.data:
            raise InputError(
                f"{what} at the paper's size needs real data.",
                "Give --data ROOT with ROOT/scannet and ROOT/s3dis (made by `gcbench data prepare`), "
                f"or try it on synthetic rooms with --preset {preset_names('rooms')[0]}.",
            )
        raise InputError(
            f"{what} needs '{dataset}', which is not in the data folder.",
            f"Prepare it with `gcbench data prepare {dataset} RAW OUT`, or choose other --columns."
            if dataset != "scannetpp"
            else "Put any prepared dataset there: it is shown, not scored.",
        )

    def _recipe(
        self, name: str, values: Mapping[str, Value] | None = None, *, pretrained: bool = False
    ) -> LoadedRecipe:
        of_values = {key: leaf.value for key, leaf in (values or {}).items()}
        key = json.dumps([name, of_values, pretrained], sort_keys=True)
        if key not in self.recipes:
            kind = name.partition("/")[0]
            overrides = [text.removeprefix(f"{kind}.") for text in self.choice.overrides if text.startswith(f"{kind}.")]
            self.recipes[key] = load_recipe(
                name, row=values, preset=self.choice.preset, overrides=overrides, pretrained=pretrained
            )
        return self.recipes[key]

    def _train(
        self,
        job: PretrainJob | SegmentationJob,
        needs: tuple[Path, ...],
        schedule: Schedule,
        scenes: int | None,
        lacks: str | None,
    ) -> PlannedJob:
        known = scenes is not None or schedule.steps is not None
        samples = schedule.total_steps(scenes or 0) * schedule.batch_size if known else None
        return self._add(PlannedJob(job, self._run(job), needs, _budget(schedule, samples), samples, lacks))

    def _run(self, job: Job) -> Run:
        """The run of a job: one that is there under another name, made for another table, or its own."""
        return self.store.find(job.kind, job.key) or self.store.run(job.kind, job.name, job.key)

    def _add(self, planned: PlannedJob) -> PlannedJob:
        return self.result.add(planned)


@dataclass(frozen=True)
class _Data:
    """A prepared dataset, what it is known by, and the runs that make it."""

    folder: Path
    key: str
    needs: tuple[Path, ...]
    lacks: str | None = None


@dataclass(frozen=True)
class _Place:
    """A row of a table: where a job's own values come from."""

    table: Table
    row: TableRow

    def overlay(self, preset: str | None, recipe: str) -> Mapping[str, Value]:
        """What the table changes in a recipe under the preset."""
        return self.table.presets.get(preset or "", {}).get(recipe.partition("/")[0], {})

    def stand_in(self, preset: str | None) -> Mapping[str, Value]:
        """What stands in for what the row is about."""
        found = self.row.stand_ins.get(preset or "")
        return found.values if found else {}

    def notes(self, preset: str | None) -> tuple[str, ...]:
        """What a reader of a result must know."""
        found = self.row.stand_ins.get(preset or "")
        return (found.note,) if found else ()


def _official_count(dataset: str, splits: Sequence[str], limit: str | None = None) -> int:
    """Scenes of splits, or of a data-efficient set, by the official lists: for a dataset that is not there."""
    if limit is not None and limit.startswith("scenes-"):
        return next(share.names for share in data_efficient(dataset).scenes if limit == f"scenes-{share.percent}")
    if dataset == "s3dis":
        return sum(len(s3dis_facts().rooms.names(area)) for area in splits)
    expected = expected_scenes(dataset)
    return sum(expected[split] for split in splits)


def _owner(table: Table, column: TableColumn, fold: Fold) -> TableColumn:
    """The column that is just this fold, if the table has one: Area 5 is trained once for both its columns."""
    for other in table.columns:
        if other.folds == (fold,) and _setting(other) == _setting(column):
            return other
    return column


def _setting(column: TableColumn) -> tuple[str, str, str, str | None]:
    return column.data, column.label_set, column.recipe, column.limit


def _budget(schedule: Schedule, samples: int | None) -> str:
    """Steps and samples, with the paper's epochs beside them; `samples` is None where their number is not known yet."""
    epochs = f"{schedule.epochs:,} epochs" if schedule.epochs is not None else ""
    if samples is None:
        return epochs
    budget = f"{samples // schedule.batch_size:,} steps, {samples:,} samples"
    return f"{budget} ({epochs})" if epochs else budget
