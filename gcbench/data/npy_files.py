"""`.npy` files, mapped and checked before use: numbers only, never pickles."""

from __future__ import annotations

import math
import mmap
import tokenize
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gcbench.errors import DataError
from gcbench.files import atomic_path

_NUMBERS = "iuf"


def map_npy(file: Path) -> NDArray[Any]:
    """A `.npy` file as a read-only view of the mapped file, with the type and memory order it was written in.

    Raises:
        DataError: the file is missing, holds anything but numbers, or is not as long as its header says.
    """
    try:
        with file.open("rb") as stream:
            shape, fortran_order, dtype = _read_header(stream)
            start = stream.tell()
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except (OSError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise DataError(f"{file} is not a whole .npy file ({error}).") from error
    if dtype.kind not in _NUMBERS:
        raise DataError(f"{file} holds {dtype}, not plain numbers; it was not read.")
    count = math.prod(shape)
    if count == 0:
        raise DataError(f"{file} has no values: its shape is {list(shape)}.")
    if min(shape, default=1) < 0 or count * dtype.itemsize != len(mapped) - start:
        raise DataError(
            f"{file}: its header says {count} values of {dtype.itemsize} bytes, the file has {len(mapped) - start} "
            "bytes of them."
        )
    values = np.frombuffer(mapped, dtype, count, start)
    return values.reshape(shape, order="F" if fortran_order else "C")


def write_npy(file: Path, values: NDArray[Any]) -> None:
    """Write one array atomically, flushed to disk. Raises as `gcbench.files.atomic_path`."""
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        npy.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"format version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2 are read like the others
        return readers[version](stream)
