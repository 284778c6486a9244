"""Runs a plan: what is done is skipped, what was cut off goes on, a failed job stops only those that need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcbench.errors import GcbenchError
from gcbench.protocols.jobs import WORKER, InstanceJob, Job, PretrainJob, SemanticJob
from gcbench.reproduce.plan import Plan, PlannedJob
from gcbench.runs.store import Run
from gcbench.training.launch import Launch, run_worker


@dataclass
class Outcome:
    """What became of the jobs, by run folder."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, GcbenchError] = field(default_factory=dict)
    blocked: list[Path] = field(default_factory=list)


def execute_plan(
    plan: Plan,
    launch: Launch,
    *,
    on_start: Callable[[PlannedJob], None],
    on_event: Callable[[dict[str, Any]], None],
    on_end: Callable[[PlannedJob, str], None],
) -> Outcome:
    """Run the jobs in order.

    Every node of several runs all jobs, each with its share of the processes; those without training run on the first.

    Args:
        launch: with how many processes a job trains.
        on_start, on_end: told about each job that runs; the end is "done", "failed" or "blocked".
        on_event: gets the events of the running job.
    """
    outcome = Outcome()
    for planned in plan.jobs:
        folder = planned.run.folder
        if planned.run.status == "done":
            outcome.skipped.append(folder)
            continue
        if any(need in outcome.failed or need in outcome.blocked for need in planned.needs):
            outcome.blocked.append(folder)
            on_end(planned, "blocked")
            continue
        on_start(planned)
        try:
            run_job(planned.run, planned.job, on_event, launch)
        except GcbenchError as error:
            outcome.failed[folder] = error
            on_end(planned, "failed")
        else:
            outcome.done.append(folder)
            on_end(planned, "done")
    return outcome


def run_job(run: Run, job: Job, on_event: Callable[[dict[str, Any]], None], launch: Launch | None = None) -> None:
    """Run one job in worker processes: as many as `launch` says if it trains, else one.

    Raises:
        GcbenchError: it failed.
        KeyboardInterrupt: it was interrupted; it can go on later.
    """
    if launch is None or not isinstance(job, PretrainJob | SemanticJob | InstanceJob):
        launch = Launch()
    run.queue(job.model_dump(mode="json"))
    run_worker(WORKER, run.job_path, run.folder / "worker.log", on_event, launch)
