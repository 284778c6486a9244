"""Live progress of jobs: bars in a terminal, one line per job (and per evaluation, if wanted) elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from gcbench.protocols.jobs import InstanceJob, Job, SemanticJob

_SHOWN = ("loss", "image", "depth", "semantic", "psnr_heldout", "mIoU", "mAP50")
_LIVE = (
    *("loss", "image", "depth", "semantic", "psnr", "psnr_heldout", "mIoU", "mAP50"),
    *("seconds", "data_share", "memory_mb", "kept"),
)
_EVALUATED = ("psnr_heldout", "psnr_train", "loss", "seconds", "memory_mb", "kept")
_VERBS = {
    "rooms": "making rooms",
    "prepare": "preparing",
    "pretrain": "pre-training",
    "folds": "joining",
    "figure": "drawing",
}


def describe(job: Job) -> str:
    """What a job does, in words."""
    if isinstance(job, SemanticJob | InstanceJob):
        return f"{'probing' if job.recipe.values.get('probe.frozen') else 'training'} {job.name}"
    return f"{_VERBS[job.kind]} {job.name}"


class JobProgress:
    """Shows jobs as they run, one or several at once.

    Args:
        console: where to.
        total: how many jobs there are.
        evaluations: outside a terminal, write a line for each evaluation too.
    """

    def __init__(self, console: Console, total: int, *, evaluations: bool = False) -> None:
        self.console = console
        self.total = total
        self.evaluations = evaluations
        self._shown: dict[int, _Shown] = {}
        self._progress: Progress | None = None

    def start(self, number: int, text: str, note: str = "") -> None:
        """A job begins."""
        task = None
        if self.console.is_terminal:
            task = self._live().add_task(f"{self._place(number)} {text}", total=None, values=note)
        self._shown[number] = _Shown(text, task)

    def event(self, event: dict[str, Any], number: int = 1) -> None:
        """Something happened in a job."""
        if event["event"] == "warning":
            self.console.print(f"[yellow]{escape(event['message'])}", highlight=False, soft_wrap=True)
            return
        shown = self._shown[number]
        shown.last.update({key: value for key, value in event.items() if isinstance(value, (int, float))})
        if self._progress is not None and shown.task is not None:
            if "step" in event and "total" in event:
                self._progress.update(shown.task, completed=event["step"], total=event["total"])
            label = str(event.get("phase", ""))
            self._progress.update(shown.task, values=" ".join(filter(None, (label, _numbers(shown.last, _LIVE)))))
        elif self.evaluations and event["event"] == "evaluation":
            self._write_evaluation(event, shown.last)

    def _write_evaluation(self, event: dict[str, Any], last: dict[str, Any]) -> None:
        step, total, seconds = event["step"], event["total"], last.get("seconds")
        left = f"  about {duration(seconds * (total - step))} left" if seconds and step < total else ""
        values = _numbers(last, _EVALUATED)
        self.console.print(f"step {step:>6}/{total}  {values}{left}", highlight=False, soft_wrap=True)

    def end(self, state: str, detail: str = "", number: int = 1) -> None:
        """A job ended."""
        shown = self._shown.pop(number)
        if not self._shown:
            self.stop()
        elif self._progress is not None and shown.task is not None:
            self._progress.remove_task(shown.task)
        seconds = time.perf_counter() - shown.started
        mark = {"done": "[green]done[/]", "failed": "[red]failed[/]", "blocked": "[yellow]not run[/]"}[state]
        values = detail or _numbers(shown.last, _SHOWN)
        self.console.print(
            f"{self._place(number)} {shown.text:<54} {mark} [dim]{seconds:6.1f} s[/]  {values}",
            highlight=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _live(self) -> Progress:
        if self._progress is None:
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
        return self._progress

    def _place(self, number: int) -> str:
        return f"[dim]{number:>{len(str(self.total))}}/{self.total}[/]"


@dataclass
class _Shown:
    """A job that runs: what it is called, its bar, when it began and what it said last."""

    text: str
    task: TaskID | None
    started: float = field(default_factory=time.perf_counter)
    last: dict[str, Any] = field(default_factory=dict)


def number(key: str, value: float) -> str:
    """A logged value with its name and unit."""
    return _FORMATS.get(key, _loss)(key, value)


def _numbers(values: dict[str, Any], shown: tuple[str, ...]) -> str:
    return "  ".join(number(key, values[key]) for key in shown if key in values)


def _loss(key: str, value: float) -> str:
    return f"{key} {value:.3f}"


_FORMATS: dict[str, Callable[[str, float], str]] = {
    "mIoU": lambda key, value: f"mIoU {100 * value:.1f} %",
    "mAP50": lambda key, value: f"AP50 {100 * value:.1f} %",
    "psnr": lambda key, value: f"PSNR {value:.1f} dB",
    "psnr_heldout": lambda key, value: f"held-out PSNR {value:.1f} dB",
    "psnr_train": lambda key, value: f"of views trained on {value:.1f} dB",
    "seconds": lambda key, value: f"{value:.2f} s/step" if value > 0.5 else f"{1 / max(value, 1e-9):.1f} steps/s",
    "data_share": lambda key, value: f"{value:.0%} waiting for data",
    "memory_mb": lambda key, value: f"{value:,.0f} MB",
    "kept": lambda key, value: f"{value:,.0f} Gaussians",
}


def duration(seconds: float) -> str:
    """A time in words, in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
