"""Files of a submission, in a folder or in a ZIP, read in place and never unpacked to disk. Both are untrusted.

A ZIP's names are judged as they are stored, before anything is read. Members are read one at a time, up to a limit that
does not depend on what the archive says about itself.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gcbench.errors import InputError

LARGEST_FILE = 1 << 24  # bytes; 16 MB are more than two million vertices
LARGEST_TOTAL = 1 << 36  # bytes of all files together
MOST_FILES = 200_000
_LEFTOVERS = {"__MACOSX": "left by macOS", ".DS_Store": "left by macOS", "Thumbs.db": "left by Windows"}
_DRIVE = re.compile(r"[A-Za-z]:")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class Violation:
    """What is wrong.

    Attributes:
        file: as the submission names it; empty for the submission as a whole.
        line: from 1, or None for the file as a whole.
        reason: in plain words.
        is_error: False is a warning: the server takes it, but it may not be what is meant.
        count: how many it stands for; more than one for what was too much to list.
    """

    file: str
    line: int | None
    reason: str
    is_error: bool = True
    count: int = 1


class SubmissionFiles(Protocol):
    """The files of a submission by name, with `/` between folders."""

    @property
    def names(self) -> tuple[str, ...]:
        """Files that may be read, in order."""
        ...

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What is wrong with names and kinds of files; those files are not in `names`."""
        ...

    def read(self, name: str) -> bytes | Violation:
        """Content of a file, or why it cannot be had."""
        ...


@contextmanager
def open_submission(path: Path) -> Iterator[SubmissionFiles]:
    """A folder or a ZIP.

    Raises:
        InputError: there is no such file or folder, or it is no ZIP.
    """
    if path.is_dir():
        yield FolderFiles(path)
        return
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Give a folder or a ZIP with the submission.")
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        raise InputError(
            f"{path} is not a whole ZIP archive ({error}).", "Make it again: gcbench submission pack."
        ) from error
    with archive:
        yield ZipFiles(archive)


class FolderFiles:
    """Files of a folder; links that lead out, and what is neither file nor folder, are violations."""

    def __init__(self, root: Path) -> None:
        self._root = root
        resolved = os.path.realpath(root)
        names: list[str] = []
        found: list[Violation] = []
        for folder, subfolders, files in os.walk(root):
            subfolders.sort()
            for name in [*subfolders, *sorted(files)]:
                path = Path(folder, name)
                relative = path.relative_to(root).as_posix()
                if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(resolved):
                    found.append(Violation(relative, None, "it is a link that leads out of the folder"))
                elif name in subfolders:
                    if path.is_symlink():
                        found.append(Violation(relative, None, "it is a link to a folder"))
                elif not _is_regular(path):
                    found.append(Violation(relative, None, "it is no regular file"))
                else:
                    names.append(relative)
        self._violations = [*found, *_odd_names(names)]
        odd = {violation.file for violation in self._violations}
        self._names = tuple(name for name in names if name not in odd)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(self._violations)

    def read(self, name: str) -> bytes | Violation:
        try:
            with (self._root / name).open("rb") as stream:
                content = stream.read(LARGEST_FILE + 1)
        except OSError as error:
            return Violation(name, None, f"it cannot be read: {error.strerror}")
        return content if len(content) <= LARGEST_FILE else _too_large(name)


class ZipFiles:
    """Members of a ZIP. Unsafe names, links, encryption, odd compression, doubles and bombs are violations."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        found: list[Violation] = []
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if len(members) > MOST_FILES or total > LARGEST_TOTAL:
            found.append(
                Violation("", None, f"{len(members)} files of {total / 1e9:.1f} GB are too much; nothing was unpacked")
            )
            members = []
        for member in members:
            name = member.orig_filename
            reason = _unsafe(name) or _unreadable(member)
            if reason is None and name in self._members:
                reason = "there are two files of this name"
            if reason is not None:
                found.append(Violation(name, None, reason))
            elif not name.endswith("/"):
                self._members[name] = member
        odd = _odd_names(self._members)
        for violation in odd:
            self._members.pop(violation.file)
        self._violations = (*found, *odd)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    @property
    def violations(self) -> tuple[Violation, ...]:
        return self._violations

    def read(self, name: str) -> bytes | Violation:
        member = self._members[name]
        try:
            with self._archive.open(member) as stream:
                content = stream.read(min(member.file_size, LARGEST_FILE) + 1)
        except _BROKEN as error:
            return Violation(name, None, f"the archive is broken here ({error})")
        return content


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _too_large(name: str) -> Violation:
    return Violation(name, None, f"it is larger than {LARGEST_FILE >> 20} MB")


def _unsafe(name: str) -> str | None:
    """Why a stored name must not be used as a path."""
    if "\\" in name:
        return "its name has a backslash; folders are divided by /"
    if name.startswith("/") or _DRIVE.match(name):
        return "its name is an absolute path"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "its name leads out of the folder (..)"
    if "" in parts or "." in parts:
        return "its name has an empty part"
    return None


def _unreadable(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "it is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is no regular file"
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type not in _COMPRESSIONS:
        return f"its compression (method {member.compress_type}) is not Deflate, and may not be read by the server"
    if member.file_size > LARGEST_FILE:
        return f"it would unpack to {member.file_size / 1e6:.0f} MB"
    return None


def _odd_names(names: Mapping[str, object] | list[str]) -> list[Violation]:
    """Names that are no text, left by an operating system, or that some file systems take for one another."""
    found = []
    first: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (not name.islower(), name)):
        leftover = next((part for part in name.split("/") if part in _LEFTOVERS), None)
        same = first.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if leftover is not None:
            found.append(Violation(name, None, f"'{leftover}' was {_LEFTOVERS[leftover]}: remove it"))
        elif not name.isascii() or not name.isprintable():
            found.append(Violation(name, None, "its name has characters other than plain ASCII"))
        elif same != name:
            found.append(Violation(name, None, f"its name differs from {same} in upper and lower case only"))
    return found
