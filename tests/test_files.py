"""Atomic files: whole or not there, whatever happens while writing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gcbench.errors import RunError
from gcbench.files import atomic_path, remove_leftovers, write_atomic


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "text", "ä")
    write_atomic(tmp_path / "new" / "bytes", b"\xff")
    assert (tmp_path / "new" / "text").read_bytes() == "ä".encode()
    assert (tmp_path / "new" / "bytes").read_bytes() == b"\xff"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "file"
    message = r"disk is full.*file could not be written.*run the same command"
    with pytest.raises(RunError, match=message) as caught, atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "whole", "content")
    writing = atomic_path(tmp_path / "deep" / "half")
    writing.__enter__().write_text("ha")  # and never leaves: killed
    assert len(list((tmp_path / "deep").iterdir())) == 2
    assert remove_leftovers(tmp_path) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["whole"]
