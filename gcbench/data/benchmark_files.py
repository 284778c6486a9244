"""Reads the files of ScanNet's data-efficient benchmark.

    scenes/<percent>.txt     scene names, one per line
    points/points<count>     a torch file: {scene name: vertex ids}, written by Contrastive Scene Contexts'
                             sampling_points.py (numpy arrays of int64 from k-means; a vertex may stand twice)

Torch files are pickles, and these hold numpy arrays, which `weights_only` refuses. The few names that such a pickle
needs are answered by stand-ins of ours, which check an array's declared shape against the bytes that are there.
"""

from __future__ import annotations

import io
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcbench.data.scene_jobs import some
from gcbench.errors import DataError
from gcbench.structures import Int64Array

_LARGEST = 256 * 2**20  # bytes; the file with 200 points for each of 1201 scenes has 2 MB
_WHOLE_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_WAY_OUT = "Download it again. Nothing but scene names, lists and arrays of whole numbers is accepted in it."


def official_scenes(
    file: Path, train: Sequence[str], expected: int, allow_missing: bool
) -> tuple[tuple[str, ...], list[str]]:
    """A list, held against a dataset.

    Args:
        file: the list.
        train: the dataset's training scenes.
        expected: how many names the official list has.
        allow_missing: the dataset is a part: leave out what it lacks.

    Returns:
        The listed scenes that the dataset has, in the order of the list; what a reader should know.

    Raises:
        DataError: as `read_scene_list`; or the dataset lacks a listed scene (with `allow_missing`: all of them).
    """
    listed = read_scene_list(file)
    present = set(train)
    absent = [name for name in listed if name not in present]
    if absent and not allow_missing:
        raise DataError(
            f"{file} names {len(absent)} scenes that are no training scenes here: {_cut(absent)}.",
            "Prepare them, or accept a part with --allow-missing.",
        )
    if len(absent) == len(listed):
        raise DataError(f"{file} names no training scene of this dataset: {_cut(absent)}.")
    notes = [f"{len(absent)} of {len(listed)} listed scenes are not in this dataset"] if absent else []
    if len(listed) != expected:
        notes.append(f"the list has {len(listed)} names, the official one {expected}")
    return tuple(name for name in listed if name in present), notes


def official_points(
    file: Path, sizes: Mapping[str, int], expected: int, allow_missing: bool
) -> tuple[dict[str, Int64Array], list[str]]:
    """Vertex ids per scene, held against a dataset.

    Args:
        file: the torch file.
        sizes: the dataset's training scenes, and how many points each has.
        expected: how many points per scene the file is for.
        allow_missing: leave out training scenes that the file lacks.

    Returns:
        Scene -> ids, ascending, each once; what a reader should know.

    Raises:
        DataError: as `read_point_lists`; or the file lacks a training scene (with `allow_missing`: all of them).
    """
    lists, others = read_point_lists(file, sizes)
    absent = [name for name in sizes if name not in lists]
    if not lists or (absent and not allow_missing):
        raise DataError(
            f"{file} has no points for {len(absent)} of {len(sizes)} training scenes: {_cut(absent)}.",
            "Prepare the dataset with the official split lists, or accept a part with --allow-missing.",
        )
    notes = [f"{len(absent)} of {len(sizes)} training scenes have no points in the file"] if absent else []
    if others:
        notes.append(f"{others} scenes of the file are no training scenes of this dataset")
    few = sum(len(ids) < expected for ids in lists.values())
    if few:
        notes.append(f"{few} scenes have fewer than {expected} different points in the file")
    return lists, notes


