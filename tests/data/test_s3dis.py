from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gcbench.data import s3dis
from gcbench.data.labels import load_label_set
from gcbench.data.mesh_normals import cache_area_mesh
from gcbench.errors import DataError, MissingExtraError
from tests.data.raw_folders import write_room

ESTIMATED = "estimated: PCA over the 16 nearest points, towards the room's centre"


def write_table(folder: Path, name: str, points: object, color: object = (10, 20, 30)) -> None:
    """Write one annotation file of points [n, 3]."""
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    table = np.atleast_2d(np.asarray(points, np.float64))
    rows = [" ".join(f"{value:g}" for value in (*point, *np.asarray(color))) for point in table]
    (folder / "Annotations" / name).write_text("\n".join(rows) + "\n")


def write_box_mesh(folder: Path, low: tuple[float, float, float], high: tuple[float, float, float]) -> None:
    """Write a box given in the points' axes, its faces looking inwards, as an OBJ file in the mesh's axes."""
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    lines = [f"v {x} {z} {-y}" for x, y, z in corners]  # (x, y, z) of a mesh stands at (x, -z, y)
    quads = [(1, 5, 7, 3), (2, 4, 8, 6), (1, 2, 6, 5), (3, 7, 8, 4), (1, 3, 4, 2), (5, 6, 8, 7)]
    lines += ["f " + " ".join(f"{corner}/1" for corner in quad) for quad in quads]
    (folder / "3d").mkdir(parents=True)
    (folder / "3d" / "rgb.obj").write_text("\n".join(lines) + "\n")


def test_a_room(tmp_path: Path) -> None:
    room = s3dis.read_room(write_room(tmp_path, "Area_3/office_1"), neighbours=16)
    classes = load_label_set("s3dis").classes
    scene = room.scene
    assert scene.name == "Area_3/office_1"
    assert scene.instance is not None
    names = [classes[index] for index in scene.segments["s3dis"]]
    assert names == ["chair"] * 160 + ["floor"] * 300 + ["clutter"] * 40
    assert np.bincount(scene.instance).tolist() == [80, 80, 300, 40]
    assert (room.notes, room.normals) == (["taken as clutter: stairs"], ESTIMATED)
    assert (scene.coord[160:460, 2] == 0).all()


def test_files_count_in_the_order_of_their_names_as_strings(tmp_path: Path) -> None:
    room = tmp_path / "Area_5" / "office_36"
    names = ["wall_10.txt", "wall_2.txt", "wall_3 (1).txt", "wall_3.txt", "Wall_1.txt", "wall.txt"]
    for number, name in enumerate(names):
        write_table(room, name, [number, 0, 0])
    reading = s3dis.read_room(room, neighbours=1)
    assert reading.scene.coord[:, 0].tolist() == [4, 5, 0, 1, 2, 3]
    clutter, wall = (load_label_set("s3dis").classes.index(name) for name in ("clutter", "wall"))
    assert reading.scene.segments["s3dis"].tolist() == [clutter, clutter, wall, wall, wall, wall]
    assert any("wall_3 (1).txt: looks like a copy of wall_3.txt" in note for note in reading.notes)


def test_colours_lose_their_fraction(tmp_path: Path) -> None:
    write_table(tmp_path / "Area_1" / "office_1", "wall_1.txt", [1, 2, 3], (0.999, 254.5, 255.999))
    assert s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=1).scene.color.tolist() == [[0, 254, 255]]


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (None, [[0, 0, 1], [4, 2, 1]]),
        (180.0, [[4, 2, 1], [0, 0, 1]]),
        (90.0, [[1, 3, 1], [3, -1, 1]]),
    ],
)
def test_a_room_turns_about_its_centre(tmp_path: Path, angle: float | None, expected: list[list[float]]) -> None:
    write_table(tmp_path / "Area_1" / "office_1", "wall_1.txt", [[0, 0, 1], [4, 2, 1]])
    coord = s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=1, angle=angle).scene.coord
    np.testing.assert_allclose(coord, expected, atol=1e-6)


