"""Batches by number: the same from any start and with any number of workers, and a killed worker is told."""

from __future__ import annotations

import os
import resource
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gcbench.errors import RunError
from gcbench.protocols import loading
from gcbench.protocols.loading import shared_memory_warning, steps

Usage = namedtuple("Usage", "total used free")


class Numbers:
    """Batch n holds n, and for `deadly` its maker is killed."""

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly, self.parent = deadly, os.getpid()

    def __getitem__(self, number: int) -> Tensor:
        if number == self.deadly and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([number])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("first", "parts"), [(0, 1), (3, 1), (2, 3)])
def test_batches_come_in_order_from_any_start(workers: int, first: int, parts: int) -> None:
    found = [int(batch) for batch in steps(Numbers(), first, 6, workers, parts=parts)]
    assert found == list(range(first * parts, 6 * parts))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_global_generator(workers: int) -> None:
    before = torch.get_rng_state()
    list(steps(Numbers(), 0, 3, workers))
    assert torch.equal(before, torch.get_rng_state())


def test_a_killed_worker_is_told_with_the_way_out() -> None:
    found = []
    with pytest.raises(RunError, match="was killed") as caught:
        found += [int(batch) for batch in steps(Numbers(deadly=4), 0, 20, 1)]
    assert "run.workers" in caught.value.way_out


def test_an_error_of_our_own_is_not_taken_for_a_killed_worker() -> None:
    class Broken:
        def __getitem__(self, number: int) -> Tensor:
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing") as caught:
        list(steps(Broken(), 0, 2, 0))
    assert not isinstance(caught.value, RunError)


def test_shared_memory_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "_SHARED_MEMORY", tmp_path)
    batch = [torch.zeros(1_000_000), "name"]  # 4 MB
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 64_000_000))
    assert shared_memory_warning(batch, 4) is None
    warning = shared_memory_warning(batch, 8)
    assert warning is not None and "64 MB free" in warning and "96 MB" in warning and "--shm-size" in warning
    assert shared_memory_warning(batch, 0) is None


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        list(steps(Numbers(), 0, 2, 1))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft > 1024 or soft == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