def read_scene_list(file: Path) -> tuple[str, ...]:
    """Scene names of a list, in its order.

    Raises:
        DataError: the file cannot be read, is empty, is not text, or has a name twice.
    """
    try:
        names = [line.strip() for line in _content(file).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no list of scene names ({error}).") from error
    if not names:
        raise DataError(f"{file} has no scene names.")
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise DataError(f"{file} names {twice!r} twice.")
    return tuple(names)


def read_point_lists(file: Path, point_counts: Mapping[str, int]) -> tuple[dict[str, Int64Array], int]:
    """Vertex ids per scene from a torch file.

    Args:
        file: the torch file.
        point_counts: the wanted scenes, and how many vertices each has.

    Returns:
        Wanted scenes that the file has -> their ids, ascending, each once; and how many other scenes it has.

    Raises:
        DataError: the file is no such file, needs anything else to be read, or an id is not a vertex of its scene.
    """
    content = _unpickle(file)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{file} is no table from scene names to vertex ids.", _WAY_OUT)
    lists = {}
    for name, points in point_counts.items():
        if name not in content:
            continue
        try:
            lists[name] = _vertex_ids(content[name], points)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise DataError(f"{file}, scene {name}: {error}.", _WAY_OUT) from error
    return lists, len(content) - len(lists)


class _DType:
    """Stands in for `numpy.dtype`: whole numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _WHOLE_NUMBERS:
            raise ValueError(f"an array has the type {code!r:.20}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|"):
            raise ValueError("an array has an unknown byte order")
        self.code = state[1] + self.code


class _Array:
    """Stands in for `numpy.ndarray`: one row of whole numbers, as many as the file has bytes for."""

    values: Int64Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes) or len(shape) != 1:
            raise ValueError("an array is not one row of whole numbers")
        values = np.frombuffer(content, dtype.code)
        if len(values) != shape[0]:
            raise ValueError(f"an array declares {shape[0]} numbers and has {len(values)}")
        if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
            raise ValueError("a vertex id is too large")
        self.values = values.astype(np.int64)


def _reconstruct(*_: object) -> _Array:
    """Stands in for numpy's function that makes the empty array which the state then fills."""
    return _Array()


_STAND_INS: list[Any] = [
    (_Array, "numpy.ndarray"),
    (_DType, "numpy.dtype"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # numpy 1
    (_reconstruct, "numpy._core.multiarray._reconstruct"),  # numpy 2
]


def _unpickle(file: Path) -> object:
    import torch

    content = _content(file)
    try:
        _check_archive(content)
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        # torch wraps the reason in advice to switch the protection off
        reason = (error.__context__ or error) if isinstance(error, pickle.UnpicklingError) else error
        first_line = (str(reason).splitlines() or [""])[0].partition(". Please use")[0].rstrip(".")[:300]
        raise DataError(
            f"{file} is not a torch file of vertex ids ({type(reason).__name__}: {first_line}).", _WAY_OUT
        ) from error


def _check_archive(content: bytes) -> None:
    """torch stores, it does not compress: an archive that would unpack to more than its own size is none of torch's."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        entries = zipfile.ZipFile(io.BytesIO(content)).infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content) for entry in entries):
            raise ValueError("the archive is compressed")


def _vertex_ids(value: object, points: int) -> Int64Array:
    """Ids of one scene with `points` vertices, ascending, each once.

    Raises:
        ValueError, OverflowError, RuntimeError: they are not whole numbers, or not of that scene.
    """
    import torch

    if isinstance(value, _Array) and value.values is not None:
        ids = value.values
    elif isinstance(value, torch.Tensor) and value.dim() == 1 and not value.is_floating_point():
        ids = np.array(_bounded(value, math.prod(value.shape), points).tolist(), np.int64)
    elif isinstance(value, (list, tuple)) and all(type(item) is int for item in _bounded(value, len(value), points)):
        ids = np.array(value, np.int64)
    else:
        raise ValueError("the vertex ids are not one row of whole numbers")
    if ids.size and (ids.min() < 0 or ids.max() >= points):
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"there is no vertex {wrong}, the scene has {points} points")
    return np.unique(ids)


def _bounded(value: Any, length: int, points: int) -> Any:
    if length > points:
        raise ValueError(f"there are {length} vertex ids, the scene has {points} points")
    return value


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{file} has {size / 2**20:.0f} MiB: that is no file of the data-efficient benchmark.")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error}).") from error


def _cut(names: Sequence[str]) -> str:
    return some([name if len(name) <= 60 else f"{name[:60]}..." for name in names])
