"""Commands that measure what was not measured yet, as they would be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from gcbench.recipe.tables import TableColumn
from gcbench.reporting.stored_jobs import StoredRecipe, Training, read_job
from gcbench.runs.store import RunStore

SEEDS = 3


def reproduce_command(
    cell: tuple[str, str, str],
    out: Path,
    *,
    preset: str | None = None,
    data: Path | None = None,
    variant: str | None = None,
    encoder: Path | None = None,
    changes: Iterable[str] = (),
    seeds: int | None = None,
) -> str:
    """A `gcbench reproduce` of one cell.

    Args:
        cell: ids of table, row and column.
        out: the reproduction's folder.
        preset, data, variant, encoder, seeds: options; None leaves one out.
        changes: ``kind.key=value`` for `--set`.
    """
    table, row, column = cell
    options = {
        "--preset": preset,
        "--data": data,
        "--variant": variant,
        "--encoder": encoder,
        "--seeds": seeds,
    }
    words = ["gcbench", "reproduce", table, "--rows", row, "--columns", column, "--out", str(out)]
    words += [word for name, value in options.items() if value is not None for word in (name, str(value))]
    words += [word for change in changes for word in ("--set", change)]
    return shlex.join(words)


def same_again(
    cell: tuple[str, str, str],
    column: TableColumn,
    training: Training,
    before: Training | None,
    store: RunStore,
    changes: Sequence[str] = (),
    seeds: int | None = None,
) -> str:
    """The command that makes a cell's number as it was made, but for some changes."""
    recipe, job = training.recipe, training.job
    rooms = [read_job(run).recipe for run in store.runs("rooms")]
    recipes = [recipe, before.recipe if before else None, *rooms]
    given = (job.encoder_key or "").startswith("given:")
    variant = recipe.name.removeprefix(f"{column.recipe}-") if recipe.name != column.recipe else None
    return reproduce_command(
        cell,
        store.root.parent,
        preset=recipe.preset,
        data=job.data.parent if job.data and not rooms else None,
        variant=variant if column.kind == "trained" else None,
        encoder=job.encoder.parent if given and job.encoder else None,
        changes=dict.fromkeys((*_overrides(recipes), *changes)),
        seeds=seeds,
    )


def _overrides(recipes: Iterable[StoredRecipe | None]) -> list[str]:
    return [text for recipe in recipes if recipe is not None for text in recipe.overrides()]
