from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcbench.data import wavefront
from gcbench.data.wavefront import read_obj
from gcbench.errors import DataError
from tests.data.mutations import assert_survives

MESH = b"""# a square and a triangle
mtllib rgb.mtl
v 0 0 0
v 1.0 0 0 0.5 0.5 0.5
  v 1 1e0 0.25
v\t0 1 0\r
vn 0 0 1
vt 0.5 0.5
usemtl a
f 1/1 2/1 3/1 4/1
f -4//1 -3//1 -2//1
v 7 8 9
f 1 2/2/2 -1
"""
TRIANGLES = [[0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 1, 4]]


@pytest.mark.parametrize("block", [16 * 2**20, 64, 40])
def test_vertices_and_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(wavefront, "_BLOCK", block)
    (tmp_path / "rgb.obj").write_bytes(MESH)
    vertices, faces = read_obj(tmp_path / "rgb.obj")
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0.25], [0, 1, 0], [7, 8, 9]]
    assert faces.tolist() == TRIANGLES
    assert (vertices.dtype.name, faces.dtype.name) == ("float32", "int32")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no vertices"),
        (b"v 0 0 0\n", "no faces"),
        (b"v 0 0\nf 1 1 1\n", "broken line"),
        (b"v 0 0 x\nf 1 1 1\n", "broken line"),
        (b"v 0 0 1e39\nf 1 1 1\n", "not finite"),
        (b"v 0 0 nan\nf 1 1 1\n", "not finite"),
        (b"v 0 0 0\nf 1 1\n", "fewer than 3 corners"),
        (b"v 0 0 0\nf 1 1 0\n", "vertex 0"),
        (b"v 0 0 0\nf 1 1 2\n", "not among its 1"),
        (b"v 0 0 0\nf 1 1 -2\n", "not among its 1"),
        (b"v 0 0 0\nf 1 1 99999999999999999999\n", "broken line"),
        (b"v 0 0 0\nf 1 1 1.5\n", "broken line"),
    ],
)
def test_a_broken_mesh_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "rgb.obj").write_bytes(content)
    with pytest.raises(DataError, match=r"rgb\.obj") as caught:
        read_obj(tmp_path / "rgb.obj")
    assert expected in str(caught.value)


def test_a_file_without_lines_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wavefront, "_BLOCK", 64)
    (tmp_path / "rgb.obj").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"rgb\.obj is no Wavefront OBJ mesh"):
        read_obj(tmp_path / "rgb.obj")
    with pytest.raises(DataError, match="cannot be read"):
        read_obj(tmp_path)


def test_damaged_meshes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [b"v %.4f %.4f %.4f\n" % tuple(row) for row in rng.normal(size=(40, 3))]
    lines += [b"f %d/%d %d/%d %d/%d\n" % tuple(row) for row in rng.integers(1, 41, (40, 6))]
    file = tmp_path / "rgb.obj"
    assert assert_survives(lambda: read_obj(file), file, b"".join(lines), count=300) > 100
