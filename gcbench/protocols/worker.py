"""`python -m gcbench.protocols.worker JOB.json`: one heavy job in a process of its own.

The job file lies in its run folder. Events go to standard output, one JSON object per line, and into the run's log.
Where several processes work on one job, the first one (rank 0) alone holds and writes the run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from gcbench.errors import GcbenchError, Paused, RefusedError, told_by_system
from gcbench.protocols.jobs import (
    FoldsJob,
    InstanceJob,
    Job,
    PrepareJob,
    PretrainJob,
    RoomsJob,
    SceneFigureJob,
    SemanticJob,
    read_job,
)
from gcbench.runs.store import Run
from gcbench.training.launch import DEADLINE_VARIABLE, end_worker
from gcbench.training.worker_processes import INTERRUPTED, PAUSED

_SLURM_MARGIN = 180.0  # seconds before the end of its job: a step, an evaluation of a scene and a checkpoint take less


class Reporter:
    """Where a job's events go."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] in ("started", "resumed"):
            self.run.rewind_log(event.get("step", -1))
        if event["event"] != "progress":
            self.run.log(**event)
        emit(event)


class StopRequest:
    """SIGINT, SIGTERM and SIGUSR1: inside `deferred()` they are noted, and the loop stops after its step; else at once.

    The loop also stops a while before a deadline: one that was given, or the end of a Slurm job.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._deadline = deadline_of(os.environ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self.requested or time.time() >= self._deadline

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While training: let the loop write a checkpoint first."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._deferred:
            raise KeyboardInterrupt
        self.requested = True


def deadline_of(environment: Mapping[str, str]) -> float:
    """When to stop, seconds since 1970: a given time, else a while before a Slurm job's end; never if there is none."""
    for name, margin in ((DEADLINE_VARIABLE, 0.0), ("SLURM_JOB_END_TIME", _SLURM_MARGIN)):
        with contextlib.suppress(ValueError):
            return float(environment.get(name, "")) - margin
    return float("inf")


def emit(event: dict[str, Any]) -> None:
    """Write one event to standard output."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def execute(job: Job, run: Run, report: Callable[[dict[str, Any]], None], stop: StopRequest) -> Any:
    """Run the job; returns its result."""
    if isinstance(job, RoomsJob | PrepareJob):
        from gcbench.protocols.datasets import make_rooms, prepare

        return make_rooms(job, report) if isinstance(job, RoomsJob) else prepare(job, report)
    if isinstance(job, PretrainJob):
        from gcbench.protocols.pretrain import pretrain

        return pretrain(job, run, report, stop)
    if isinstance(job, SemanticJob):
        from gcbench.protocols.semantic import segment

        return segment(job, run, report, stop)
    if isinstance(job, InstanceJob):
        from gcbench.protocols.instance import segment_instances

        return segment_instances(job, run, report, stop)
    if isinstance(job, SceneFigureJob):
        from gcbench.protocols.scene_figures import draw_figure

        return draw_figure(job, run, report)
    assert isinstance(job, FoldsJob)
    from gcbench.protocols.folds import combine_folds

    return combine_folds(job)


def main(arguments: list[str]) -> int:
    """Run one job file; returns the exit code."""
    path = Path(arguments[0])
    run = Run(path.parent)
    stop = StopRequest()
    first = os.environ.get("RANK", "0") == "0"
    try:
        job = read_job(path)
        if first:
            _hold(run, job, stop)
        else:
            threading.Thread(target=_end_with_parent, daemon=True).start()
            execute(job, run, _say_nothing, stop)
    except Paused:
        return PAUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the process ends here; the parent shows the message, the log keeps the traceback
        traceback.print_exc()
        emit({"event": "error", **_describe(error)})
        return 1
    return 0


def _hold(run: Run, job: Job, stop: StopRequest) -> None:
    """Run the job as the one process that writes the run folder."""
    with run.lock():
        try:
            run.finish(execute(job, run, Reporter(run), stop))
        except Exception as error:
            run.fail(str(error))
            raise


def _say_nothing(event: dict[str, Any]) -> None:
    """The report of every process but the first."""


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nothing else would tell it while it waits for others."""
    os.read(sys.stdin.fileno(), 1)  # unbuffered: a buffer's lock would be in the way when this process ends
    os._exit(1)


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, OSError):
        error = told_by_system(error) or error
    if isinstance(error, GcbenchError):
        refused = {"refused": True} if isinstance(error, RefusedError) else {}
        return {"message": error.message, "way_out": error.way_out, "exit_code": error.exit_code, **refused}
    return {"message": f"{type(error).__name__}: {error}", "way_out": "", "exit_code": 70}


if __name__ == "__main__":
    end_worker(main(sys.argv[1:]))