def test_no_angle_leaves_the_bits_and_an_angle_of_0_turns_as_the_reference(tmp_path: Path) -> None:
    points = np.concatenate([np.zeros((1, 3)), np.random.default_rng(0).uniform(-9, 9, (300, 3)).round(3)])
    write_table(tmp_path / "Area_1" / "office_1", "wall_1.txt", points)
    same, turned = (
        s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=8, angle=angle).scene.coord
        for angle in (None, 0.0)
    )
    assert same.tobytes() == points.astype(np.float32).tobytes()
    angle = (2 - 0 / 180) * np.pi
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    center = (np.max(points, axis=0) + np.min(points, axis=0)) / 2
    assert turned.tobytes() == ((points - center) @ matrix.T + center).astype(np.float32).tobytes()


@pytest.mark.parametrize("angle", [0.0, 90.0, 37.0])
def test_normals_from_the_mesh_turn_with_the_room(tmp_path: Path, angle: float) -> None:
    write_box_mesh(tmp_path / "meshes" / "area_1", (0, 0, 0), (4, 3, 2.5))
    rng = np.random.default_rng(0)
    points, inward = [], []
    for axis, size in enumerate((4, 3, 2.5)):
        for side in (0, size):
            wall = rng.uniform(0.3, 0.7, (20, 3)) * (4, 3, 2.5)
            wall[:, axis] = side
            points.append(wall)
            inward.append(np.tile(np.eye(3)[axis] * (1 if side == 0 else -1), (20, 1)))
    write_table(tmp_path / "Area_1" / "office_1", "clutter_1.txt", np.concatenate(points))
    mesh = cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache")
    room = s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=16, angle=angle, mesh=mesh)
    assert room.normals == "2D-3D-S mesh: the closest face's"
    assert room.scene.normal.dtype == np.float32
    expected = np.concatenate(inward) @ s3dis.rotation(angle).T
    np.testing.assert_allclose(room.scene.normal, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shift", "note"), [((50, 0, 0), "no faces in this room's place"), ((0.9, 0.9, 0.5), "does not fit this room")]
)
def test_normals_are_estimated_where_the_mesh_is_of_another_place(
    tmp_path: Path, shift: tuple[float, float, float], note: str
) -> None:
    write_box_mesh(tmp_path / "meshes" / "area_1", (1, 1, 1), (2, 2, 2))
    points = np.random.default_rng(0).uniform(0, 3, (200, 3)) + shift
    write_table(tmp_path / "Area_1" / "office_1", "wall_1.txt", points)
    mesh = cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache")
    room = s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=16, angle=0.0, mesh=mesh)
    assert room.normals == ESTIMATED
    assert any(note in text for text in room.notes)
    np.testing.assert_allclose(np.linalg.norm(room.scene.normal, axis=1), 1, atol=1e-6)


def test_meshes_do_not_go_with_the_aligned_release(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="office_1 is of the aligned release"):
        s3dis.read_room(write_room(tmp_path, "Area_1/office_1"), neighbours=16, mesh=tmp_path)


def test_without_libigl_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "igl", None)
    write_box_mesh(tmp_path / "meshes" / "area_1", (0, 0, 0), (3, 3, 1))
    mesh = cache_area_mesh(tmp_path / "meshes", "Area_1", tmp_path / "cache")
    with pytest.raises(MissingExtraError, match=r"gcbench\[meshes\]"):
        s3dis.read_room(write_room(tmp_path, "Area_1/office_1"), neighbours=16, angle=0.0, mesh=mesh)


def test_a_room_without_annotations_is_named(tmp_path: Path) -> None:
    room = tmp_path / "Area_1" / "office_1"
    room.mkdir(parents=True)
    with pytest.raises(DataError, match=r"office_1.Annotations cannot be read"):
        s3dis.read_room(room, neighbours=16)
    (room / "Annotations").mkdir()
    with pytest.raises(DataError, match=r"office_1.Annotations has no"):
        s3dis.read_room(room, neighbours=16)


def test_normals_of_a_box_point_inwards() -> None:
    rng = np.random.default_rng(0)
    points, inward = [], []
    for axis in range(3):
        for side in (0.0, 3.0):
            wall = rng.uniform(0.3, 2.7, (2000, 3))
            wall[:, axis] = side
            points.append(wall)
            inward.append(np.eye(3)[axis] * (1 if side == 0 else -1))
    normal = s3dis.estimate_normals(np.concatenate(points).astype(np.float32), neighbours=16)
    aligned = np.einsum("ni,ni->n", normal, np.repeat(inward, 2000, axis=0))
    assert aligned.min() > 0.999  # the walls are exact planes, at least 0.3 m from each other
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
