"""Runs that can be held against each other: those of a cell by setting, and those that differ in a single key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gcbench.recipe.loader import LoadedRecipe, content_hash
from gcbench.reporting.compare import measured_values
from gcbench.reporting.recipe_differences import ABSENT, changed_keys, same
from gcbench.reporting.recorded import Recorded, RecordedCell
from gcbench.reporting.stored_jobs import WITHOUT_EFFECT, Training, read_job, setting, trainings
from gcbench.reporting.verdicts import metric_unit
from gcbench.runs.results import CellContent, FigureResult
from gcbench.runs.store import Run, RunStore


def value_of(result: CellContent, metric: str) -> float:
    """A metric of a result in the tables' unit; NaN if it has none."""
    return metric_unit(metric).scale * measured_values(result).get(metric, math.nan)


@dataclass(frozen=True)
class CellGroup:
    """Results of a cell with the same setting: one per seed.

    Attributes:
        parts: the trainings behind the first of them, one per fold.
        measured, values: see `setting`.
    """

    results: tuple[RecordedCell, ...]
    parts: tuple[Training, ...]
    measured: tuple[Any, ...]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder of the first run."""
        return self.results[0].run.folder.name


@dataclass(frozen=True)
class OneKeyApart:
    """Runs that differ from ours in one key.

    Attributes:
        key: ``<kind>.<key>`` of a recipe.
        ours, value: its two values.
        numbers: seed -> what such a run measured, in the tables' unit.
        runs: their folders' names.
    """

    key: str
    ours: Any
    value: Any
    numbers: Mapping[int, float]
    runs: tuple[str, ...]


def cell_groups(out: Path, table: str, row: str, column: str, store: RunStore) -> list[CellGroup]:
    """The finished runs of a cell by setting; a run whose trainings were removed is left out.

    Raises:
        RunError: a file is broken.
    """
    found: dict[str, list[tuple[RecordedCell, list[Training]]]] = {}
    for one in Recorded(out).cells(table):
        parts = trainings(one.run, store) if (one.row, one.column) == (row, column) else []
        if parts:
            found.setdefault(content_hash(setting(parts, store)), []).append((one, parts))
    groups = []
    for same_setting in found.values():
        by_seed = {one.seed: one for one, _ in same_setting}
        parts = same_setting[0][1]
        groups.append(CellGroup(tuple(by_seed[seed] for seed in sorted(by_seed)), tuple(parts), *setting(parts, store)))
    return groups


def closest_to(groups: Sequence[CellGroup], recipes: Sequence[LoadedRecipe]) -> CellGroup:
    """The group whose recipes have the fewest other values than these; of several that of most seeds, or the latest."""
    paper = {
        f"{loaded.recipe.kind}.{key}": leaf.value
        for loaded in recipes
        for key, leaf in loaded.leaves.items()
        if key not in WITHOUT_EFFECT
    }

    def rank(group: CellGroup) -> tuple[int, int, datetime]:
        latest = max(one.result.provenance.ended for one in group.results)
        return -len(changed_keys(group.values, paper)), len(group.results), latest

    return max(groups, key=rank)


def one_key_apart(own: CellGroup, store: RunStore, metric: str) -> list[OneKeyApart]:
    """All finished runs that measured the same, on the same data and scenes, and differ from ours in one key only.

    Raises:
        RunError: a file is broken.
    """
    found: dict[tuple[str, str], list[tuple[Any, int, float, str]]] = {}
    for run in store.runs(own.results[0].run.folder.parent.name):
        parts = trainings(run, store) if run.is_done else []
        if not parts:
            continue
        measured, values = setting(parts, store)
        changed = changed_keys(own.values, values)
        if measured == own.measured and len(changed) == 1:
            value = values.get(changed[0], ABSENT)
            result = run.result()
            number = math.nan if isinstance(result, FigureResult) else value_of(result, metric)
            found.setdefault((changed[0], content_hash(value)), []).append((value, _seed(run), number, run.folder.name))
    return [
        OneKeyApart(
            key=key,
            ours=own.values.get(key, ABSENT),
            value=runs[0][0],
            numbers={seed: number for _, seed, number, _ in runs},
            runs=tuple(name for _, _, _, name in runs),
        )
        for (key, _), runs in found.items()
    ]


def is_value(other: OneKeyApart, value: Any) -> bool:
    """Whether the runs have this value."""
    return same(other.value, value)


def _seed(run: Run) -> int:
    seed = read_job(run).seed
    return 0 if seed is None else seed
