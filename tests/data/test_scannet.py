from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plyfile import PlyData, PlyElement

from gcbench.data import scannet
from gcbench.errors import DataError
from gcbench.structures import Float32Array, Int32Array
from tests.data.mutations import assert_survives
from tests.data.raw_folders import sheet, write_mesh, write_scene, write_table

NAME = "scene0000_00"
MESH = f"{NAME}_vh_clean_2.ply"
SEGMENTS = f"{NAME}_vh_clean_2.0.010000.segs.json"
GROUPS = f"{NAME}.aggregation.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path)
    return write_scene(tmp_path, NAME, labelled=True)


@pytest.fixture
def categories(tmp_path: Path) -> scannet.Categories:
    return scannet.read_categories(write_table(tmp_path))


def test_a_labelled_scene(folder: Path, categories: scannet.Categories) -> None:
    scene, notes = scannet.read_scene(folder, categories)
    of_segment = np.arange(144) // 12
    # floor is class 1 of ScanNet20 and 2 of ScanNet200; chair 4 and 1; nyu40id 40 and id 5000 are no class
    expected20 = np.select([of_segment < 7, of_segment < 9], [1, 4], -1)
    expected200 = np.select([of_segment < 7, of_segment < 9], [2, 1], -1)
    assert scene.segments["scannet20"].tolist() == expected20.tolist()
    assert scene.segments["scannet200"].tolist() == expected200.tolist()
    # segment 7 is in two groups: the later one, chair, has it; segment 11 is in none
    expected = np.select([of_segment < 7, of_segment < 9, of_segment == 9, of_segment == 10], [0, 1, 2, 3], -1)
    assert scene.instance is not None
    assert scene.instance.tolist() == expected.tolist()
    assert notes == [f"raw_category 'no such thing' is not in {scannet.TSV_NAME}: 12 points unlabelled"]
    assert scene.coord.tolist() == sheet()[0].astype(np.float32).tolist()
    types = [values.dtype.name for values in (scene.coord, scene.color, scene.normal, scene.instance)]
    assert types == ["float32", "uint8", "float32", "int32"]
    assert {values.dtype.name for values in scene.segments.values()} == {"int16"}


def test_a_scene_without_labels(tmp_path: Path) -> None:
    scene, notes = scannet.read_scene(write_scene(tmp_path, "scene0707_00", labelled=False), None)
    assert (scene.segments, scene.instance, notes) == ({}, None, [])


def slow_normals(coord: Float32Array, faces: Int32Array) -> Float32Array:
    """Face by face: what `vertex_normals` must equal to the last bit."""
    tiny = np.float32(1e-8)
    total = np.zeros_like(coord)
    for face in faces:
        a, b, c = coord[face]
        x, y, z = np.cross(b - a, c - a)
        length = np.sqrt(x * x + y * y + z * z) + tiny
        total[face] += np.stack([x, y, z]) / length * (length * np.float32(0.5))
    return np.stack([row / (np.sqrt(row[0] ** 2 + row[1] ** 2 + row[2] ** 2) + tiny) for row in total])


def test_normals_equal_a_loop_over_the_faces() -> None:
    points, faces = sheet()
    coord = np.concatenate([points, points[:40] * 1e-4, [[9, 9, 9]]]).astype(np.float32)  # small faces, a lone vertex
    corners = np.concatenate([faces, faces[:60, [0, 2, 1]], faces[:30] + 100, faces[:9, [0, 0, 1]]])
    corners = corners[(corners < len(coord)).all(axis=1)].astype(np.int32)  # some cancel, some have a vertex twice
    normal = scannet.vertex_normals(coord, corners)
    np.testing.assert_array_equal(normal, slow_normals(coord, corners))
    assert normal.dtype == np.float32
    assert normal[-1].tolist() == [0, 0, 0]
    lengths = np.linalg.norm(scannet.vertex_normals(points.astype(np.float32), faces.astype(np.int32)), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)  # areas of 0.03 m^2 beside 1e-8


@settings(max_examples=60, deadline=None)
@given(
    coord=hnp.arrays(np.float32, (7, 3), elements=st.floats(-100, 100, width=32)),
    faces=hnp.arrays(np.int32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.integers(0, 6)),
)
def test_normals_of_any_triangles_equal_the_loop(coord: Float32Array, faces: Int32Array) -> None:
    np.testing.assert_array_equal(scannet.vertex_normals(coord, faces), slow_normals(coord, faces))


