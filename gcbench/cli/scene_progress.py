"""Progress over scenes: a bar with the time left in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_EVERY = 30.0  # seconds between two lines of a log


@contextmanager
def scene_progress(title: str, total: int | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function to call with a scene's name, how many scenes are done, and how many there are.

    Args:
        title: what is being done.
        total: how many scenes there are, where that is known before the first one is done.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log(title, console.print)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[scene]}"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=total, scene="")
        yield lambda name, done, count: progress.update(task, completed=done, total=count, scene=name)


def _log(title: str, write: Callable[[str], None]) -> Callable[[str, int, int], None]:
    start = last = time.monotonic()

    def step(name: str, done: int, count: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_EVERY:
            last = now
            left = (now - start) / done * (count - done)
            write(f"{title}: {done} of {count}, about {left / 60:.0f} minutes left")

    return step
