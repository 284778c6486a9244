"""The loader: batches in order from any step, a killed process named, room for what is on its way."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gcbench.errors import DataError, RunError
from gcbench.protocols.loading import shared_memory_warning, steps


class Batches:
    """Batch n says n and which process made it; that process is killed at `deadly`, and raises `errors`."""

    def __init__(self, errors: Mapping[int, Exception] | None = None, *, deadly: int = -1) -> None:
        self.errors, self.deadly = errors or {}, deadly

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.errors:
            raise self.errors[number]
        return torch.tensor([number]), os.getpid()


@pytest.fixture(autouse=True)
def prompt_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A loader that is left after an error waits 5 s for its processes when it is collected as garbage."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


def numbers(batches: Iterator[tuple[Tensor, int]]) -> list[int]:
    return [int(tensor) for tensor, _ in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 3, 6, 7])
def test_batches_come_in_order_from_any_step(workers: int, first: int) -> None:
    assert numbers(steps(Batches(), first, 7, workers)) == list(range(first, 7))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_has_its_parts(workers: int) -> None:
    """Steps 2 and 3 of 4, in three parts each."""
    assert numbers(steps(Batches(), 2, 4, workers, parts=3)) == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("workers", [0, 2])
def test_as_many_processes_as_asked_for_make_them(workers: int) -> None:
    makers = {maker for _, maker in steps(Batches(), 0, 6, workers)}
    assert len(makers) == max(workers, 1)
    assert (os.getpid() in makers) == (not workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_stays_where_it_is(workers: int) -> None:
    before = torch.get_rng_state()
    assert numbers(steps(Batches(), 0, 2, workers)) == [0, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_killed_process_is_told_with_a_way_out() -> None:
    batches, seen = steps(Batches(deadly=3), 0, 20, 2), []
    with pytest.raises(RunError) as caught:
        for tensor, _ in batches:
            seen.append(int(tensor))
    assert seen == list(range(len(seen))) and len(seen) <= 3
    assert caught.value.message.startswith("A process that loads data was killed: DataLoader worker")
    assert "\n" not in caught.value.message
    assert caught.value.way_out.startswith("The memory may be too small for 2 of them: set run.workers lower, or 0")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_for_users_keeps_its_words(workers: int) -> None:
    """Without the traceback that a loader makes of it, whatever process it came from."""
    batches = Batches({2: DataError("scene0001_00.arrow is broken.", "Prepare it again.")})
    with pytest.raises(DataError) as caught:
        numbers(steps(batches, 0, 4, workers))
    assert (caught.value.message, caught.value.way_out) == ("scene0001_00.arrow is broken.", "Prepare it again.")


@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_is_no_killed_process(workers: int) -> None:
    with pytest.raises(RuntimeError, match="the roof fell in") as caught:
        numbers(steps(Batches({1: RuntimeError("the roof fell in")}), 0, 4, workers))
    assert not isinstance(caught.value, RunError)


@dataclass(frozen=True)
class Sample:
    """4 kB and 1 kB in tensors, with a text beside them."""

    name: str
    coord: Tensor
    masks: list[Tensor]


SAMPLE = Sample("scene", torch.zeros(1000), [torch.zeros(500, dtype=torch.uint8), torch.zeros(250, dtype=torch.int16)])
NEEDED = 2 * 3 * 5000  # two workers, each with two batches ready and one in the making


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The free space that is seen."""
    seen = SimpleNamespace(free=NEEDED)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: seen)
    return seen


def test_shared_memory_that_is_too_small_is_told(space: SimpleNamespace) -> None:
    assert shared_memory_warning(SAMPLE, 2) is None
    space.free = NEEDED - 1
    warning = shared_memory_warning(SAMPLE, 2)
    assert warning is not None
    for words in ("/dev/shm has", "2 loader processes may need", "--shm-size", "run.workers lower"):
        assert words in warning
    assert shared_memory_warning(SAMPLE, 1) is None
    assert shared_memory_warning([SAMPLE, (SAMPLE, "text")], 1) is not None  # twice as much, in one process


def test_sizes_of_shared_memory_are_told_in_megabytes(space: SimpleNamespace) -> None:
    space.free = 64_000_000
    warning = shared_memory_warning([torch.zeros(25_000_000)], 4)
    assert warning is not None and "has 64 MB free, 4 loader processes may need 1,200 MB" in warning


def test_without_loader_processes_no_shared_memory_is_needed(space: SimpleNamespace) -> None:
    space.free = 0
    assert shared_memory_warning(SAMPLE, 0) is None


@pytest.fixture
def few_files() -> Iterator[int]:
    """A limit of open files as low as many systems have it; the highest that may be asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_for_loader_processes_alone(few_files: int) -> None:
    assert numbers(steps(Batches(), 0, 1, 0)) == [0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, few_files)
    assert numbers(steps(Batches(), 0, 1, 2)) == [0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == few_files
    assert soft == min(1024 + 2 * 3 * 64, few_files) if few_files != resource.RLIM_INFINITY else 1024 + 2 * 3 * 64


def test_a_higher_limit_of_open_files_stays(few_files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4000, few_files))
    assert numbers(steps(Batches(), 0, 1, 2)) == [0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (4000, few_files)