@settings(max_examples=40, deadline=None)
@given(
    segments=st.lists(st.sampled_from([0, 3, 5, 2**40, -1]), min_size=144, max_size=144),
    groups=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from(["floor", "chair", "odd thing", "unheard of"]),
            st.lists(st.sampled_from([0, 3, 5, 7, 2**40, -1, -(2**40)]), max_size=4),
        ),
        max_size=5,
    ),
)
def test_labels_equal_a_loop_over_the_groups(segments: list[int], groups: list[tuple[int, str, list[int]]]) -> None:
    classes = {"floor": (1, 2), "chair": (4, 1)}
    expected = [np.full(144, -1) for _ in range(3)]
    for number, label, parts in groups:
        inside = np.array([segment in parts for segment in segments])
        for values, value in zip(expected, (*classes.get(label, (-1, -1)), number), strict=True):
            values[inside] = value
    with tempfile.TemporaryDirectory() as name:
        folder = write_scene(Path(name), NAME, labelled=True)
        write_labels(folder, segments, [{"id": n, "label": label, "segments": parts} for n, label, parts in groups])
        scene, notes = scannet.read_scene(folder, scannet.read_categories(write_table(Path(name))))
    for ours, wanted in zip((*scene.segments.values(), scene.instance), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), wanted)
    absent = {part for _, _, parts in groups for part in parts} - set(segments)
    assert [note for note in notes if "names" in note] == (
        [f"{GROUPS} names {len(absent)} segments that {SEGMENTS} does not have"] if absent else []
    )


def write_labels(folder: Path, segments: list[int], groups: list[dict[str, Any]]) -> None:
    (folder / SEGMENTS).write_text(json.dumps({"segIndices": segments}))
    (folder / GROUPS).write_text(json.dumps({"segGroups": groups}))


def test_an_instance_id_of_two_groups_is_noted(folder: Path, categories: scannet.Categories) -> None:
    group = {"id": 5, "label": "chair"}
    write_labels(folder, [1] * 72 + [2] * 72, [{**group, "segments": [1]}, {**group, "segments": [2]}])
    scene, notes = scannet.read_scene(folder, categories)
    assert set(np.asarray(scene.instance).tolist()) == {5}
    assert notes == ["1 instance ids stand for more than one group each"]


def as_written(file: Path, **changes: Any) -> bytes:
    """The mesh in another spelling: `text`, `byte_order`, `vertex` (a function of its array), `key` of the faces."""
    ply = PlyData.read(str(file))
    vertex = changes.get("vertex", np.copy)(ply["vertex"].data)
    key = changes.get("key", "vertex_indices")
    face = np.zeros(len(ply["face"].data), [(key, "i4", (3,))])
    face[key] = np.stack(ply["face"].data["vertex_indices"])
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    out = io.BytesIO()
    PlyData(elements, text=changes.get("text", False), byte_order=changes.get("byte_order", "<")).write(out)
    return out.getvalue()


