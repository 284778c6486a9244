"""One integer per line: read fast and slow alike, and refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.scoring.label_files import (
    bad_lines,
    count_lines,
    parse_integers,
    parse_mask,
    read_labels,
    shown,
    write_labels,
)

INTEGERS = st.lists(st.integers(-(10**18) + 1, 10**18 - 1), max_size=30)


@given(INTEGERS, st.sampled_from(["\n", "\r\n", " \n"]), st.booleans())
def test_every_way_of_writing_integers(values: list[int], end: str, ends_open: bool) -> None:
    text = "".join(f"{value}{end}" for value in values)
    if ends_open:
        text = text.removesuffix(end)
    parsed = parse_integers(text.encode(), "f")
    assert parsed.dtype == np.int64
    assert parsed.tolist() == values


@given(st.lists(st.integers(0, 300), max_size=40), st.booleans())
def test_a_mask_is_what_is_not_zero(values: list[int], single: bool) -> None:
    values = [value % 2 for value in values] if single else values
    text = "".join(f"{value}\n" for value in values).encode()
    assert parse_mask(text, "f").tolist() == [value != 0 for value in values]
    assert parse_mask(text.rstrip(b"\n"), "f").tolist() == [value != 0 for value in values]


def as_python_reads(text: bytes) -> list[int] | None:
    """The slow twin: line by line, as the official scripts do, but for `_` between digits."""
    try:
        return [int(line.decode("ascii").replace("_", "x")) for line in text.splitlines()]
    except ValueError:
        return None


@given(st.binary(max_size=40) | st.text("0123456789 \n\r\t+-_.x", max_size=40).map(str.encode))
def test_any_bytes_are_read_as_python_does_or_refused(text: bytes) -> None:
    expected = as_python_reads(text)
    try:
        parsed = parse_integers(text, "f").tolist()
    except InputError:
        parsed = None
    if parsed is None or expected is None:
        problems = list(bad_lines(text))
        assert parsed is None
        assert problems
        # Other blanks than spaces and tabs, and more than 18 digits, are refused although Python takes them.
        assert expected is None or any(c in text for c in b"\v\f\x1c\x1d\x1e\x1f") or max(map(len, text.split())) > 18
    else:
        assert parsed == expected
        assert count_lines(text) == len(text.split(b"\n")) - text.endswith(b"\n") - (not text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"1\n\n2\n", "f, line 2: it is empty."),
        (b"1\n2\nwall\n", "f, line 3: 'wall' is no integer."),
        (b"1\n2.0\n", "f, line 2: '2.0' is no integer."),
        (b"7 7\n", "f, line 1: '7 7' is no integer."),
        (b"1\n" + b"9" * 19, "is no integer"),
        (b"1\n\x1b[31m\xff\n", r"line 2: '\x1b[31m\xff' is no integer"),
        (b"x" * 1000, "'" + "x" * 40 + "'... is no integer."),
    ],
)
def test_what_is_no_integer_is_named_with_its_line(text: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_integers(text, "f")
    assert said in caught.value.message


def test_every_bad_line_is_listed() -> None:
    assert [line for line, _ in bad_lines(b"1\nx\n2\n\n3 3\n4")] == [2, 4, 5]


def test_shown_text_cannot_disturb_a_terminal() -> None:
    assert shown(b"\x1b]0;title\x07") == "'\\x1b]0;title\\x07'"


def test_files_in_every_format(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    labels = np.array([3, 0, 39, 1191], np.int32)
    write_labels(tmp_path / "a.txt", labels)
    assert (tmp_path / "a.txt").read_text() == "3\n0\n39\n1191\n"
    np.save(tmp_path / "a.npy", labels)
    np.savez_compressed(tmp_path / "a.npz", anything=labels.astype(np.uint64))
    save_file({"labels": labels}, tmp_path / "a.safetensors")
    for suffix in (".txt", ".npy", ".npz", ".safetensors"):
        read = read_labels(tmp_path / f"a{suffix}")
        assert read.dtype == np.int64
        assert read.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 2), np.int64), "an array of int64 with shape (2, 2)"),
        (np.zeros(3), "an array of float64"),
        (np.array([2**63], np.uint64), "is too large"),
        (np.array(["a"]), "not a whole .npy file of plain numbers"),
    ],
)
def test_arrays_that_are_no_labels(array: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"a\.npy") as caught:
        read_labels(tmp_path / "a.npy")
    assert said in caught.value.message


def test_two_arrays_are_not_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros(3, np.int64), two=np.zeros(3, np.int64))
    with pytest.raises(InputError, match=r"2 arrays \(one, two\)"):
        read_labels(tmp_path / "a.npz")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no regular file"):
        read_labels(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.npy", "a.npz", "a.safetensors"])
def test_a_missing_file_and_a_folder_are_named(name: str, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=name):
            read_labels(tmp_path / name)
        (tmp_path / name).mkdir(exist_ok=True)
