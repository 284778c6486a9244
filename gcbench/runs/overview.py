"""Runs at a glance: how far they are, what they measured last, what differs between them, and what can be removed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gcbench.errors import InputError, RunError
from gcbench.runs.store import Run, Status

_DEPTH = 4  # folders below the root in which a run may lie: reproduction/runs/semantic/NAME
_NO_RUNS = {"checkpoints", "figures", "models", "panels", "predictions", "encoder", "tensorboard", "faults", "data"}
_VALUES = ("mIoU", "mAP50", "psnr_heldout", "loss")  # the most telling first


@dataclass(frozen=True)
class RunSummary:
    """What a run's folder says.

    Attributes:
        run: the run.
        status: see `Run.status`.
        kind, name: of its job.
        step, total: optimiser steps that are logged, and how many there are to be; None before the first.
        seconds_per_step: of the last steps.
        values: the last value of everything that was logged, by name.
        warnings: counts by kind.
        error: of a failed run.
        started, ended: of the last attempt.
    """

    run: Run
    status: Status | None
    kind: str
    name: str
    step: int | None = None
    total: int | None = None
    seconds_per_step: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    started: datetime | None = None
    ended: datetime | None = None

    @classmethod
    def of(cls, run: Run) -> RunSummary:
        """Read it.

        Raises:
            RunError: the folder is no run, or its manifest is broken.
        """
        manifest = run.manifest
        if manifest is None:
            raise RunError(f"{run.folder} is not a run folder: it has no manifest.", "See `gcbench runs list`.")
        records = run.records()
        steps = [record for record in records if record.get("event") == "step"]
        values: dict[str, float] = {}
        for record in records:
            if record.get("event") in ("step", "evaluation", "score"):
                numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
                values.update(numbers)
        for place in ("step", "total"):
            values.pop(place, None)
        return cls(
            run=run,
            status=run.status,
            kind=manifest.kind,
            name=manifest.name,
            step=steps[-1]["step"] if steps else None,
            total=steps[-1]["total"] if steps else None,
            seconds_per_step=_recent([record["seconds"] for record in steps]),
            values=values,
            warnings=steps[-1].get("warnings", {}) if steps else {},
            error=manifest.error,
            started=manifest.started,
            ended=manifest.ended,
        )

    @property
    def seconds_left(self) -> float | None:
        """To the end of training, at the speed of the last steps; None where unknown or nothing is left."""
        if self.status not in ("running", "interrupted", "failed") or not self.step or not self.total:
            return None
        return (self.total - self.step) * (self.seconds_per_step or 0.0)

    @property
    def headline(self) -> tuple[str, float] | None:
        """The most telling value: name and number."""
        return next(((name, self.values[name]) for name in _VALUES if name in self.values), None)

    @property
    def touched(self) -> datetime | None:
        """When it was last written to."""
        try:
            return datetime.fromtimestamp(self.run.log_path.stat().st_mtime, timezone.utc)
        except OSError:
            return self.ended or self.started


def find_runs(root: Path) -> list[Run]:
    """All runs in a folder and below, sorted; the folder may be a run itself.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}.", "Give the folder that runs were written to (--out).")
    found: list[Run] = []
    for folder, folders, files in os.walk(root):
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        if "manifest.json" in files and "job.json" in files:
            found.append(Run(path))
            folders.clear()
        folders[:] = [] if depth >= _DEPTH else sorted(set(folders) - _NO_RUNS)
    return found


def settings(run: Run) -> dict[str, Any]:
    """All that a run's job says, flat: values of the recipe by key, and the rest by name."""
    job = dict(run.job())
    recipe = job.pop("recipe", None) or {}
    return {**job, "recipe": recipe.get("name"), "preset": recipe.get("preset"), **recipe.get("values", {})}


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which runs differ, by name: one value per run."""
    all_settings = [settings(run) for run in runs]
    keys = dict.fromkeys(key for one in all_settings for key in one)
    table = {key: [one.get(key) for one in all_settings] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


@dataclass(frozen=True)
class Removable:
    """What can be removed of a run, and why.

    Attributes:
        run: the run.
        paths: files and folders.
        size: bytes.
        why: in words.
    """

    run: Run
    paths: tuple[Path, ...]
    size: int
    why: str


def removable(run: Run, *, failed: bool = False) -> Removable | None:
    """What nothing will need again: of a finished run its checkpoints and kept predictions; leftovers of a kill.

    Results, weights, figures and logs stay, of a pre-training the last checkpoint too, which views are rendered from,
    and a run that is being worked on stays whole.

    Args:
        run: the run.
        failed: take runs whole that failed before their first checkpoint.
    """
    status = run.status
    if status in ("running", "queued", None):
        return None
    paths: list[Path] = []
    reasons = []
    checkpoints = sorted(run.checkpoints.glob("step-*.pt"))
    if status == "done":
        predictions = [path for path in [run.folder / "predictions"] if path.is_dir()]
        manifest = run.manifest
        if manifest is not None and manifest.kind == "pretrain":
            checkpoints = checkpoints[:-1]
        paths += [*checkpoints, *predictions]
        reasons += ["checkpoints of a finished run"] * bool(checkpoints) + ["kept predictions"] * bool(predictions)
    elif failed and status == "failed" and not checkpoints:
        return Removable(run, (run.folder,), size_of(run.folder), "failed before its first checkpoint")
    leftovers = [path for path in run.folder.rglob(".*.part") if path not in paths]
    paths += leftovers
    reasons += ["leftovers of a kill"] * bool(leftovers)
    return Removable(run, tuple(paths), sum(map(size_of, paths)), ", ".join(reasons)) if paths else None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count nothing."""
    if path.is_symlink():
        return 0
    if path.is_dir():
        return sum(size_of(child) for child in path.iterdir())
    return path.stat().st_size


def _recent(seconds: Sequence[float]) -> float | None:
    """The median of the last few."""
    last = sorted(seconds[-9:])
    return last[len(last) // 2] if last else None
