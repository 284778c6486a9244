from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.data.benchmark_files import read_point_lists, read_scene_list
from gcbench.errors import DataError
from tests.data.mutations import assert_survives

SIZES = {"scene0000_00": 50, "scene0001_00": 60, "scene0002_00": 7}
IDS = {"scene0000_00": [3, 49, 0, 3], "scene0001_00": [59, 7], "scene0002_00": []}


def saved(content: object, *, archive: bool = True, numpy_1: bool = False) -> bytes:
    """A torch file: an archive as since torch 1.6, or a bare pickle; with the module names of numpy 1 or 2."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=archive)
    old, new = b"numpy._core.multiarray", b"numpy.core.multiarray"
    if not numpy_1:
        return buffer.getvalue()
    if not archive:
        return buffer.getvalue().replace(old, new)
    copy = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry).replace(old, new))
    return copy.getvalue()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("numpy_1", [True, False])
@pytest.mark.parametrize("kind", ["int64", "int32", "uint16", ">i8"])
def test_numpy_arrays_of_every_age_are_read(tmp_path: Path, archive: bool, numpy_1: bool, kind: str) -> None:
    file = tmp_path / "points20"
    content = {name: np.array(ids, kind) for name, ids in IDS.items() if ids} | {"scene0700_00": np.array([1], kind)}
    file.write_bytes(saved(content, archive=archive, numpy_1=numpy_1))
    lists, others = read_point_lists(file, SIZES)
    assert {name: ids.tolist() for name, ids in lists.items()} == {"scene0000_00": [0, 3, 49], "scene0001_00": [7, 59]}
    assert all(ids.dtype == np.int64 for ids in lists.values())
    assert others == 1


@pytest.mark.parametrize("convert", [list, tuple, torch.tensor])
def test_lists_and_tensors_are_read(tmp_path: Path, convert: object) -> None:
    file = tmp_path / "points20"
    assert callable(convert)
    torch.save({"scene0000_00": convert([5, 1])}, file)
    assert read_point_lists(file, SIZES)[0]["scene0000_00"].tolist() == [1, 5]


@settings(max_examples=30, deadline=None)
@given(ids=st.lists(st.integers(0, 49), min_size=1, max_size=80))
def test_the_kept_labels_are_those_that_indexing_by_the_official_array_keeps(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int]
) -> None:
    file = tmp_path_factory.mktemp("tasks") / "points20"
    file.write_bytes(saved({"scene0000_00": np.array(ids)}))
    kept = np.zeros(50, bool)
    kept[np.array(ids)] = True
    assert read_point_lists(file, SIZES)[0]["scene0000_00"].tolist() == np.flatnonzero(kept).tolist()


called: list[str] = []


class Command:
    """Calls `called.append` when it is unpickled by a careless reader."""

    def __reduce__(self) -> tuple[object, ...]:
        return called_with, ("here",)


def called_with(text: str) -> None:
    called.append(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"scene0000_00": Command()}, "Unsupported global"),
        ({"scene0000_00": np.array([object()])}, "'O8'"),
        ({"scene0000_00": np.array([0.5])}, "'f8'"),
        ({"scene0000_00": np.array([True])}, "'b1'"),
        ({"scene0000_00": np.array([[1, 2]])}, "one row"),
        ({"scene0000_00": np.array([2**63], np.uint64)}, "too large"),
        ({"scene0000_00": np.array([50])}, r"scene0000_00: there is no vertex 50, the scene has 50 points"),
        ({"scene0000_00": np.array([-1])}, "no vertex -1"),
        ({"scene0000_00": [2**70]}, "scene0000_00"),
        ({"scene0000_00": [0.5]}, "whole numbers"),
        ({"scene0000_00": [True]}, "whole numbers"),
        ({"scene0000_00": [1] * 51}, "51 vertex ids"),
        ({"scene0000_00": torch.ones(1).expand(10**12)}, "whole numbers"),
        ({"scene0000_00": torch.ones(1, dtype=torch.int64).expand(10**12)}, "vertex ids"),
        ({"scene0000_00": None}, "whole numbers"),
        ({0: [1]}, "no table"),
        ([1, 2], "no table"),
    ],
)
@pytest.mark.parametrize("archive", [True, False])
def test_anything_else_is_refused(tmp_path: Path, content: object, expected: str, archive: bool) -> None:
    file = tmp_path / "points20"
    file.write_bytes(saved(content, archive=archive))
    with pytest.raises(DataError, match=expected) as caught:
        read_point_lists(file, SIZES)
    assert str(file) in str(caught.value)
    assert called == []


def test_an_array_that_declares_more_than_it_has_is_refused(tmp_path: Path) -> None:
    content = saved({"scene0000_00": np.arange(5)}, archive=False)
    shape = b"K\x01K\x05\x85"  # version 1, shape (5,)
    assert content.count(shape) == 1
    file = tmp_path / "points20"
    file.write_bytes(content.replace(shape, b"K\x01J\xff\xff\xff\x7f\x85"))
    with pytest.raises(DataError, match="declares 2147483647 numbers and has 5"):
        read_point_lists(file, SIZES)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "points20"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert file.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"points20.*compressed"):
        read_point_lists(file, SIZES)


def test_a_plain_pickle_and_missing_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "points20"
    file.write_bytes(pickle.dumps(Command()))
    with pytest.raises(DataError, match="points20"):
        read_point_lists(file, SIZES)
    with pytest.raises(DataError, match="points50 is missing"):
        read_point_lists(tmp_path / "points50", SIZES)
    (tmp_path / "points100").mkdir()
    with pytest.raises(DataError, match="points100 cannot be read"):
        read_point_lists(tmp_path / "points100", SIZES)
    with (tmp_path / "points200").open("wb") as stream:
        stream.truncate(2**33)
    with pytest.raises(DataError, match="points200 has 8192 MiB"):
        read_point_lists(tmp_path / "points200", SIZES)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "lists", "tensors"])
def test_damaged_torch_files(tmp_path: Path, archive: bool, kind: str) -> None:
    make = {"arrays": np.array, "lists": list, "tensors": torch.tensor}[kind]
    content = saved({name: make(ids) for name, ids in IDS.items() if ids}, archive=archive)
    file = tmp_path / "points20"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said about a damaged file but the error
        refused = assert_survives(lambda: read_point_lists(file, SIZES), file, content, count=200)
    assert refused > 60


def test_scene_lists_keep_their_order(tmp_path: Path) -> None:
    file = tmp_path / "1.txt"
    file.write_text("scene0001_00\r\n\nscene0000_00 \n")
    assert read_scene_list(file) == ("scene0001_00", "scene0000_00")


@pytest.mark.parametrize(
    ("content", "expected"), [(b"\n \n", "no scene names"), (b"a\nb\na\n", "'a' twice"), (b"\xff\xfe", "no list")]
)
def test_scene_lists_that_are_none(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "1.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        read_scene_list(file)
    assert str(file) in str(caught.value)


def test_damaged_scene_lists(tmp_path: Path) -> None:
    file = tmp_path / "1.txt"
    content = "".join(f"scene{number:04d}_00\n" for number in range(60)).encode()
    assert assert_survives(lambda: read_scene_list(file), file, content) > 10
