"""Worker processes that start at once and have everything imported: they are forked where the system can fork."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from gcbench.errors import RunError

_T = TypeVar("_T")
_KEPT = (1 << 25) - (1 << 16)  # bytes; glibc's limit is 32 MB with its own
_task: tuple[Callable[..., Any], Any] | None = None  # of this worker process


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to 32 MB, instead of giving them back and taking them page by page.

    glibc does so once it has freed one; this one is never touched. A third less time for scoring, where arrays of a few
    100 kB come and go. Elsewhere it does nothing. Forked processes inherit it.
    """
    np.empty(_KEPT, np.uint8)


@contextmanager
def worker_processes(workers: int, function: Callable[..., _T], shared: Any) -> Iterator[Callable[..., Future[_T]]]:
    """Yield `submit`, which has a worker call `function(shared, *arguments)`; what has not begun at the end never does.

    Workers are forked at the first `submit`: before the caller starts threads, such as those of a progress bar.

    Args:
        workers: how many processes.
        function: of a module, and so is what it returns.
        shared: given to each worker once.

    Raises:
        RunError: a worker was killed.
    """
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, context, _begin, (function, shared)) as pool:
        try:
            yield lambda *arguments: pool.submit(_call, *arguments)
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process was killed, most likely for lack of memory.", "Run again with fewer --workers."
            ) from error
        finally:  # after an error or an interrupt as well
            pool.shutdown(cancel_futures=True)


def _begin(function: Callable[..., Any], shared: Any) -> None:
    global _task
    _task = function, shared


def _call(*arguments: Any) -> Any:
    assert _task is not None, "_begin ran first"
    function, shared = _task
    return function(shared, *arguments)
