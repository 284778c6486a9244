"""Runs a plan: what is done is skipped, what was cut off goes on, a failed job stops only those that need it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gcbench.errors import GcbenchError, Paused
from gcbench.protocols.jobs import WORKER, InstanceJob, Job, PretrainJob, SemanticJob
from gcbench.reproduce.plan import Plan, PlannedJob
from gcbench.runs.store import Run
from gcbench.training.launch import Launch, run_worker, terminated_as_interrupted
from gcbench.training.worker_processes import Interruption

OnEvent = Callable[[PlannedJob, dict[str, Any]], None]


@dataclass
class Outcome:
    """What became of the jobs, by run folder."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, GcbenchError] = field(default_factory=dict)
    blocked: list[Path] = field(default_factory=list)

    @property
    def missed(self) -> set[Path]:
        """Runs that others wait for in vain."""
        return {*self.failed, *self.blocked}


def execute_plan(
    plan: Plan,
    launch: Launch,
    *,
    parallel: int = 1,
    on_start: Callable[[PlannedJob], None],
    on_event: OnEvent,
    on_end: Callable[[PlannedJob, str], None],
) -> Outcome:
    """Run the jobs, in their order as far as what they need is done.

    Args:
        launch: with how many processes a job trains.
        parallel: so many jobs run at once; with GPUs each has its own, on the CPU they share the cores.
        on_start, on_end: told about each job that runs; the end is "done", "failed" or "blocked".
        on_event: gets the events of running jobs, from several threads.

    Raises:
        Paused: it was interrupted, and a training has written a checkpoint.
        KeyboardInterrupt: it was interrupted where there was nothing to save.
    """
    return _Execution(plan, launch, parallel, on_start, on_event, on_end).run()


class _Execution:
    def __init__(
        self,
        plan: Plan,
        launch: Launch,
        parallel: int,
        on_start: Callable[[PlannedJob], None],
        on_event: OnEvent,
        on_end: Callable[[PlannedJob, str], None],
    ) -> None:
        self.launch, self.places = launch, list(range(parallel))
        self.on_start, self.on_event, self.on_end = on_start, on_event, on_end
        self.outcome, self.interruption = Outcome(), Interruption()
        self.waiting: list[PlannedJob] = []
        self.running: dict[Future[None], tuple[PlannedJob, int]] = {}
        for planned in plan.jobs:
            if planned.run.status == "done":
                self.outcome.skipped.append(planned.run.folder)
            else:
                self.waiting.append(planned)

    def run(self) -> Outcome:
        """Start what can be started whenever there is a place for it."""
        with ThreadPoolExecutor(len(self.places)) as pool, terminated_as_interrupted():
            try:
                while self.waiting or self.running:
                    self._start(pool)
                    self._end(wait(self.running, return_when=FIRST_COMPLETED).done)
            except KeyboardInterrupt as interrupt:
                stopped = self._stop()
                raise interrupt if isinstance(interrupt, Paused) else stopped from None
        return self.outcome

    def _start(self, pool: ThreadPoolExecutor) -> None:
        for planned in tuple(self.waiting):
            if self.outcome.missed.intersection(planned.needs):
                self.waiting.remove(planned)
                self.outcome.blocked.append(planned.run.folder)
                self.on_end(planned, "blocked")
                continue
            ready = {*self.outcome.done, *self.outcome.skipped}
            if self.places and ready.issuperset(planned.needs):
                self.waiting.remove(planned)
                place = self.places.pop(0)
                self.on_start(planned)
                self.running[pool.submit(self._work, planned, place)] = planned, place

    def _work(self, planned: PlannedJob, place: int) -> None:
        launch = self.launch
        if launch.devices is not None:
            of_place = launch.devices[place * launch.processes : (place + 1) * launch.processes]
            launch = replace(launch, devices=of_place)
        run_job(planned.run, planned.job, lambda event: self.on_event(planned, event), launch, self.interruption)

    def _end(self, ended: set[Future[None]]) -> None:
        for future in ended:
            planned, place = self.running.pop(future)
            self.places.append(place)
            try:
                future.result()
            except GcbenchError as error:
                self.outcome.failed[planned.run.folder] = error
                self.on_end(planned, "failed")
            else:
                self.outcome.done.append(planned.run.folder)
                self.on_end(planned, "done")

    def _stop(self) -> KeyboardInterrupt:
        """Let all running jobs write a checkpoint; a second interrupt ends them at once."""
        self.interruption.ask()
        while True:
            try:
                ended = wait(self.running).done
                break
            except KeyboardInterrupt:
                self.interruption.ask()
        paused = any(isinstance(future.exception(), Paused) for future in ended)
        return Paused() if paused else KeyboardInterrupt()


def run_job(
    run: Run,
    job: Job,
    on_event: Callable[[dict[str, Any]], None],
    launch: Launch | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Run one job in worker processes: as many as `launch` says if it trains, else one.

    Args:
        interruption: for a job in another thread than the main one, see `run_worker`.

    Raises:
        GcbenchError: it failed.
        KeyboardInterrupt: it was interrupted; it can go on later.
    """
    launch = launch or Launch()
    if not isinstance(job, PretrainJob | SemanticJob | InstanceJob):
        launch = Launch(threads=launch.threads)
    run.queue(job.model_dump(mode="json"))
    run_worker(WORKER, run.job_path, run.folder / "worker.log", on_event, launch, interruption)
