"""Arrow files of a prepared dataset: written atomically, mapped when read, hashed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gcbench.errors import DataError
from gcbench.files import atomic_path


def write_batch(path: Path, batch: Any, metadata: Mapping[str, Any]) -> None:
    """Write one Arrow record batch atomically, `metadata` as JSON in its schema."""
    schema = batch.schema.with_metadata({b"gcbench": json.dumps(metadata, sort_keys=True).encode()})
    with atomic_path(path) as temporary, pa.ipc.new_stream(str(temporary), schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def read_table(path: Path) -> tuple[Any, dict[str, Any]]:
    """Map an Arrow stream: the table and its metadata.

    Raises:
        DataError: the file is missing or broken.
    """
    way_out = "Run `gcbench data prepare` again: it writes what is missing."
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        return table, json.loads(table.schema.metadata[b"gcbench"])
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", way_out) from error
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is broken ({error}).", f"Delete it. {way_out}") from error


def content_sha256(path: Path) -> str:
    """SHA-256 of a stored table's names, types and values, whatever Arrow version wrote it."""
    table, _ = read_table(path)
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        if pa.types.is_list(column.type):
            digest.update(column.offsets.to_numpy().tobytes())
            digest.update(column.flatten().to_numpy().tobytes())
        elif pa.types.is_large_binary(column.type):
            for value in column:
                digest.update(len(value.as_buffer()).to_bytes(8, "little"))
                digest.update(value.as_buffer())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest()
