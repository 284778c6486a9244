"""Arrays of strangers: read where they are plain numbers, refused where not; never more memory than a file can fill."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from gcbench.errors import InputError
from gcbench.scoring.array_files import read_arrays

UNKNOWN_TYPE = b'{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}'


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header_only(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    whole = {"masks": np.eye(4, dtype=np.bool_), "labels": np.arange(4), "scores": np.linspace(0, 1, 4)}
    whole["masks"] = np.asfortranarray(whole["masks"])
    np.savez(tmp_path / "a.npz", **whole)
    for name, array in read_arrays(tmp_path / "a.npz").items():
        assert array.dtype == whole[name].dtype
        assert np.array_equal(array, whole[name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pickle.npy", npy_bytes(np.array([Evil()], object))),
        ("pickle.npz", pickle.dumps(Evil())),
        ("huge.npy", header_only((10**12,), "<i8")),
        ("product.npy", header_only((2**33, 2**33), "<i8")),
        ("negative.npy", header_only((-1,), "<i8")),
        ("text.npy", header_only((1,), "<U8") + b"\0" * 32),
        ("record.npy", npy_bytes(np.zeros(2, [("a", "i4"), ("b", "f4")]))),
        ("short.npy", npy_bytes(np.arange(100))[:-1]),
        ("long.npy", npy_bytes(np.arange(100)) + b"\0"),
        ("empty.npy", b""),
        ("empty.npz", b""),
        ("empty.safetensors", b""),
        ("header.safetensors", struct.pack("<Q", 2**40) + b"{}"),
        ("type.safetensors", struct.pack("<Q", 64) + UNKNOWN_TYPE.ljust(64) + b"0" * 4),
    ],
)
def test_what_is_not_plain_numbers_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not a whole"):
        read_arrays(tmp_path / name)
    assert not Path("evil").exists()


def test_a_member_that_inflates_beyond_its_header_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header_only((4,), "<i8") + b"\0" * (1 << 24))
    with pytest.raises(InputError, match="its values are not 4"):
        read_arrays(tmp_path / "a.npz")


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from(["a.npy", "a.npz", "a.safetensors"]))
def test_broken_files_are_refused_or_read_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    from safetensors.numpy import save

    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.arange(20), b=np.ones((2, 3), np.float32))
    whole = {
        "a.npy": npy_bytes(np.arange(20)),
        "a.npz": stream.getvalue(),
        "a.safetensors": save({"a": np.arange(20)}),
    }[name]
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("broken") / name
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        arrays = read_arrays(path)
    except InputError as error:
        assert name in error.message
    else:
        assert all(array.nbytes <= 1 << 20 for array in arrays.values())
