"""ScanNet's split lists and label table: from a folder, from the cache, or from the official repository.

What the files are, where they are and what they must be stands in `evaluation/splits/scannet.yaml`. Downloads go into
the user's cache folder (or `GCBENCH_CACHE`), at a pinned commit and checked by SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gcbench.data.facts import read_facts
from gcbench.errors import DataError
from gcbench.resources import resource_path

CACHE_VARIABLE = "GCBENCH_CACHE"
_DATASET = "scannet"
_RETRIES = 2
_TIMEOUT = 30.0  # seconds without a byte
_LOCK_TIMEOUT = 300.0  # seconds to wait for another process that downloads
_WAY_OUT = "Put {name} into a folder of your own and name that folder with --meta-dir."


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Origin(_Facts):
    source: str
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    url: str

    @model_validator(mode="after")
    def _pinned(self) -> _Origin:
        if self.commit not in self.url:
            raise ValueError(f"the url does not name the commit {self.commit}")
        return self


class _Numbered(_Facts):
    first: int
    last: int
    name: str

    def names(self) -> tuple[str, ...]:
        return tuple(self.name.format(number=number) for number in range(self.first, self.last + 1))


class _File(_Facts):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    origin: str
    entries: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    lines_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    split: str | None = None
    scenes: _Numbered | None = None

    @model_validator(mode="after")
    def _numbered(self) -> _File:
        if self.scenes is not None:
            text = "".join(f"{name}\n" for name in self.scenes.names())
            if hashlib.sha256(text.encode()).hexdigest() != self.sha256:
                raise ValueError(f"the numbered scenes are not the list {self.name}")
        return self


class SceneShare(_Facts):
    """A share of the training scenes, in percent, and how many names the official list has."""

    percent: int = Field(gt=0, le=100)
    names: int = Field(gt=0)


class DataEfficient(_Facts):
    """The data-efficient sets of a dataset: shares of the scenes of `split`, and labelled points per scene of it."""

    source: str
    split: str
    scenes: list[SceneShare]
    points: list[int]


class _SplitFacts(_Facts):
    dataset: str
    origins: dict[str, _Origin]
    files: list[_File]
    data_efficient: DataEfficient

    @model_validator(mode="after")
    def _consistent(self) -> _SplitFacts:
        unknown = [file.origin for file in self.files if file.origin not in self.origins]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is not one of the origins")
        return self


def find(name: str, folders: Sequence[Path] = (), *, download: bool = True) -> Path:
    """Path of a split list or of the label table.

    The first folder that has it wins (see `check`), then the cache, then the official repository.

    Args:
        name: file name, e.g. ``"scannetv2_train.txt"``.
        folders: where the user may have it.
        download: False leaves the network alone.

    Raises:
        DataError: it is nowhere, it could not be downloaded, or what was downloaded is not the pinned content.
    """
    file = _file(name)
    for folder in folders:
        if _is_file(folder / name):
            return folder / name
    cached = cache_folder() / _DATASET / name
    if _is_file(cached) and hashlib.sha256(_content(cached)).hexdigest() == file.sha256:
        return cached
    if not download:
        raise DataError(f"{name} is {_places(folders, cached)}.", _WAY_OUT.format(name=name))
    url = f"{_facts(_DATASET).origins[file.origin].url}/{name}"
    try:
        _download(url, cached, file.sha256)
    except ValueError as error:
        raise DataError(
            f"{name} is {_places(folders, cached)}, and {url} has another content than the pinned one ({error}).",
            f"A proxy may have answered instead: try again. {_WAY_OUT.format(name=name)}",
        ) from error
    except OSError as error:
        raise DataError(
            f"{name} is {_places(folders, cached)}, and could not be downloaded from {url} ({error}).",
            f"{_WAY_OUT.format(name=name)} {CACHE_VARIABLE} names another folder for the cache.",
        ) from error
    return cached


def check(path: Path) -> str | None:
    """A note if a split list or label table is not the official one; None if it is, or is no such file.

    Line ends do not matter.

    Raises:
        DataError: the file cannot be read.
    """
    file = _known().get(path.name)
    if file is None:
        return None
    content = _content(path)
    lines = [line for line in content.splitlines() if line.strip()]
    digests = {hashlib.sha256(text).hexdigest() for text in (content, b"".join(line + b"\n" for line in lines))}
    if digests & {file.sha256, file.lines_sha256}:
        return None
    entries = len(lines) if file.split is not None else max(len(lines) - 1, 0)
    return (
        f"{path.name} is not the official file: it has {entries} entries, the official one {file.entries}; used as is"
    )


def expected_scenes(dataset: str) -> dict[str, int]:
    """Split -> number of scenes of the official list.

    Raises:
        DataError: there are no split lists for that dataset.
    """
    return {file.split: file.entries for file in _facts(dataset).files if file.split is not None}


def numbered_scenes(dataset: str, split: str) -> tuple[str, ...]:
    """Scene names of a split whose official list counts through; it needs no file.

    Raises:
        DataError: there are no split lists for that dataset, or that one does not count through.
    """
    for file in _facts(dataset).files:
        if file.split == split and file.scenes is not None:
            return file.scenes.names()
    raise DataError(f"The scenes of the split '{split}' of {dataset} do not count through.", "Give a list of them.")


def data_efficient(dataset: str) -> DataEfficient:
    """Which data-efficient sets a dataset has.

    Raises:
        DataError: it has none.
    """
    return _facts(dataset).data_efficient


def cache_folder() -> Path:
    """Where downloads are kept: `GCBENCH_CACHE`, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("gcbench")


def _download(url: str, target: Path, sha256: str) -> None:
    """Download to `target`; on any failure there is no file. Two processes at once download it once.

    Raises:
        ValueError: the content has another hash.
        OSError: no connection, an error status, or the folder cannot be written.
    """
    import pooch
    from filelock import FileLock

    pooch.get_logger().setLevel("WARNING")
    target.parent.mkdir(parents=True, exist_ok=True)
    store = pooch.create(
        path=target.parent,
        base_url="",
        registry={target.name: f"sha256:{sha256}"},
        urls={target.name: url},
        retry_if_failed=_RETRIES,
    )
    with FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_TIMEOUT):
        store.fetch(target.name, downloader=pooch.HTTPDownloader(timeout=_TIMEOUT))


def _places(folders: Sequence[Path], cached: Path) -> str:
    return f"neither in {', '.join(map(str, folders))} nor in {cached.parent}" if folders else f"not in {cached.parent}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise DataError(f"{path} cannot be looked at ({error}).") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _file(name: str) -> _File:
    known = _known()
    if name not in known:
        raise DataError(f"'{name}' is not a file of {_DATASET}'s metadata.", f"Known: {', '.join(known)}.")
    return known[name]


def _known() -> dict[str, _File]:
    return {file.name: file for file in _facts(_DATASET).files}


def _facts(dataset: str) -> _SplitFacts:
    folder = resource_path("evaluation", "splits")
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if dataset not in known:
        raise DataError(f"There are no split lists for the dataset '{dataset}'.", f"Known: {', '.join(known)}.")
    return _parse(folder / f"{dataset}.yaml")


@cache
def _parse(path: Path) -> _SplitFacts:
    return read_facts(path, _SplitFacts)
