"""Checkpoints: whole or absent, every damage is noticed, and no trouble while writing costs an earlier one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gcbench.errors import DiskFullError, RunError
from gcbench.training.checkpoint import Checkpoints, save_weights


def checkpoints(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    there = Checkpoints(folder, keep=keep, warn=lambda message: None)
    for step in steps:
        there.save(step, {"weights": torch.full((50,), float(step))})
    return there


def last_file(folder: Path) -> Path:
    return max(folder.glob("*.pt"))


def test_the_last_are_kept_and_the_best(tmp_path: Path) -> None:
    there = checkpoints(tmp_path, 1, 2, 3, keep=2)
    assert there.steps() == [2, 3]
    there.save(4, {}, best=2)
    there.save(5, {}, best=2)
    assert there.steps() == [2, 4, 5]
    there.save(6, {}, best=6)
    assert there.steps() == [5, 6]


def test_a_step_that_is_saved_again_is_there_once(tmp_path: Path) -> None:
    there = checkpoints(tmp_path, 1)
    there.save(1, {"weights": torch.zeros(3)})
    assert len(list(tmp_path.iterdir())) == 1
    state = there.load_last()
    assert state is not None and torch.equal(state["weights"], torch.zeros(3))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("one")
    checkpoints(folder, 7)
    path = last_file(folder)
    return path.name, path.read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_a_damage_at_any_byte_goes_back_to_the_one_before(
    data: st.DataObject, content: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, (name, whole) = tmp_path_factory.mktemp("damaged"), content
    there = checkpoints(folder, 5)
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :]
    (folder / name).write_bytes(damaged)
    told: list[str] = []
    there.warn = told.append
    state = there.load_last()
    assert state is not None and state["step"] == 5
    assert told == [f"checkpoint {folder / name} is damaged; going back to the one before"]
    assert there.steps() == [5]  # the damaged one does not count among the last


def test_all_damaged_is_none(tmp_path: Path) -> None:
    there = checkpoints(tmp_path, 1, 2)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    assert there.load_last() is None


def test_an_undamaged_one_that_cannot_be_used_is_not_thrown_away(tmp_path: Path) -> None:
    there = checkpoints(tmp_path)
    there.save(3, {"foreign": Path("/")})  # would need code of its own to load
    with pytest.raises(RunError, match=r"step-000000003.* is undamaged, but cannot be used"):
        there.load_last()
    assert there.steps() == [3]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EROFS, OSError)]
)
def test_trouble_while_writing_costs_no_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    there = checkpoints(tmp_path, 1, 2)

    def fail(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(kind, match=r"step-000000003"):
            there.save(3, {"weights": torch.zeros(3)})
    assert there.steps() == [1, 2] and len(list(tmp_path.iterdir())) == 2
    state = there.load_last()
    assert state is not None and state["step"] == 2


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    there = checkpoints(tmp_path, 1)
    (tmp_path / ".step-000000002-0123456789abcdef.pt.00000000.part").write_bytes(b"half")
    there.save(2, {})
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_round_trip(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor([1, 2])}
    save_weights(tmp_path / "w.safetensors", weights, {"kind": "test"})
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
