"""Live progress of jobs: bars in a terminal, one line per job elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from gcbench.protocols.jobs import Job, SemanticJob

_SHOWN = ("loss", "image", "depth", "semantic", "psnr_heldout", "mIoU")
_VERBS = {"rooms": "making rooms", "prepare": "preparing", "pretrain": "pre-training", "folds": "joining"}


def describe(job: Job) -> str:
    """What a job does, in words."""
    if isinstance(job, SemanticJob):
        return f"{'probing' if job.recipe.values['probe.frozen'] else 'training'} {job.name}"
    return f"{_VERBS[job.kind]} {job.name}"


class JobProgress:
    """Shows one job after the other.

    Args:
        console: where to.
        total: how many jobs there are.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.number = 0
        self._started = 0.0
        self._text = ""
        self._last: dict[str, Any] = {}
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, number: int, text: str, note: str = "") -> None:
        """A job begins."""
        self.number, self._text, self._started, self._last = number, text, time.perf_counter(), {}
        if self.console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[values]}"),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(f"{self._place} {text}", total=None, values=note)

    def event(self, event: dict[str, Any]) -> None:
        """Something happened in the job."""
        if event["event"] == "warning":
            self.console.print(f"[yellow]{event['message']}")
            return
        values = {key: event[key] for key in _SHOWN if isinstance(event.get(key), (int, float))}
        self._last.update(values)
        if self._progress is not None and self._task is not None:
            if "step" in event and "total" in event:
                self._progress.update(self._task, completed=event["step"], total=event["total"])
            label = str(event.get("phase", ""))
            self._progress.update(self._task, values=" ".join(filter(None, (label, _numbers(self._last)))))

    def end(self, state: str, detail: str = "") -> None:
        """The job ended."""
        self.stop()
        seconds = time.perf_counter() - self._started
        mark = {"done": "[green]done[/]", "failed": "[red]failed[/]", "blocked": "[yellow]not run[/]"}[state]
        values = detail or _numbers(self._last)
        self.console.print(
            f"{self._place} {self._text:<54} {mark} [dim]{seconds:6.1f} s[/]  {values}", highlight=False, soft_wrap=True
        )

    def stop(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def _place(self) -> str:
        return f"[dim]{self.number:>2}/{self.total}[/]"


def _numbers(values: dict[str, Any]) -> str:
    shown = []
    for key, value in values.items():
        if key == "mIoU":
            shown.append(f"mIoU {100 * value:.1f} %")
        elif key == "psnr_heldout":
            shown.append(f"held-out PSNR {value:.1f} dB")
        else:
            shown.append(f"{key} {value:.3f}")
    return "  ".join(shown)
