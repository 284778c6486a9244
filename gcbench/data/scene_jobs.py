"""Builds a prepared dataset from independent jobs, one per scene, in as many processes as wanted.

A scene's files are whole or absent, so the same command goes on where a killed one stopped, and the result is the same
to the byte. `dataset.json` is written last: without it the dataset does not count as prepared.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO, Any, Protocol

from filelock import FileLock, Timeout

from gcbench.data.storage import FORMAT_VERSION, MANIFEST, PreparedDataset, fingerprint, write_manifest
from gcbench.errors import DataError, RunError
from gcbench.files import remove_leftovers

OnScene = Callable[[str, int, int], None]
"""Called after each scene with its name, how many are done, and how many there are."""

_SHOWN = 10
_LOCK = ".prepare.lock"
_WORKING = ".working.lock"  # every worker process holds it, shared, as long as it lives
_PATIENCE = 30.0  # seconds to wait for the workers of a run that was killed


class SceneJob(Protocol):
    """One scene, self-contained for a worker process."""

    @property
    def name(self) -> str: ...

    def run(self) -> dict[str, Any]:
        """Write the scene's files; its entry in the manifest.

        Raises:
            DataError: the scene's raw files are missing or broken.
        """
        ...


def build_dataset(
    out: Path,
    jobs: Sequence[SceneJob],
    *,
    splits: Mapping[str, Sequence[str]],
    header: Mapping[str, Any],
    notes: Sequence[str] = (),
    workers: int = 0,
    on_scene: OnScene | None = None,
    keep_going: bool = False,
) -> PreparedDataset:
    """Run the jobs and write the manifest.

    Args:
        out: the prepared dataset's folder; what is finished in it is kept.
        jobs: one per scene.
        splits: split -> scene names.
        header: the manifest's own fields (layout, label_sets, normals, ...).
        notes: what a reader of the dataset should know.
        workers: processes; 0 works in this one.
        on_scene: progress.
        keep_going: leave broken scenes out and list them under ``failed`` in the manifest, instead of stopping at the
            first one.

    Raises:
        DataError: two scenes share a name; a scene is broken (with `keep_going`: all of them are).
        RunError: the disk is full, a worker was killed, or another process is preparing into `out`.
    """
    _check_names(jobs)
    with alone_in(out):
        (out / MANIFEST).unlink(missing_ok=True)
        remove_leftovers(out)
        entries, failed = run_jobs(out, jobs, workers, on_scene, keep_going)
        if not entries:
            raise DataError(f"None of {len(jobs)} scenes could be prepared:\n{listing(failed)}")
        whole = {split: [name for name in names if name in entries] for split, names in splits.items()}
        write_manifest(
            out,
            {
                "format_version": FORMAT_VERSION,
                **header,
                "splits": whole,
                "scenes": entries,
                "failed": failed,
                "notes": list(notes),
                "fingerprint": fingerprint(entries, whole),
            },
        )
    return PreparedDataset.open(out)


def listing(failed: Mapping[str, str]) -> str:
    """One line per broken scene, for a message; long lists are cut."""
    lines = [f"  {name}: {message}" for name, message in list(failed.items())[:_SHOWN]]
    more = [f"  ... and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return "\n".join([*lines, *more])


def some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _check_names(jobs: Sequence[SceneJob]) -> None:
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{len(twice)} names stand for two scenes each: {some(twice)}.", "Rename or remove one of two.")


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """While this holds, no other process of ours writes to `out`.

    Raises:
        RunError: another one does.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"Another process is preparing a dataset in {out}.", "Wait for it, or choose another folder."
        ) from error
    try:
        _wait_for_orphans(out / _WORKING)
        yield
    finally:
        for name in (_WORKING, _LOCK):
            (out / name).unlink(missing_ok=True)
        lock.release()


def _wait_for_orphans(working: Path) -> None:
    """Wait until no worker of an earlier, killed run is left: it could still put a file into the folder."""
    end = time.monotonic() + _PATIENCE
    with working.open("a+") as stream:
        while not _lock_exclusive(stream):
            if time.monotonic() > end:
                raise RunError(
                    f"A worker process of an earlier run still writes to {working.parent}.",
                    "End it, or choose another folder.",
                )
            time.sleep(0.05)


def _lock_exclusive(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_jobs(
    out: Path | None, jobs: Sequence[SceneJob], workers: int, on_scene: OnScene | None, keep_going: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What each job returned, and with `keep_going` the messages of broken scenes; both ordered by name.

    To be called within `alone_in(out)`, or with None for jobs that only read.

    Raises:
        DataError: a scene is broken, without `keep_going`. Any other error stops at once as well.
    """
    entries: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for done, (name, result) in enumerate(_results(out, jobs, workers), start=1):
        if isinstance(result, DataError):
            if not keep_going:
                raise DataError(
                    f"{name}: {result.message}",
                    f"{result.way_out} Mend it and run the same command again: finished scenes are kept. "
                    "--keep-going does the other scenes first.".strip(),
                ) from result
            failed[name] = str(result)
        else:
            entries[name] = result
        if on_scene is not None:
            on_scene(name, done, len(jobs))
    return dict(sorted(entries.items())), dict(sorted(failed.items()))


def _results(
    out: Path | None, jobs: Sequence[SceneJob], workers: int
) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    if workers <= 0:
        for job in jobs:
            yield job.name, _work(job)
        return
    # spawned, not forked: a forked child of a process with running threads can hang
    context = get_context("spawn")
    working = None if out is None else out / _WORKING
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_begin_worker, initargs=(working,)
    ) as pool:
        futures: dict[Future[dict[str, Any] | DataError], str] = {pool.submit(_work, job): job.name for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process was killed, most likely for lack of memory.", "Run again with fewer --workers."
            ) from error
        finally:  # after an error or an interrupt: what has not begun is not begun
            pool.shutdown(cancel_futures=True)


def _work(job: SceneJob) -> dict[str, Any] | DataError:
    try:
        return job.run()
    except DataError as error:
        return error


def _begin_worker(working: Path | None) -> None:
    """Hold the workers' lock, and end when the parent is killed instead of waiting for work for ever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)  # the lock is held until now

    if working is not None and parent.is_alive():  # else no lock file is made anew
        stream = working.open("a+")
        fcntl.flock(stream, fcntl.LOCK_SH)
        _HELD.append(stream)
    threading.Thread(target=wait, daemon=True).start()
    if not parent.is_alive():  # the next run may be past waiting for this process
        os._exit(1)


_HELD: list[IO[str]] = []  # keeps the lock until the process ends
