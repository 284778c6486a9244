"""Arrays from `.npy`, `.npz` and `.safetensors` files of strangers: numbers only, never pickles, nothing oversized."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gcbench.errors import InputError

ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
_LARGEST = 1 << 32  # bytes of an array; the largest scenes with hundreds of masks stay far below
# What numpy, zipfile and safetensors raise on damaged content; numpy reads headers with ast and tokenize.
_BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """All arrays of a file by name; that of a `.npy` file is called ``"array"``.

    Raises:
        InputError: missing, broken, of another format, or with anything but numbers in it.
    """
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                return {"array": _read_npy(stream, path.stat().st_size)}
        return _read_safetensors(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing.") from error
    except _BROKEN as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} is not a whole {path.suffix} file of plain numbers ({reason}).") from error


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two arrays are called {name!r}")
            with archive.open(member) as stream:
                arrays[name] = _read_npy(stream, member.file_size)
    return arrays


def _read_npy(stream: IO[bytes], size: int) -> NDArray[Any]:
    """One array, after its header was held against the size of the file."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version}")
    shape, fortran_order, dtype = readers[version](stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"values of type {dtype}")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > min(size, _LARGEST):
        raise ValueError(f"shape {shape} of {dtype} does not fit its {size} bytes")
    content = stream.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize or stream.read(1):
        raise ValueError(f"its values are not {count} of {dtype}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