def other_order(vertex: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Alpha first, then colours, an extra property, and z y x as doubles."""
    fields = [("alpha", "u1"), ("blue", "u1"), ("green", "u1"), ("red", "u1"), ("label", "u2")]
    other = np.zeros(len(vertex), [*fields, *((axis, "f8") for axis in "zyx")])
    for name in ("red", "green", "blue", "x", "y", "z"):
        other[name] = vertex[name]
    return other


@pytest.mark.parametrize(
    "changes",
    [{"text": True}, {"byte_order": ">"}, {"key": "vertex_index"}, {"vertex": other_order}],
    ids=["ascii", "big-endian", "vertex_index", "other order"],
)
def test_a_mesh_in_another_spelling(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "mesh.ply"
    write_mesh(file)
    expected = scannet.read_mesh(file)
    file.write_bytes(as_written(file, **changes))
    mesh = scannet.read_mesh(file)
    for name in ("coord", "color", "faces"):
        ours, wanted = getattr(mesh, name), getattr(expected, name)
        np.testing.assert_array_equal(ours, wanted)
        assert ours.dtype == wanted.dtype
    assert mesh.coord.dtype.isnative


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_mesh_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "mesh.ply"
    write_mesh(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"mesh\.ply is not a whole"):
        scannet.read_mesh(file)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"vertex 144", b"vertex 99999999999999999999", "99999999999999999999 x vertex"),
        (b"vertex 144", b"vertex 4294967296", "4294967296 x vertex"),
        (b"vertex 144", b"vertex -1", "-1 x vertex"),
        (b"vertex 144", b"vertex 145", "not a whole"),
        (b"vertex 144", b"vertex 0", "not a whole"),
        (b"face 242", b"face 0", "no faces"),
        (b"face 242", b"face 1e9", "not a whole"),
        (b"end_header\n", b"element hull 9\nproperty list int int parts\nend_header\n", "a list 'parts'"),
        (b"list uchar int vertex_indices", b"list uchar float vertex_indices", "whole numbers"),
        (b"uchar red", b"char red", "8 bits"),
        (b"element face", b"comment end_header\nelement face", None),
        (b"ply\n", b"plz\n", "no PLY header"),
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_a_header_of_other_content_is_named(
    tmp_path: Path, old: bytes, new: bytes, expected: str | None, text: bool
) -> None:
    file = tmp_path / "mesh.ply"
    write_mesh(file)
    content = as_written(file, text=text)
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    if expected is None:
        assert len(scannet.read_mesh(file).faces) == 242
        return
    with pytest.raises(DataError, match=r"mesh\.ply") as caught:
        scannet.read_mesh(file)
    if not text or "list" in expected or "elements" in expected:  # ascii rows say it in other words
        assert expected in str(caught.value)


def test_vertices_of_no_use_are_named(folder: Path) -> None:
    file = folder / MESH
    whole = file.read_bytes()
    file.write_bytes(as_written(file, vertex=lambda vertex: vertex[:0]))
    with pytest.raises(DataError, match=rf"{MESH} has no vertices"):
        scannet.read_scene(folder, None)
    file.write_bytes(whole)
    content = file.read_bytes()
    start = content.index(b"end_header\n") + len(b"end_header\n")
    for value, expected in ((np.nan, "not finite"), (np.inf, "not finite"), (1e30, "so far apart")):
        file.write_bytes(content[:start] + np.float32(value).tobytes() + content[start + 4 :])
        with pytest.raises(DataError, match=MESH) as caught:
            scannet.read_scene(folder, None)
        assert expected in str(caught.value)
    file.write_bytes(content[:-4] + np.int32(144).tobytes())
    with pytest.raises(DataError, match=rf"{MESH}: a face names vertex 144 of 144"):
        scannet.read_scene(folder, None)
    file.write_bytes(content[:-4] + np.int32(-2).tobytes())
    with pytest.raises(DataError, match=rf"{MESH}: a face names vertex -2 of 144"):
        scannet.read_scene(folder, None)


def one_group(**changes: Any) -> str:
    return json.dumps({"segGroups": [{"id": 1, "label": "floor", "segments": [0]} | changes]})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (SEGMENTS, json.dumps({"segIndices": [1] * 143}), f"143 entries, .*{MESH} has 144 vertices"),
        (SEGMENTS, '{"segIndices": [1, 1', "truncated"),
        (SEGMENTS, json.dumps({"other": 1}), "no list 'segIndices'"),
        (SEGMENTS, json.dumps({"segIndices": {"1": 1}}), "no list 'segIndices'"),
        (SEGMENTS, json.dumps({"segIndices": [1.0] * 144}), "of whole numbers"),
        (SEGMENTS, json.dumps({"segIndices": [float("nan")] * 144}), "of whole numbers"),
        (SEGMENTS, json.dumps({"segIndices": [2**63] * 144}), "of whole numbers"),
        (SEGMENTS, json.dumps({"segIndices": [[1]] * 144}), "of whole numbers"),
        (SEGMENTS, json.dumps({"segIndices": ["1"] * 144}), "of whole numbers"),
        (SEGMENTS, "[" * 100_000, "not JSON"),
        (SEGMENTS, '{"segIndices": [' + "9" * 5000 + "]}", "segs.json"),
        (SEGMENTS, "[1]", "no list 'segIndices'"),
        (GROUPS, json.dumps({"segGroups": [{"id": 1, "label": "floor"}]}), "id, label and segments"),
        (GROUPS, json.dumps({"segGroups": {}}), "id, label and segments"),
        (GROUPS, json.dumps({"segGroups": "none"}), "id, label and segments"),
        (GROUPS, json.dumps({"segGroups": [7]}), "id, label and segments"),
        (GROUPS, one_group(label=7), "a label of int"),
        (GROUPS, one_group(label=None), "a label of NoneType"),
        (GROUPS, one_group(id=1.5), "an id of float"),
        (GROUPS, one_group(id=True), "an id of bool"),
        (GROUPS, one_group(id=2**31), "id 2147483648"),
        (GROUPS, one_group(id=-1), "id -1"),
        (GROUPS, one_group(segments=7), "int, not a list"),
        (GROUPS, one_group(segments=[0.5]), "id, label and segments"),
        (GROUPS, "", "truncated"),
    ],
)
def test_a_broken_json_is_named(
    folder: Path, categories: scannet.Categories, name: str, content: str, expected: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=rf"(?s){name}.*") as caught:
        scannet.read_scene(folder, categories)
    assert caught.match(expected)


def test_a_byte_order_mark_is_no_damage(folder: Path, tmp_path: Path, categories: scannet.Categories) -> None:
    expected, _ = scannet.read_scene(folder, categories)
    table = tmp_path / scannet.TSV_NAME
    for file in (folder / SEGMENTS, folder / GROUPS, table):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    scene, _ = scannet.read_scene(folder, scannet.read_categories(table))
    np.testing.assert_array_equal(scene.segments["scannet200"], expected.segments["scannet200"])


@pytest.mark.parametrize("name", [SEGMENTS, GROUPS, MESH, scannet.TSV_NAME])
def test_a_file_that_is_missing_or_not_readable_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    def read() -> None:
        scannet.read_scene(folder, scannet.read_categories(tmp_path / scannet.TSV_NAME))

    file = (tmp_path if name == scannet.TSV_NAME else folder) / name
    file.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        read()
    file.mkdir()
    with pytest.raises(DataError, match=rf"{name} cannot be read \(Is a directory\)"):
        read()
    file.rmdir()
    file.symlink_to(file)
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        read()


HEADER = "id\traw_category\tnyu40id\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no column 'raw_category'"),
        ("id\traw_category\n1\twall\n", "no column 'nyu40id'"),
        (HEADER, "no rows"),
        (HEADER + "1\twall\tone\n", "line 2"),
        (HEADER + "1\twall\t1\n2\tfloor\n", "line 3"),
        (HEADER + "1\t" + "wall" * 50_000 + "\t1\n", "line 2"),
        (HEADER + '1\t"wall\t1\n2\tfloor\t2\n', "line 3"),
        (HEADER + "1\twall\udcff\t1\n", "can't decode"),
        (HEADER + "9" * 5000 + "\twall\t1\n", "line 2"),
    ],
)
def test_a_broken_label_table_is_named(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "table.tsv"
    with pytest.raises(DataError, match=r"table.tsv is missing.*--meta-dir"):
        scannet.read_categories(file)
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"table\.tsv.*{expected}"):
        scannet.read_categories(file)


def test_the_label_table_as_pandas_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    file.write_text(HEADER + '7\tobject\t40\n9\tobject\t39\n\n2\t"a ""fine"" chair"\t5\n3\tdoor "x"\t8\n')
    assert scannet.read_categories(file) == {
        "object": {"scannet20": 40, "scannet200": 7},  # the first row of a category counts
        'a "fine" chair': {"scannet20": 5, "scannet200": 2},
        'door "x"': {"scannet20": 8, "scannet200": 3},
    }


@pytest.mark.filterwarnings("ignore:loadtxt")  # plyfile on a face without corners, before it refuses it
@pytest.mark.parametrize("name", [MESH, "ascii", SEGMENTS, GROUPS, scannet.TSV_NAME])
def test_damaged_files_are_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name if name == scannet.TSV_NAME else folder / (MESH if name == "ascii" else name)
    content = as_written(file, text=True) if name == "ascii" else file.read_bytes()
    refused = assert_survives(
        lambda: scannet.read_scene(folder, scannet.read_categories(tmp_path / scannet.TSV_NAME)), file, content
    )
    assert refused > 100
