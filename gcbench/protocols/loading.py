"""Batches by number: a loader that can start anywhere and never changes what a step sees."""

from __future__ import annotations

import dataclasses
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gcbench.errors import GcbenchError, RunError

T_co = TypeVar("T_co", covariant=True)

_AHEAD = 2  # batches that every worker has ready
_FILES_PER_BATCH = 64  # descriptors that tensors of a batch on its way may hold
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its free space is read


class Numbered(Protocol[T_co]):
    """Anything that makes batch n from n alone."""

    def __getitem__(self, number: int) -> T_co: ...


class _Steps(Dataset[T_co | GcbenchError], Generic[T_co]):
    """An error for users is passed on as it is: a loader would put a traceback in the place of its message."""

    def __init__(self, batches: Numbered[T_co], first: int, total: int) -> None:
        self.batches, self.first, self.total = batches, first, total

    def __len__(self) -> int:
        return self.total - self.first

    def __getitem__(self, number: int) -> T_co | GcbenchError:
        try:
            return self.batches[self.first + number]
        except GcbenchError as error:
            return error


def steps(
    batches: Numbered[T_co], first: int, total: int, workers: int, *, parts: int = 1, pin: bool = False
) -> Iterator[T_co]:
    """The batches of steps `first` .. `total` - 1 in order, `parts` of them for each.

    Args:
        batches: by number, counted over all steps.
        first: the first step, 0-based.
        total: one after the last step.
        workers: how many processes make them (0: this one).
        parts: batches of one step.
        pin: put them into pinned memory, from where they reach a GPU faster.

    Raises:
        RunError: a worker was killed.
        GcbenchError: whatever a batch raised.
    """
    if workers:
        _raise_file_limit(workers)
    loader = DataLoader(
        _Steps(batches, first * parts, total * parts),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_one_thread if workers else None,
        generator=torch.Generator(),  # else it draws the workers' seeds, which nothing uses, from the global state
    )
    try:
        for batch in loader:
            if isinstance(batch, GcbenchError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise RunError(
            f"A process that loads data was killed: {str(error).splitlines()[0]}",
            f"The memory may be too small for {workers} of them: set run.workers lower, or 0, and go on.",
        ) from error


def shared_memory_warning(batch: Any, workers: int) -> str | None:
    """What to tell when /dev/shm is too small for the batches that loader processes have ready, else None.

    Args:
        batch: one that is like all others.
        workers: how many processes load.
    """
    if not workers or not _SHARED_MEMORY.is_dir():
        return None
    needed, free = workers * (_AHEAD + 1) * _size(batch), shutil.disk_usage(_SHARED_MEMORY).free
    if needed <= free:
        return None
    return (
        f"{_SHARED_MEMORY} has {free / 1e6:,.0f} MB free, {workers} loader processes may need {needed / 1e6:,.0f} MB: "
        "give the container more (docker run --shm-size), or set run.workers lower"
    )


def _raise_file_limit(workers: int) -> None:
    """Batches travel as open files: ask for as many as may be on their way, up to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1024 + workers * (_AHEAD + 1) * _FILES_PER_BATCH
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _size(value: Any) -> int:
    """Bytes of all tensors in a batch."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if dataclasses.is_dataclass(value):
        return sum(_size(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, list | tuple):
        return sum(_size(item) for item in value)
    return 0


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
