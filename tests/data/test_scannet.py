from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gcbench.data import scannet
from gcbench.errors import DataError
from tests.data.raw_folders import sheet, write_mesh, write_scene, write_table

SEGMENTS = "scene0000_00_vh_clean_2.0.010000.segs.json"
GROUPS = "scene0000_00.aggregation.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path)
    return write_scene(tmp_path, "scene0000_00", labelled=True)


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


def test_a_scene_without_labels(tmp_path: Path) -> None:
    scene, notes = scannet.read_scene(write_scene(tmp_path, "scene0707_00", labelled=False), None)
    assert (scene.segments, scene.instance, notes) == ({}, None, [])


def test_normals_weigh_by_area_as_a_loop_does() -> None:
    points, faces = sheet()
    points = points.astype(np.float32)
    total = np.zeros((len(points) + 1, 3))
    for a, b, c in faces:
        total[[a, b, c]] += np.cross(points[b].astype(float) - points[a], points[c].astype(float) - points[a]) / 2
    lone = np.concatenate([points, [[9, 9, 9]]]).astype(np.float32)  # one vertex without a face
    normal = scannet.vertex_normals(lone, faces.astype(np.int32))
    expected = total[:-1] / np.linalg.norm(total[:-1], axis=1, keepdims=True)
    np.testing.assert_allclose(normal[:-1], expected, atol=1e-6)  # float32 result of float64 sums
    assert normal[-1].tolist() == [0, 0, 0]
    assert (normal[:-1, 2] > 0).all()  # the sheet faces up


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_mesh_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "mesh.ply"
    write_mesh(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"mesh\.ply is not a whole"):
        scannet.read_mesh(file)


def test_a_mesh_of_other_content_is_named(tmp_path: Path) -> None:
    for content in (b"", b"no mesh", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"):
        (tmp_path / "mesh.ply").write_bytes(content)
        with pytest.raises(DataError, match=r"mesh\.ply"):
            scannet.read_mesh(tmp_path / "mesh.ply")
    file = tmp_path / "nan.ply"
    write_mesh(file)
    content = file.read_bytes()
    start = content.index(b"end_header\n") + len(b"end_header\n")
    file.write_bytes(content[:start] + np.float32(np.nan).tobytes() + content[start + 4 :])
    with pytest.raises(DataError, match="not finite"):
        scannet.read_mesh(file)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (SEGMENTS, json.dumps({"segIndices": [1] * 143}), "143 entries, the mesh has 144"),
        (SEGMENTS, '{"segIndices": [1, 1', "truncated"),
        (SEGMENTS, json.dumps({"other": 1}), "segIndices"),
        (GROUPS, json.dumps({"segGroups": [{"id": 1, "label": "floor"}]}), "id, label and segments"),
        (GROUPS, "", "truncated"),
    ],
)
def test_a_broken_json_is_named(
    folder: Path, categories: scannet.Categories, name: str, content: str, expected: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=name) as caught:
        scannet.read_scene(folder, categories)
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", [SEGMENTS, GROUPS, "scene0000_00_vh_clean_2.ply"])
def test_a_missing_file_is_named(folder: Path, categories: scannet.Categories, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        scannet.read_scene(folder, categories)


def test_a_broken_label_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    with pytest.raises(DataError, match=r"table.tsv is missing.*--meta-dir"):
        scannet.read_categories(file)
    file.write_text("id\traw_category\n1\twall\n")
    with pytest.raises(DataError, match="no column 'nyu40id'"):
        scannet.read_categories(file)
    file.write_text("id\traw_category\tnyu40id\n1\twall\tone\n")
    with pytest.raises(DataError, match="line 2"):
        scannet.read_categories(file)


def test_the_first_row_of_a_category_counts(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    file.write_text("id\traw_category\tnyu40id\n7\tobject\t40\n9\tobject\t39\n")
    assert scannet.read_categories(file) == {"object": {"scannet20": 40, "scannet200": 7}}
