"""Files of a submission, in a folder or in a ZIP, read in place and never unpacked to disk. Both are untrusted.

A ZIP's names are judged as they are stored, before anything is read. Members are read one at a time, up to a limit that
does not depend on what the archive says about itself; what does not unpack to exactly the size it says is refused.
"""

from __future__ import annotations

import copy
import io
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gcbench.errors import InputError

LARGEST_FILE = 1 << 24  # bytes; 16 MB are more than two million vertices
LARGEST_TOTAL = 1 << 36  # bytes of all files together
MOST_FILES = 200_000
LARGEST_DIRECTORY = 120 * MOST_FILES  # bytes of a ZIP's list of its members, which is read as a whole
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
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(_Stream(opened.enter_context(path.open("rb", buffering=0))))
            archive = opened.enter_context(zipfile.ZipFile(stream))
        except _BROKEN as error:
            raise InputError(
                f"{path} is not a whole ZIP archive ({error}).", "Make it again: gcbench submission pack."
            ) from error
        yield ZipFiles(archive)


class _Stream(io.BufferedReader):
    """A ZIP of which no more is read at once than a list of members may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its list of files has {size:,} bytes")
        return super().read(size)


class FolderFiles:
    """Files of a folder; links that lead out, and what is neither file nor folder, are violations."""

    def __init__(self, root: Path) -> None:
        self._root = root
        names: list[str] = []
        found: list[Violation] = []
        for name, reason in _walk(root):
            if reason is not None:
                found.append(Violation(name, None, reason))
            elif len(names) == MOST_FILES:
                found.append(Violation("", None, f"more than {MOST_FILES} files are too much; the others are left out"))
                break
            else:
                names.append(name)
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
        folders: set[str] = set()
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
            elif name.endswith("/"):
                folders.add(name.removesuffix("/"))
            else:
                self._members[name] = member
                folders.update(_parents(name))
        folded = {_folded(name) for name in folders}
        both = (name for name in self._members if _folded(name) in folded)
        found += [Violation(name, None, "it is a file and a folder at once") for name in both]
        found += _odd_names(self._members)
        for violation in found:
            self._members.pop(violation.file, None)
        self._violations = tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    @property
    def violations(self) -> tuple[Violation, ...]:
        return self._violations

    def read(self, name: str) -> bytes | Violation:
        size = self._members[name].file_size
        # `zipfile` stops at the size that a member says it has: of a copy that says more, a byte too many is asked for.
        member = copy.copy(self._members[name])
        member.file_size = 2 * LARGEST_FILE
        try:
            with self._archive.open(member) as stream:
                content = stream.read(size + 1)
        except _BROKEN as error:
            return Violation(name, None, f"the archive is broken here ({error})")
        if len(content) == size:
            return content
        less_or_more = "less" if len(content) < size else "more"
        return Violation(name, None, f"it unpacks to {less_or_more} than the {size} bytes that the archive says")


def _walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """What is below a folder but for folders, by name: what is wrong with it, or None. Any depth, no recursion."""
    resolved = os.path.realpath(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"this folder cannot be read: {error.strerror}"
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(resolved):
                yield name, "it is a link that leads out of the folder"
            elif entry.is_symlink() and stat.S_ISDIR(_mode(entry)):
                yield name, "it is a link to a folder"
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            else:
                yield name, None if stat.S_ISREG(_mode(entry)) else "it is no regular file"


def _parents(name: str) -> Iterator[str]:
    """The folders that a name implies."""
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)


def _mode(entry: os.DirEntry[str]) -> int:
    """Kind of a file, links followed; 0 if there is none at the end."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


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
    if member.file_size and member.orig_filename.endswith("/"):
        return "it is a folder with content"
    return None


def _folded(name: str) -> str:
    """The same for names that some file systems take for one another."""
    return unicodedata.normalize("NFKC", name).casefold()


def _odd_names(names: Iterable[str]) -> list[Violation]:
    """Names that are no text, left by an operating system, or that some file systems take for one another."""
    found = []
    first: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (not name.islower(), name)):
        leftover = next((part for part in name.split("/") if part in _LEFTOVERS), None)
        same = first.setdefault(_folded(name), name)
        if leftover is not None:
            found.append(Violation(name, None, f"'{leftover}' was {_LEFTOVERS[leftover]}: remove it"))
        elif not name.isascii() or not name.isprintable():
            found.append(Violation(name, None, "its name has characters other than plain ASCII"))
        elif same != name:
            found.append(Violation(name, None, f"its name differs from {same} in upper and lower case only"))
    return found
