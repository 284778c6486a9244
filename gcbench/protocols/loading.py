"""Batches by step number: a loader that can start at any step and never changes what a step sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T_co = TypeVar("T_co", covariant=True)


class Numbered(Protocol[T_co]):
    """Anything that makes batch b from b alone."""

    def __getitem__(self, number: int) -> T_co: ...


class _Steps(Dataset[T_co], Generic[T_co]):
    def __init__(self, batches: Numbered[T_co], first: int, total: int) -> None:
        self.batches, self.first, self.total = batches, first, total

    def __len__(self) -> int:
        return self.total - self.first

    def __getitem__(self, number: int) -> T_co:
        return self.batches[self.first + number]


def steps(batches: Numbered[T_co], first: int, total: int, workers: int) -> Iterator[T_co]:
    """Batches `first` .. `total` - 1 in order, made by `workers` processes (0: in this one)."""
    loader = DataLoader(
        _Steps(batches, first, total),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_one_thread if workers else None,
        generator=torch.Generator(),  # else it draws the workers' seeds, which nothing uses, from the global state
    )
    yield from loader


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
