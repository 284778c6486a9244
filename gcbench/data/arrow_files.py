"""Arrow files of a prepared dataset: written atomically, mapped when read, checked before use, hashed by content.

Arrow trusts the offsets and lengths of a file unless told to check them: a damaged file would be read beyond its end.
So every table is validated when it is mapped; that touches the offsets only and takes microseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcbench.errors import DataError
from gcbench.files import atomic_path

_NUMBERS = {pa.float32(): "f4", pa.float64(): "f8", pa.uint8(): "u1", pa.int16(): "i2", pa.int32(): "i4"}
_WAY_OUT = "Run the command that made it again: it writes what is missing."


def write_batch(path: Path, batch: Any, metadata: Mapping[str, Any]) -> None:
    """Write one Arrow record batch atomically, `metadata` as JSON in its schema."""
    schema = batch.schema.with_metadata({b"gcbench": json.dumps(metadata, sort_keys=True).encode()})
    with atomic_path(path) as temporary, pa.ipc.new_stream(str(temporary), schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def read_table(path: Path) -> tuple[Any, dict[str, Any]]:
    """Map an Arrow stream: the validated table, without null values, and its metadata.

    Raises:
        DataError: the file is missing or broken.
    """
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        metadata = json.loads(table.schema.metadata[b"gcbench"])
        holes = [name for name in table.column_names if table[name].null_count]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", _WAY_OUT) from error
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise _broken(path, error) from error
    if not isinstance(metadata, dict) or holes:
        raise _broken(path, "it has null values" if holes else "its metadata is no table")
    return table, metadata


def view(values: Any) -> NDArray[Any]:
    """A validated Arrow array of numbers, without nulls, as a read-only NumPy view.

    Arrow's own `to_numpy` imports pandas where that is installed: 0.2 s, in each loader worker.
    """
    dtype = np.dtype(_NUMBERS[values.type])
    if not len(values):
        return np.empty(0, dtype)
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def kept_metadata(path: Path, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metadata of a whole file that was written with the same `options`, else None: it is to be written (anew)."""
    if not path.is_file():
        return None
    try:
        metadata = read_table(path)[1]
    except DataError:
        return None
    return metadata if metadata.get("options") == json.loads(json.dumps(options)) else None


def content_sha256(path: Path) -> str:
    """SHA-256 of a stored table's names, types and values, whatever Arrow version wrote it.

    Raises:
        DataError: the file is missing or broken.
    """
    table, _ = read_table(path)
    try:
        return table_sha256(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise _broken(path, error) from error


def table_sha256(table: Any) -> str:
    """SHA-256 of a table's names, types and values."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        if pa.types.is_list(column.type):
            digest.update(np.ascontiguousarray(column.offsets.to_numpy()).data)
            digest.update(np.ascontiguousarray(column.flatten().to_numpy()).data)
        elif pa.types.is_large_binary(column.type):
            for value in column:
                digest.update(len(value.as_buffer()).to_bytes(8, "little"))
                digest.update(value.as_buffer())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).data)
    return digest.hexdigest()


def _broken(path: Path, reason: object) -> DataError:
    return DataError(f"{path} is broken ({reason}).", f"Delete it. {_WAY_OUT}")
