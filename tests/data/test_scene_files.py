"""Scenes out of anyone's files: the same cloud from each, and a clear refusal of what is not one."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from plyfile import PlyData, PlyElement

from gcbench.data.scannet import vertex_normals
from gcbench.data.scene_files import read_scene
from gcbench.errors import DataError, InputError
from tests.protocols.small_segmentation import room, write_rooms

COUNT = 40


def arrays(count: int = COUNT) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    normal = draw.normal(size=(count, 3))
    return {
        "coord": draw.uniform(-2, 2, (count, 3)).astype(np.float32),
        "color": draw.integers(0, 256, (count, 3)).astype(np.uint8),
        "normal": (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32),
    }


def write_npz(file: Path, **changes: Any) -> Path:
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(file, **content)
    return file


def write_ply(file: Path, *, normals: bool = True, faces: bool = False, colors: str = "u1", text: bool = False) -> Path:
    values = arrays()
    columns = {axis: values["coord"][:, k] for k, axis in enumerate("xyz")}
    if normals:
        columns |= {axis: values["normal"][:, k] for k, axis in enumerate(("nx", "ny", "nz"))}
    columns |= {key: values["color"][:, k].astype(colors) for k, key in enumerate(("red", "green", "blue"))}
    vertex = np.empty(COUNT, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        vertex[name] = column
    elements = [PlyElement.describe(vertex, "vertex")]
    if faces:
        triangles = np.array([((n, n + 1, n + 2),) for n in range(COUNT - 2)], [("vertex_indices", "i4", (3,))])
        elements.append(PlyElement.describe(triangles, "face"))
    PlyData(elements, text=text).write(str(file))
    return file


@pytest.mark.parametrize("text", [False, True])
def test_ply_and_npz_hold_the_same_cloud(tmp_path: Path, text: bool) -> None:
    from_npz = read_scene(str(write_npz(tmp_path / "room.npz")))
    from_ply = read_scene(str(write_ply(tmp_path / "room.ply", text=text)))
    assert from_npz.name == from_ply.name == "room"
    assert np.array_equal(from_npz.color, from_ply.color)
    np.testing.assert_allclose(from_npz.coord, from_ply.coord, rtol=1e-6)
    np.testing.assert_allclose(from_npz.normal, from_ply.normal, atol=1e-6)
    assert np.array_equal(from_npz.coord, arrays()["coord"])
    assert not from_npz.segments


def test_normals_come_from_the_file_or_its_faces_or_are_zeros_if_asked(tmp_path: Path) -> None:
    by_faces = read_scene(str(write_ply(tmp_path / "mesh.ply", normals=False, faces=True)))
    triangles = np.array([(n, n + 1, n + 2) for n in range(COUNT - 2)], np.int32)
    assert np.array_equal(by_faces.normal, vertex_normals(by_faces.coord, triangles))
    own = read_scene(str(write_ply(tmp_path / "both.ply", normals=True, faces=True)))
    assert np.array_equal(own.normal, arrays()["normal"])
    for file in (write_ply(tmp_path / "cloud.ply", normals=False), write_npz(tmp_path / "cloud.npz", normal=None)):
        with pytest.raises(InputError, match="no normals") as caught:
            read_scene(str(file))
        assert "--no-normals" in caught.value.way_out
        assert not read_scene(str(file), normals=False).normal.any()


def test_normals_become_unit_vectors_and_zeros_stay(tmp_path: Path) -> None:
    normal = arrays()["normal"] * np.linspace(0.5, 3, COUNT)[:, None]
    normal[7] = 0
    scene = read_scene(str(write_npz(tmp_path / "room.npz", normal=normal)))
    lengths = np.linalg.norm(scene.normal, axis=1)
    assert lengths[7] == 0
    assert np.delete(lengths, 7) == pytest.approx(1, abs=1e-6)


def test_colours_may_be_floats_of_the_same_range(tmp_path: Path) -> None:
    floats = read_scene(str(write_npz(tmp_path / "room.npz", color=arrays()["color"].astype(np.float64))))
    assert np.array_equal(floats.color, arrays()["color"])


def test_a_scene_of_a_prepared_dataset_comes_without_its_labels(tmp_path: Path) -> None:
    write_rooms(tmp_path / "rooms")
    scene = read_scene(f"{tmp_path / 'rooms'}:scene0001_00")
    assert np.array_equal(scene.coord, room("scene0001_00", 1).coord)
    assert (dict(scene.segments), scene.instance) == ({}, None)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no array": ({"color": None}, "no array 'color'; it has coord, normal"),
    "no points": ({key: np.zeros((0, 3)) for key in ("coord", "color", "normal")}, "has no points"),
    "another length": ({"color": np.zeros((3, 3), np.uint8)}, r"'color' is uint8 of shape \[3, 3\], not \[40, 3\]"),
    "other columns": ({"coord": np.zeros((COUNT, 4))}, r"'coord' is float64 of shape \[40, 4\]"),
    "a number": ({"coord": np.float32(3)}, r"'coord' is float32 of shape \[\]"),
    "words": ({"normal": np.full((COUNT, 3), "up")}, "'normal' is <U2"),
    "not a number": ({"coord": np.full((COUNT, 3), np.nan)}, "'coord' of point 0 is .* not finite"),
    "too large": ({"coord": np.full((COUNT, 3), 1e300)}, "not finite"),
    "colours to 1": ({"color": np.random.default_rng(0).random((COUNT, 3))}, "it must be 0 to 255"),
    "colours to 65535": ({"color": np.full((COUNT, 3), 65535)}, "goes from 65535 to 65535"),
    "negative colours": ({"color": np.full((COUNT, 3), -1)}, "goes from -1"),
    "objects": ({"coord": np.array([[object()] * 3] * COUNT)}, "no whole .npz of plain arrays"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_npz_is_refused(name: str, tmp_path: Path) -> None:
    changes, message = BROKEN[name]
    with pytest.raises(DataError, match=message) as caught:
        read_scene(str(write_npz(tmp_path / "room.npz", **changes)))
    assert str(tmp_path / "room.npz") in str(caught.value)


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**10, 3)})
    with zipfile.ZipFile(tmp_path / "room.npz", "w") as archive:
        for key in ("coord", "color", "normal"):
            archive.writestr(f"{key}.npy", header.getvalue())
    with pytest.raises(DataError, match=r"no whole \.npz"):
        read_scene(str(tmp_path / "room.npz"))
    whole = write_ply(tmp_path / "room.ply").read_bytes()
    (tmp_path / "room.ply").write_bytes(whole.replace(b"element vertex 40", b"element vertex 4000000000000"))
    with pytest.raises(DataError, match="do not fit"):
        read_scene(str(tmp_path / "room.ply"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 3), edits=st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4)), max_size=5))
def test_a_damaged_file_is_read_or_refused(kind: int, edits: list[tuple[int, bytes]], tmp_path: Path) -> None:
    file = tmp_path / ("room.npz" if kind == 0 else "room.ply")
    file.unlink(missing_ok=True)  # plyfile maps files: one that is mapped must not be changed
    if kind == 0:
        write_npz(file)
    else:
        write_ply(file, normals=kind == 1, faces=kind > 1, text=kind == 3)
    content = bytearray(file.read_bytes())
    for place, new in edits:
        content[place : place + len(new) + 1] = new
    file.unlink()
    file.write_bytes(content)
    with contextlib.suppress(DataError, InputError):
        scene = read_scene(str(file), normals=False)
        assert len(scene.coord) == len(scene.color) == len(scene.normal)
        assert np.isfinite(scene.coord).all()
        assert np.isfinite(scene.normal).all()


@pytest.mark.parametrize("content", [b"", b"ply\n", b"PK\x03\x04", b"\x80\x04K\x01."])
@pytest.mark.parametrize("suffix", [".ply", ".npz"])
def test_what_is_no_such_file_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"room{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError, match="no whole"):
        read_scene(str(file))


def test_a_ply_without_colours_of_8_bits_is_refused(tmp_path: Path) -> None:
    ply = PlyData.read(str(write_ply(tmp_path / "room.ply", colors="f4")), mmap=False)
    for channel in ("red", "green", "blue"):
        ply["vertex"].data[channel] /= 255
    ply.write(str(tmp_path / "dark.ply"))
    with pytest.raises(DataError, match="it must be 0 to 255"):
        read_scene(str(tmp_path / "dark.ply"))


@pytest.mark.parametrize("where", ["nowhere.ply", "nowhere.npz", "nowhere", "nowhere:scene0000_00", "room.obj"])
def test_what_is_not_there_is_named(where: str) -> None:
    with pytest.raises(InputError, match=r"nowhere|room\.obj"):
        read_scene(where)
