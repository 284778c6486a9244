"""What the job files of finished runs say: recipe, data, splits, and the runs that a number was made of.

A job is read from its file as it was queued, so that jobs of other versions of gcbench can be read too: what they do
not have is empty. Runs that a job names are looked for in the store, wherever it lies now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gcbench.errors import RunError
from gcbench.runs.store import Run, RunStore

# Keys of a recipe that decide how a training runs, and nothing of what it learns.
WITHOUT_EFFECT = ("run.workers", "run.log_every", "run.checkpoint_every", "run.keep_checkpoints", "run.skip_limit")
_OVERRIDE = "override:"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class StoredRecipe(_Stored):
    """A resolved recipe inside a job file: values and their sources by dotted key."""

    name: str
    kind: str
    preset: str | None = None
    values: Mapping[str, Any] = {}
    sources: Mapping[str, str] = {}

    def overrides(self) -> list[str]:
        """The values given on a command line, as ``kind.key=value`` for `--set`."""
        keys = [key for key, source in self.sources.items() if source.startswith(_OVERRIDE)]
        return [f"{self.kind}.{key}={as_yaml(self.values.get(key))}" for key in keys]


class StoredJob(_Stored):
    """The parts of a job that explain its result; see `gcbench.protocols.jobs`."""

    kind: str
    name: str
    recipe: StoredRecipe | None = None
    data: Path | None = None
    data_key: str | None = None
    label_set: str | None = None
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    limit: str | None = None
    encoder: Path | None = None
    encoder_key: str | None = None
    folds: tuple[Path, ...] = ()
    seed: int | None = None


def read_job(run: Run) -> StoredJob:
    """The job of a run.

    Raises:
        RunError: its file is missing or no job.
    """
    try:
        return StoredJob.model_validate(run.job())
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RunError(f"{run.job_path}: key '{key}': {error.errors()[0]['msg']}.") from error


@dataclass(frozen=True)
class Training:
    """A finished run that trained, with its job and its recipe."""

    run: Run
    job: StoredJob
    recipe: StoredRecipe


def trainings(run: Run, store: RunStore) -> list[Training]:
    """The trainings behind a number: the run itself, or those of its folds that are still there.

    Raises:
        RunError: a job file is broken.
    """
    job = read_job(run)
    found = [run] if not job.folds else [_moved(path.parent, store) for path in job.folds]
    jobs = [(one, read_job(one)) for one in found if one.is_done]
    return [Training(one, its, its.recipe) for one, its in jobs if its.recipe is not None]


def pretraining(training: Training, store: RunStore) -> Training | None:
    """The pre-training that made a training's encoder; None for a random start, a given encoder, or a run removed.

    Raises:
        RunError: a job file is broken.
    """
    if training.job.encoder is None or (training.job.encoder_key or "").startswith("given:"):
        return None
    found = trainings(_moved(training.job.encoder.parent.parent, store), store)
    return found[0] if found else None


def setting(parts: Sequence[Training], store: RunStore) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What decides a number but for its seed: what it is a number of, and all values behind it by key.

    Args:
        parts: the trainings behind the number, at least one.
        store: where the runs lie.

    Returns:
        Task, data, classes and splits, which must be equal in runs that are compared; then ``<kind>.<key>`` -> value of
        the training's recipe and of its pre-training's.
    """
    first = parts[0]
    measured = (
        first.job.kind,
        first.job.label_set,
        first.job.limit,
        first.job.data_key,
        tuple((part.job.train, part.job.val) for part in parts),
    )
    values = _values(first.recipe)
    before = pretraining(first, store)
    if before is not None:
        values |= _values(before.recipe) | {"pretrain.data": before.job.data_key}
    elif first.job.encoder is not None:
        given = (first.job.encoder_key or "").startswith("given:")
        values["encoder"] = first.job.encoder_key if given else "of a pre-training that was removed"
    return measured, values


def _values(recipe: StoredRecipe) -> dict[str, Any]:
    return {f"{recipe.kind}.{key}": value for key, value in recipe.values.items() if key not in WITHOUT_EFFECT}


def _moved(folder: Path, store: RunStore) -> Run:
    """A run's folder in the store as it lies now.

    Raises:
        RunError: the path ends in no folder of a run.
    """
    if ".." in (folder.name, folder.parent.name) or not folder.parent.name:
        raise RunError(f"'{folder}' in a job is no run's folder.")
    return Run(store.root / folder.parent.name / folder.name)


def as_yaml(value: Any) -> str:
    """A value on one line, as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
