from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcbench.data import mesh_normals
from gcbench.data.mesh_normals import AreaMesh, cache_area_mesh, closest_normals, crop, load_area_mesh, open_area_mesh
from gcbench.errors import DataError
from gcbench.structures import Float64Array, Int64Array
from tests.data.mutations import assert_survives

OBJ = "v 0 0 0\nv 1 0 0\nv 0 0 -1\nf 1 2 3\n"


def write_mesh(root: Path, folder: str, content: str = OBJ) -> Path:
    file = root / folder / "3d" / "rgb.obj"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    return file


def distances(points: Float64Array, triangles: Float64Array) -> Float64Array:
    """Distance [N, F] of points to triangles [F, 3, 3]: to the plane where the foot lies inside, else to the edges."""
    result = np.full((len(points), len(triangles)), np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        a, edge = triangles[:, start], triangles[:, end] - triangles[:, start]
        t = np.einsum("nfi,fi->nf", points[:, None] - a, edge) / (edge**2).sum(axis=1)
        foot = a + np.clip(t, 0, 1)[:, :, None] * edge
        result = np.minimum(result, np.linalg.norm(points[:, None] - foot, axis=2))
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = np.einsum("nfi,fi->nf", points[:, None] - triangles[:, 0], normal)
    inside = np.ones(height.shape, bool)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        side = np.cross(normal, triangles[:, end] - triangles[:, start])
        inside &= np.einsum("nfi,fi->nf", points[:, None] - triangles[:, start], side) >= 0
    return np.where(inside, np.abs(height), result)


def unit_normals(vertices: Float64Array, faces: Int64Array) -> Float64Array:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)
    return np.asarray(cross / np.linalg.norm(cross, axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_face_is_the_closest_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(60, 3))
    faces = np.stack([rng.permutation(60)[:3] for _ in range(80)])
    points = rng.normal(size=(300, 3))
    normals, distance = closest_normals(points, vertices, faces)
    table = distances(points, vertices[faces])
    np.testing.assert_allclose(distance, table.min(axis=1), atol=1e-9)
    of_closest = unit_normals(vertices, faces)[None] == normals[:, None]
    assert (np.where(of_closest.all(axis=2), table, np.inf).min(axis=1) <= table.min(axis=1) + 1e-9).all()


def test_beyond_an_edge_the_face_that_looks_at_the_point_counts() -> None:
    # a roof whose ridge is the y axis: one side flat, one side steep; and a third face at the ridge's far end
    vertices = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [-0.1, 0, -1], [0, 2, -9.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 4]])
    flat, steep, _ = unit_normals(vertices, faces)
    points = np.array([[-0.01, 0.5, 0.1], [-0.1, 0.5, 0.01], [-0.01, -0.2, 0.1], [-0.2, -0.2, 0.01]])
    normals, _ = closest_normals(points, vertices, faces)
    np.testing.assert_allclose(normals, [flat, steep, flat, steep], atol=1e-12)
    swapped, _ = closest_normals(points, vertices, faces[::-1].copy())
    np.testing.assert_allclose(swapped, [flat, steep, flat, steep], atol=1e-12)


def test_a_room_sees_the_faces_inside_its_box() -> None:
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1.05, 1, 0), (1.2, 0, 0), (0, 0, 0), (2, 2, 2)]
    faces = [(0, 1, 2), (1, 3, 2), (1, 4, 3), (5, 1, 2), (0, 0, 1), (5, 0, 1), (3, 4, 6)]
    mesh = AreaMesh(np.array(corners, np.float32), np.array(faces, np.int32))
    vertices, kept = crop(mesh, np.array([[0.0, 0, 0], [1, 1, 0]]))
    triangles = np.sort(vertices[kept], axis=1).tolist()
    expected = np.array(
        [[corners[corner] for corner in face] for face in ((0, 1, 2), (1, 3, 2), (0, 1, 2))], np.float32
    )
    assert sorted(triangles) == sorted(np.sort(expected.astype(np.float64), axis=1).tolist())
    assert len(vertices) == 4  # the two equal corners are one
    nothing = crop(mesh, np.array([[50.0, 0, 0]]))
    assert (len(nothing[0]), len(nothing[1])) == (0, 0)


def test_meshes_are_turned_upright(tmp_path: Path) -> None:
    write_mesh(tmp_path, "Area_1", "v 1 2 3\nv 4 5 6\nv 7 8 10\nf 1 2 3\n")
    mesh = load_area_mesh(tmp_path, "Area_1")
    assert mesh is not None
    assert mesh.vertices.tolist() == [[1, -3, 2], [4, -6, 5], [7, -10, 8]]
    assert load_area_mesh(tmp_path, "Area_2") is None
    assert cache_area_mesh(tmp_path, "Area_2", tmp_path / "cache") is None


def test_the_halves_of_area_5_are_joined(tmp_path: Path) -> None:
    write_mesh(tmp_path, "area_5a")
    with pytest.raises(DataError, match=r"area_5b.3d.rgb\.obj is missing"):
        load_area_mesh(tmp_path, "Area_5")
    write_mesh(tmp_path, "Area_5b", "v 1 2 3\nv 1 2 4\nv 1 3 3\nf 1 2 3\n")
    mesh = load_area_mesh(tmp_path, "Area_5")
    assert mesh is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]
    x, y, z = -3 - 4.09703582, 2, 1 - 6.22617759  # in the mesh's axes
    np.testing.assert_allclose(mesh.vertices[3], [x, -z, y], atol=1e-6)


def test_workers_map_the_same_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_mesh(tmp_path / "meshes", "area_1")
    folder = cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache")
    assert folder == tmp_path / "cache" / "Area_1"
    mapped, read = open_area_mesh(folder), load_area_mesh(tmp_path / "meshes", "Area_1")
    assert read is not None
    assert isinstance(mapped.vertices, np.memmap)
    assert (mapped.vertices.tolist(), mapped.faces.tolist()) == (read.vertices.tolist(), read.faces.tolist())

    def not_again(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(mesh_normals, "read_obj", not_again)
        assert cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache") == folder
    file.write_text(OBJ.replace("v 1 0 0", "v 10 0 0"))
    cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache")
    assert open_area_mesh(folder).vertices[1].tolist() == [10, 0, 0]


def test_a_folder_without_meshes_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be read"):
        load_area_mesh(tmp_path / "nowhere", "Area_1")
    with pytest.raises(DataError, match="holds no mesh"):
        open_area_mesh(tmp_path)


@pytest.mark.parametrize("name", ["vertices.f32", "faces.i32"])
def test_a_damaged_cache(tmp_path: Path, name: str) -> None:
    write_mesh(tmp_path / "meshes", "area_1")
    folder = cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / name)  # so that every message has the name
    assert folder is not None
    file = folder / name
    point = np.zeros((1, 3))
    assert assert_survives(lambda: crop(open_area_mesh(folder), point), file, file.read_bytes(), count=200) > 20
