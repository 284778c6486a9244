"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcbench.errors import DISK_FULL, DiskFullError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there takes its place at the end, flushed to disk.

    On any error the old file stays as it was and nothing else is left.

    Raises:
        DiskFullError: the disk is full.
        OSError: any other failure of writing; it names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(
                f"The disk is full: {path} could not be written.",
                "Free some space, then run the same command again: what is finished is kept.",
            ) from error
        error.filename = error.filename or str(path)  # what fails while writing does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | memoryview | str) -> None:
    """Write a whole file at once; text is UTF-8. Raises as `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def short_sha256(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return sha256(path)[:16]


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed process left below `folder` while writing (`atomic_path`); the number of files.

    Only for a folder that no other process is writing to.
    """
    leftovers = list(folder.rglob(".*.part"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
