"""What a plan will cost: from finished runs of the same kind where there are some, else from `recipes/costs.yaml`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gcbench.errors import RecipeError
from gcbench.protocols.jobs import InstanceJob, Job, PretrainJob, SemanticJob
from gcbench.recipe.yaml_files import read_yaml
from gcbench.reproduce.plan import Plan, PlannedJob
from gcbench.resources import resource_path
from gcbench.runs.results import InstanceResult, PretrainResult, SemanticResult
from gcbench.runs.store import Run, RunStore

_PAPER = "paper"


class Cost(BaseModel):
    """Of one kind of training.

    Attributes:
        seconds: of one sample on one device, with the evaluations.
        memory_mb: the largest.
        disk_mb: of a finished run.
        source: who measured it, or why it is assumed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    memory_mb: float
    disk_mb: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """What one job will cost.

    Attributes:
        hours: on one device, GPU or core; None where the number of samples is not known yet.
    """

    hours: float | None
    memory_mb: float
    disk_mb: float
    source: str


@dataclass(frozen=True)
class Estimates:
    """What the jobs of a plan that are not done will cost.

    Attributes:
        device: ``"GPU"`` or ``"core"``.
        jobs: by run folder; jobs that train nothing are left out.
    """

    device: str
    jobs: dict[Path, Estimate]

    @property
    def hours(self) -> float:
        """Of all jobs whose samples are known."""
        return sum(estimate.hours or 0.0 for estimate in self.jobs.values())

    @property
    def disk_mb(self) -> float:
        """Of all jobs."""
        return sum(estimate.disk_mb for estimate in self.jobs.values())

    @property
    def memory_mb(self) -> float:
        """Of the largest job."""
        return max((estimate.memory_mb for estimate in self.jobs.values()), default=0.0)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the figures come from, each once."""
        return tuple(dict.fromkeys(estimate.source for estimate in self.jobs.values()))


def estimate_plan(plan: Plan, preset: str | None, out: Path) -> Estimates:
    """Estimate the trainings of a plan that are not done.

    Args:
        plan: the jobs.
        preset: they run with.
        out: the reproduction's folder, whose finished runs are measured.

    Raises:
        RecipeError: `recipes/costs.yaml` is broken.
    """
    device, costs = _costs(preset)
    costs |= _measured(RunStore(out / "runs").runs(), preset)
    waiting = [planned for planned in plan.jobs if not planned.run.is_done]
    return Estimates(
        device,
        {planned.run.folder: _estimate(planned, costs[kind]) for planned in waiting if (kind := _kind(planned.job))},
    )


def _estimate(planned: PlannedJob, cost: Cost) -> Estimate:
    hours = None if planned.samples is None else planned.samples * cost.seconds / 3600
    return Estimate(hours, cost.memory_mb, cost.disk_mb, cost.source)


def _kind(job: Job) -> str | None:
    if isinstance(job, SemanticJob):
        return "semantic-frozen" if job.recipe.values.get("probe.frozen") else "semantic"
    return job.kind if isinstance(job, PretrainJob | InstanceJob) else None


def _costs(preset: str | None) -> tuple[str, dict[str, Cost]]:
    path = resource_path("recipes", "costs.yaml")
    document = read_yaml(path)
    section = dict(document.get(preset or _PAPER) or document[_PAPER])
    try:
        return str(section.pop("device")), {kind: Cost(**cost) for kind, cost in section.items()}
    except (KeyError, TypeError, ValidationError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _measured(runs: Iterable[Run], preset: str | None) -> dict[str, Cost]:
    """Costs by kind, medians over finished runs that were not interrupted."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for run in runs:
        manifest = run.manifest
        if manifest is None or manifest.attempts != 1 or manifest.kind not in ("pretrain", "semantic", "instance"):
            continue
        if not run.is_done:
            continue
        result = run.result()
        if result.provenance.preset != preset:
            continue
        size = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()) / 1e6
        if isinstance(result, PretrainResult):
            scenes = result.seconds_per_step * result.processes / result.seconds_per_scene
            samples, kind, memory, processes = (
                result.steps * scenes,
                "pretrain",
                result.peak_memory_mb,
                result.processes,
            )
        elif isinstance(result, SemanticResult | InstanceResult) and result.budget is not None:
            frozen = "-frozen" if isinstance(result, SemanticResult) and result.encoder is not None else ""
            samples, kind, processes = float(result.budget.samples), f"{result.kind}{frozen}", result.budget.processes
            memory = result.provenance.peak_memory_mb
        else:
            continue
        seconds = result.provenance.wall_seconds * processes / samples
        found.setdefault(kind, []).append((seconds, memory, size))
    return {
        kind: Cost(
            seconds=statistics.median(seconds for seconds, _, _ in values),
            memory_mb=max(memory for _, memory, _ in values),
            disk_mb=statistics.median(size for _, _, size in values),
            source=f"measured: {len(values)} finished run{'s' * (len(values) > 1)} of kind {kind} in this folder",
        )
        for kind, values in found.items()
    }
