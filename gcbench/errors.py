"""Errors for users: each says what is wrong, where, and the way out.

The command line prints `message` and `way_out` and exits with `exit_code`; nothing below `cli` prints.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class GcbenchError(Exception):
    """Base of every error a user can cause and mend.

    Args:
        message: what is wrong; names the file, key or value.
        way_out: what to do about it, in one sentence.
    """

    exit_code = 1

    def __init__(self, message: str, way_out: str = "") -> None:
        super().__init__(f"{message} {way_out}".strip())
        self.message = message
        self.way_out = way_out


class InputError(GcbenchError, ValueError):
    """A value, an option or an argument is not what it must be."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe has an unknown key, a wrong type or a value out of range."""


class RefusedError(InputError):
    """A job cannot be done with what it was given. It has done nothing yet, so nothing of it need be kept."""


class DataError(GcbenchError, ValueError):
    """A file or folder of data is missing, broken or not what its layout says."""


class RunError(GcbenchError, RuntimeError):
    """A job failed, or a run folder is not usable."""


class DiskFullError(RunError):
    """A file could not be written: no space is left."""

    exit_code = 74  # EX_IOERR of sysexits.h


class AccessError(RunError):
    """The system does not let a file or folder be used, such as on a file system that is read-only."""

    exit_code = 74


class Paused(KeyboardInterrupt):
    """A training was asked to stop, or its time was up, and has written a checkpoint: the same command goes on."""


class MissingExtraError(GcbenchError, ImportError):
    """An optional library is not installed."""


@contextmanager
def refusing() -> Iterator[None]:
    """Around the checks of a job, before its work: what is wrong with the input becomes a `RefusedError`."""
    try:
        yield
    except RefusedError:
        raise
    except (InputError, DataError, MissingExtraError) as error:
        raise RefusedError(error.message, error.way_out) from error


def told_by_system(error: OSError) -> RunError | None:
    """What the system refused, as an error for users; None for what is none of their concern."""
    where = error.filename
    if error.errno in DISK_FULL:
        place = f" while writing {where}" if where else ""
        return DiskFullError(
            f"The disk is full{place}.", "Free some space, then run the same command to go on where it stopped."
        )
    if error.errno == errno.EFBIG:
        return DiskFullError(
            f"{where or 'A file'} would be larger than a file may be here.",
            "Raise the limit (ulimit -f), or use another file system, then run the same command to go on.",
        )
    if where and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return AccessError(
            f"{where} cannot be used: {error.strerror}.",
            "Allow it, or give another folder, and run the same command.",
        )
    return None


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Args:
        module: dotted module name, e.g. ``"spconv.pytorch"``.
        extra: the extra of this package that installs it, e.g. ``"cpu"``.
        purpose: what needs it, e.g. ``"sparse convolution"``.

    Raises:
        MissingExtraError: the library cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the Python package '{module.split('.')[0]}', which cannot be imported ({error}).",
            f"Install it with: pip install 'gcbench[{extra}]'",
        ) from error
