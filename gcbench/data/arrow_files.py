"""Arrow files of a prepared dataset: written atomically, mapped when read, hashed by content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gcbench.errors import DataError, RunError


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is whole.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"The disk is full: {path} could not be written.",
                "Make room and run the same command again: what is finished is kept.",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_batch(path: Path, batch: Any, metadata: Mapping[str, Any]) -> None:
    """Write one Arrow record batch atomically, `metadata` as JSON in its schema."""
    schema = batch.schema.with_metadata({b"gcbench": json.dumps(metadata, sort_keys=True).encode()})
    with atomic_file(path) as stream, pa.ipc.new_stream(stream, schema) as writer:
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
