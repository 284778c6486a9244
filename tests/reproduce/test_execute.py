"""Jobs run in the order of what they need, several at once; a failure stops only those that wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcbench.errors import Paused, RunError
from gcbench.protocols.jobs import PrepareJob
from gcbench.reproduce import execute
from gcbench.reproduce.execute import Outcome, execute_plan
from gcbench.reproduce.plan import Plan, PlannedJob
from gcbench.runs.store import Run, RunStore
from gcbench.training.launch import Launch
from gcbench.training.worker_processes import Interruption

Work = Callable[[str, Interruption, Launch], None]


def plan_of(root: Path, needs: dict[str, tuple[str, ...]]) -> Plan:
    store, plan, folders = RunStore(root), Plan(), dict[str, Path]()
    for name, wanted in needs.items():
        job = PrepareJob(name=name, layout="scannet", raw=root, out=root / name, source_key=name)
        planned = PlannedJob(job, store.run("prepare", name, job.key), tuple(folders[n] for n in wanted), "")
        folders[name] = planned.run.folder
        plan.add(planned)
    return plan


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes a plan whose jobs are a function; returns the outcome by name and what was told."""

    def start(
        needs: dict[str, tuple[str, ...]], work: Work, parallel: int = 2, launch: Launch | None = None
    ) -> tuple[Outcome, list[tuple[str, str]]]:
        def run_job(run: Run, job: Any, on_event: Any, launch: Launch, interruption: Interruption) -> None:
            work(job.name, interruption, launch)

        monkeypatch.setattr(execute, "run_job", run_job)
        told: list[tuple[str, str]] = []
        outcome = execute_plan(
            plan_of(tmp_path, needs),
            launch or Launch(),
            parallel=parallel,
            on_start=lambda planned: told.append((planned.job.name, "start")),
            on_event=lambda planned, event: None,
            on_end=lambda planned, state: told.append((planned.job.name, state)),
        )
        return outcome, told

    return start


DIAMOND: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_a_job_starts_when_what_it_needs_is_done(run: Any, parallel: int) -> None:
    outcome, told = run(DIAMOND, lambda *_: time.sleep(0.01), parallel)
    assert len(outcome.done) == 4
    for name, needs in DIAMOND.items():
        assert all(told.index((need, "done")) < told.index((name, "start")) for need in needs)


def test_as_many_run_at_once_as_there_are_places(run: Any) -> None:
    both = threading.Barrier(2, timeout=10)  # is passed only by two at once
    outcome, _ = run({"a": (), "b": (), "c": (), "d": ()}, lambda *_: both.wait())
    assert len(outcome.done) == 4


def test_a_failure_stops_only_those_that_wait_for_it(run: Any) -> None:
    def work(name: str, *_: Any) -> None:
        if name == "b":
            raise RunError("broken")

    outcome, told = run({**DIAMOND, "e": ("c",), "f": ("d",)}, work)
    assert [folder.name.split("-")[0] for folder in outcome.failed] == ["b"]
    assert ("d", "blocked") in told and ("f", "blocked") in told and ("e", "done") in told


def test_an_interrupt_lets_all_running_jobs_save(run: Any) -> None:
    saved: list[str] = []
    both = threading.Barrier(2, timeout=10)

    def work(name: str, interruption: Interruption, launch: Launch) -> None:
        both.wait()
        if name == "a":
            raise Paused  # its time was up
        while not interruption.asked:
            time.sleep(0.01)
        saved.append(name)
        raise Paused

    with pytest.raises(Paused):
        run({"a": (), "b": (), "c": ("a",)}, work)
    assert saved == ["b"]


def test_each_job_has_gpus_of_its_own(run: Any) -> None:
    seen: set[tuple[int, ...] | None] = set()
    both = threading.Barrier(2, timeout=10)

    def work(name: str, interruption: Interruption, launch: Launch) -> None:
        both.wait()
        seen.add(launch.devices)

    run({"a": (), "b": ()}, work, launch=Launch(2, devices=(0, 1, 2, 3)))
    assert seen == {(0, 1), (2, 3)}
