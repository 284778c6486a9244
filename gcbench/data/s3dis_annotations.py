"""Reads the annotation files of S3DIS rooms, and mends the known defects of the release (with a note on each)."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np

from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.errors import DataError
from gcbench.structures import Float64Array

_COLUMNS = ("x", "y", "z", "r", "g", "b")
_TEXT = bytes(range(32, 127)) + b"\t\n\r"
_WANTED = frozenset(b"0123456789. ")
_MOST_STRAY = 8  # more stray bytes than that are a damaged file, not a defect of the release
_LARGEST = float(np.finfo(np.float32).max)
_COPY = re.compile(r"(.+_\d+) ?\(.*\)\.txt")


def read_annotation(file: Path) -> tuple[Float64Array, list[str]]:
    """Read one annotation file: [n, 6] (x, y, z metres, r, g, b in 0 .. 255), and notes on what was mended.

    A stray byte is a character that lost the bit 0x20 (or gained 0x80): where that bit makes it part of a number or a
    space, it is set right, else the byte is dropped.

    Raises:
        DataError: the file is empty, damaged or no table of six numbers.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    content, notes = _mend(file, content)
    if not content.strip():
        raise DataError(f"{file} is empty.")
    try:
        values = np.loadtxt(io.BytesIO(content), comments=None, ndmin=2, encoding="latin-1")
    except ValueError as error:
        raise DataError(f"{file} is no table of numbers: {error}") from error
    if values.shape[1] != len(_COLUMNS):
        raise DataError(f"{file} has {values.shape[1]} columns instead of 6 ({' '.join(_COLUMNS)}).")
    if not (np.abs(values) <= _LARGEST).all() or values[:, 3:].min() < 0 or values[:, 3:].max() >= 256:
        raise DataError(f"{file}: a number that is not finite, or a colour outside 0 .. 255.")
    return values, notes


def annotation_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The room's annotation files in the reference's order, and notes on odd ones."""
    annotations = folder / "Annotations"
    try:
        entries = sorted(annotations.iterdir(), key=lambda file: file.name)
    except OSError as error:
        raise DataError(
            f"{annotations} cannot be read ({error.strerror}).", "Use the release with annotations, unpacked."
        ) from error
    files = [file for file in entries if file.name.endswith(".txt") and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{annotations} has no .txt files.", "Use the release with annotations, unpacked.")
    notes = [f"{folder.name}/Annotations/{printable(file.name)} passed over" for file in entries if file not in files]
    present = {file.stem for file in files}
    for file in files:
        original = _COPY.fullmatch(file.name)
        if original and original[1] in present:
            notes.append(
                f"{folder.name}/{printable(file.name)}: looks like a copy of {original[1]}.txt; it counts as an "
                "instance of its own, as in the reference"
            )
        elif not file.name.isascii():
            notes.append(f"{folder.name}/{printable(file.name)}: the name has characters that are not ASCII")
    return files, notes


def printable(name: str) -> str:
    """A file's name for a message, also where it is no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _mend(file: Path, content: bytes) -> tuple[bytes, list[str]]:
    """The content without stray bytes, and notes on them and on odd line ends."""
    notes = []
    stray = content.translate(None, _TEXT)
    if len(stray) > _MOST_STRAY:
        raise DataError(f"{file} is damaged: {len(stray)} bytes in it are no text.", "Unpack or download it again.")
    if stray:
        at = min(content.index(bytes([byte])) for byte in set(stray))
        known = any(file.as_posix().endswith(defect.file) for defect in s3dis_facts().defects)
        line = content.count(b"\n", 0, at) + 1
        notes.append(
            f"{len(stray)} stray byte{'s' if len(stray) > 1 else ''} mended, the first in line {line}"
            f"{', as known of the release' if known else ''}"
        )
        for byte in set(stray):
            restored = byte | 0x20 if byte < 0x20 else byte & 0x7F
            content = content.replace(bytes([byte]), bytes([restored]) if restored in _WANTED else b"")
    if b"\r" in content:
        notes.append("line ends of Windows")
    if b"\n\n" in content or b"\n\r\n" in content:
        notes.append("empty lines")
    return content, notes
