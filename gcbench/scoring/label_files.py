"""One integer per vertex, as ScanNet's benchmark stores labels, instances and masks: a text file with a line for each.

Files are parsed as bytes with numpy, as most of the time of the official scripts goes into their text. Whatever is not
plain digits takes the slow way, line by line, which also words the errors.

Shape legend
    N  vertices, which are the lines of a file
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import InputError
from gcbench.files import write_atomic
from gcbench.scoring.array_files import ARRAY_SUFFIXES, read_arrays
from gcbench.structures import IGNORE_INDEX, Int64Array, LabelSet

TEXT_SUFFIX = ".txt"
SUFFIXES = (TEXT_SUFFIX, *ARRAY_SUFFIXES)

_LINE_FEED = ord("\n")
_ZERO, _ONE = (int.from_bytes(line, "little") for line in (b"0\n", b"1\n"))
_MOST_DIGITS = 18  # more may not fit 64 bits
_INTEGER = re.compile(rb"[ \t]*[+-]?[0-9]{1,%d}[ \t]*" % _MOST_DIGITS)
_SHOWN = 40


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        InputError: it cannot be read, or is no regular file; reading a pipe could wait for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no regular file.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_labels(path: Path) -> Int64Array:
    """One integer per vertex [N], from a text file, or the one array of a `.npy`, `.npz` or `.safetensors` file.

    Raises:
        InputError: with file and line: missing, or not one integer per vertex.
    """
    if path.suffix == TEXT_SUFFIX:
        return parse_integers(read_bytes(path), path)
    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise InputError(
            f"{path} has {len(arrays)} arrays ({', '.join(sorted(arrays))}).", "It must have one, with a label each."
        )
    return as_labels(next(iter(arrays.values())), path)


def as_labels(array: NDArray[Any], source: Path | str) -> Int64Array:
    """An array as labels [N].

    Raises:
        InputError: not one-dimensional, or not of integers.
    """
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{source}: an array of {array.dtype} with shape {array.shape}.",
            "It must be one-dimensional and of integers: one per vertex.",
        )
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{source}: the value {array.max()} is too large.")
    return array.astype(np.int64, copy=False)


def as_class_indices(labels: Int64Array, source: Path, label_set: LabelSet) -> Int64Array:
    """Labels [N] that are class indices already, -1 for none.

    Raises:
        InputError: one is out of range.
    """
    wrong = (labels < IGNORE_INDEX) | (labels >= len(label_set))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(
            f"{source}: value {first} is {labels[first]}, which is no class index of {label_set.name}.",
            f"Allowed are -1 to {len(label_set) - 1}. If these are raw label ids, leave out --ids indices.",
        )
    return labels


def write_labels(path: Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write one integer per line, atomically. Raises as `gcbench.files.write_atomic`."""
    write_atomic(path, labels_text(labels))


def labels_text(labels: NDArray[np.integer[Any]]) -> bytes:
    """One integer per line."""
    return "".join(f"{label}\n" for label in labels.tolist()).encode()


def parse_integers(content: bytes, source: Path | str) -> Int64Array:
    """Integers [N] of a text with one on each line; blanks around them, and other line ends, do no harm.

    Args:
        content: the text.
        source: its name, for errors.

    Raises:
        InputError: with source and line: a line that is no integer.
    """
    plain = _parse_digits(content.replace(b"\r\n", b"\n") if b"\r" in content else content)
    if plain is not None:
        return plain
    for line, reason in bad_lines(content):
        raise InputError(f"{source}, line {line}: {reason}.", "Every line must be one integer.")
    return np.fromiter((int(line) for line in lines_of(content)), np.int64)


def parse_mask(content: bytes, source: Path | str) -> NDArray[np.bool_]:
    """A mask [N] of a text with an integer on each line; any that is not zero is in. Raises as `parse_integers`."""
    if len(content) % 2 == 0:
        lines = np.frombuffer(content, "<u2")  # a digit and a line feed each, if this is a plain mask
        mask: NDArray[np.bool_] = lines == _ONE
        if np.count_nonzero(mask) + np.count_nonzero(lines == _ZERO) == len(lines):
            return mask
    return np.not_equal(parse_integers(content, source), 0)


def count_lines(content: bytes) -> int:
    """Lines of a text; the last may lack its line feed."""
    return content.count(b"\n") + (len(content) > 0 and not content.endswith(b"\n"))


def lines_of(content: bytes) -> Iterator[bytes]:
    """Lines of a text without their ends, one at a time, as `bytes.splitlines` has them."""
    for line in io.BytesIO(content):
        yield from line.splitlines()


def bad_lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Every line that is no integer: its number, from 1, and what is wrong with it."""
    for number, line in enumerate(lines_of(content), start=1):
        if not _INTEGER.fullmatch(line):
            yield number, "it is empty" if not line.strip() else f"{shown(line)} is no integer"


def shown(text: bytes) -> str:
    """Text of a file for a message: its beginning, quoted, with what a terminal could stumble over escaped."""
    return repr(text[:_SHOWN])[1:] + ("..." if len(text) > _SHOWN else "")


def _parse_digits(text: bytes) -> Int64Array | None:
    """Integers of lines that hold digits alone, or None if some does not."""
    if not text:
        return np.empty(0, np.int64)
    if not text.endswith(b"\n"):
        text += b"\n"
    characters = np.frombuffer(text, np.uint8)
    is_end = characters == _LINE_FEED
    ends = np.flatnonzero(is_end)
    width = ends.copy()
    width[1:] -= ends[:-1] + 1
    widest = int(width.max())
    if width.min() == 0 or widest > _MOST_DIGITS:
        return None
    digits = characters - np.uint8(ord("0"))
    if np.count_nonzero(digits <= 9) + len(ends) != len(text):
        return None
    values = digits[ends - 1].astype(np.int64)
    for place in range(1, widest):
        digit = digits.take(ends - 1 - place, mode="clip")
        digit[width <= place] = 0
        values += digit * np.int64(10**place)
    return values
