from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData

from gcbench.errors import DataError, InputError
from gcbench.reporting.scene_view import (
    SceneView,
    distinct_colors,
    even_sample,
    frustums,
    modes,
    point_colors,
    render_scene,
    scene_layers,
    write_scene_ply,
)
from gcbench.structures import LabelSet, Scene

SMALL = LabelSet("small", "made", ("wall", "floor", "chair"), (1, 2, 5))
FINE = LabelSet("fine", "made", tuple(f"class {k}" for k in range(300)), tuple(range(300)))


def make_view(count: int = 500, seed: int = 0, name: str = "scene0000_00") -> SceneView:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normal[:3] = 0
    small = rng.integers(-1, 2, count).astype(np.int16)  # no chair
    scene = Scene(
        name,
        (rng.uniform(-4, 6, (count, 3)) + np.array([100, -50, 0])).astype(np.float32),
        rng.integers(0, 256, (count, 3)).astype(np.uint8),
        normal,
        {"small": small, "fine": rng.integers(-1, 300, count).astype(np.int16)},
        np.where(small < 0, -1, rng.integers(3, 400, count)).astype(np.int32),
    )
    palette = np.array([[1, 2, 3], [40, 50, 60], [70, 80, 90]], np.uint8)
    return SceneView(scene, {"small": SMALL, "fine": FINE}, {"small": palette}, "made, train", synthetic=True)


class Page(HTMLParser):
    """Scripts, text and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self.feed(html)
        self.close()
        self.content: dict[str, Any] = json.loads(self.scripts[0][1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "script":
            self._script = dict(attrs)
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[-1] = (self._script, self.scripts[-1][1] + data)

    def array(self, packed: dict[str, str]) -> np.ndarray[Any, Any]:
        return np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), packed["type"])

    def coord(self) -> np.ndarray[Any, Any]:
        steps = self.array(self.content["position"]).reshape(-1, 3)
        return steps * self.content["step"] + self.content["low"]


def test_the_page_holds_the_scene() -> None:
    view = make_view()
    scene, page = view.scene, Page(render_scene(view, show="small"))
    assert page.content["count"] == len(scene)
    assert np.abs(page.coord() - scene.coord).max() <= 0.51 * page.content["step"] < 1e-4
    np.testing.assert_array_equal(page.array(page.content["color"]).reshape(-1, 3), scene.color)
    normal = page.array(page.content["normal"]).reshape(-1, 3)
    assert normal.dtype == np.int8 and np.abs(normal / 127 - scene.normal).max() < 0.004
    assert page.content["show"] == "small"
    assert [layer["name"] for layer in page.content["layers"]] == ["small", "fine", "instances"]
    for layer, values in zip(page.content["layers"], [*scene.segments.values(), scene.instance], strict=True):
        ids = np.array([entry["id"] for entry in layer["entries"]])
        codes = page.array(layer["codes"])
        assert codes.dtype == (np.uint8 if len(ids) <= 256 else np.uint16)
        np.testing.assert_array_equal(ids[codes], values)
        np.testing.assert_array_equal(
            [entry["points"] for entry in layer["entries"]], [(values == k).sum() for k in ids]
        )
    small = page.content["layers"][0]["entries"]
    assert {entry["name"]: entry["color"] for entry in small} == {
        "wall": [1, 2, 3],
        "floor": [40, 50, 60],
        "unlabelled": [140, 140, 140],
    }
    assert small[-1]["name"] == "unlabelled"
    assert "Synthetic room" in page.text and "made, train" in page.text and "500 points" in page.text


def test_the_page_asks_for_nothing_from_anywhere() -> None:
    html = render_scene(make_view())
    page = Page(html)
    assert not [found for found in page.attributes if found[1] in ("src", "srcset", "action", "data", "poster")]
    assert [value for _, name, value in page.attributes if name == "href"] == ["data:,"]
    own = html.replace(page.scripts[0][1], "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(", own)


def test_only_the_own_script_may_run() -> None:
    page = Page(render_scene(make_view()))
    assert [attributes.get("type") for attributes, _ in page.scripts] == ["application/json", None]
    policy = next(
        value or "" for _, name, value in page.attributes if name == "content" and "default-src" in str(value)
    )
    digest = base64.b64encode(hashlib.sha256(page.scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_script_finds_every_element_it_asks_for() -> None:
    page = Page(render_scene(replace(make_view(), cameras=np.zeros((1, 5, 3)))))
    ids = {value for _, name, value in page.attributes if name == "id"}
    script = page.scripts[1][1]
    assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= ids
    read = set(re.findall(r"scene\.(\w+)", script))
    assert read <= set(page.content), read - set(page.content)


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&\"'\u2028"


def test_hostile_names_stay_text() -> None:
    hostile = LabelSet("small", "made", (HOSTILE, "floor", "chair"), (1, 2, 5))
    view = make_view(name=HOSTILE)
    view = replace(view, label_sets={"small": hostile, "fine": FINE}, source=HOSTILE)
    page = Page(render_scene(view))
    assert len(page.scripts) == 2
    assert not [found for found in page.attributes if found[0] == "img" or found[1].startswith("on")]
    assert page.content["name"] == HOSTILE
    assert HOSTILE in [entry["name"] for entry in page.content["layers"][0]["entries"]]
    assert page.text.count(HOSTILE) == 3  # title, heading, source


def test_a_large_scene_is_thinned_evenly_and_says_so() -> None:
    view = make_view(5000)
    page = Page(render_scene(view, max_points=1000, seed=3))
    kept = even_sample(5000, 1000, 3)
    assert page.content["count"] == 1000
    np.testing.assert_allclose(page.coord(), view.scene.coord[kept], atol=page.content["step"])
    np.testing.assert_array_equal(page.array(page.content["color"]).reshape(-1, 3), view.scene.color[kept])
    assert "Showing 1,000 of them" in page.text and "5,000 points" in page.text
    assert sum(entry["points"] for entry in page.content["layers"][0]["entries"]) == 5000
    assert render_scene(view, max_points=1000, seed=3) == render_scene(view, max_points=1000, seed=3)
    assert "thinned evenly" not in Page(render_scene(view, max_points=5000)).text


@given(count=st.integers(1, 3000), wanted=st.integers(1, 3000), seed=st.integers(0, 5))
def test_thinning_takes_one_of_each_run(count: int, wanted: int, seed: int) -> None:
    kept = even_sample(count, wanted, seed)
    assert len(kept) == min(count, wanted)
    assert (np.diff(kept) > 0).all() and kept[0] >= 0 and kept[-1] < count
    assert (np.diff(kept) <= 2 * -(-count // min(count, wanted))).all()


def test_150_thousand_points_stay_small() -> None:
    assert len(render_scene(make_view(150_000))) < 3.5e6  # noise: nothing in it can be compressed


def test_a_scene_without_labels_has_colours_and_normals() -> None:
    view = make_view()
    bare = SceneView(replace(view.scene, segments={}, instance=None))
    page = Page(render_scene(bare))
    assert page.content["layers"] == [] and modes(bare) == ("colour", "normals")
    assert "Synthetic" not in page.text
    with pytest.raises(InputError, match="has no instances to show"):
        render_scene(bare, show="instances")


def test_one_point_is_a_scene() -> None:
    page = Page(render_scene(make_view(1)))
    assert page.content["count"] == 1 and page.content["step"] > 0 and page.content["spacing"] > 0


def test_instances_are_called_by_their_commonest_class() -> None:
    view = make_view(6)
    scene = replace(
        view.scene,
        segments={"small": np.array([2, 2, 0, 1, 1, -1], np.int16)},
        instance=np.array([7, 7, 7, 9, 9, -1], np.int32),
    )
    layer = scene_layers(replace(view, scene=scene))[-1]
    assert layer.names == ("chair 7", "floor 9", "no instance")
    assert layer.points.tolist() == [3, 2, 1] and layer.codes.tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("wrong", [-2, 3])
def test_a_class_index_out_of_range_is_refused(wrong: int) -> None:
    view = make_view()
    scene = replace(view.scene, segments={"small": np.full(500, wrong, np.int16)})
    with pytest.raises(DataError, match=r"scene0000_00.*'small' run from"):
        render_scene(replace(view, scene=scene))


def test_scenes_that_cannot_be_shown_are_refused() -> None:
    view = make_view()
    coord = view.scene.coord.copy()
    coord[4, 1] = np.nan
    empty = Scene("empty", *(np.zeros((0, 3), kind) for kind in (np.float32, np.uint8, np.float32)))
    for scene in (replace(view.scene, coord=coord), empty):
        with pytest.raises(DataError, match="has no points, or a coordinate"):
            render_scene(replace(view, scene=scene))
    with pytest.raises(DataError, match="'fine', which is no known label set"):
        render_scene(replace(view, label_sets={"small": SMALL}))


def test_normals_that_are_not_finite_count_as_undefined() -> None:
    view = make_view()
    normal = view.scene.normal.copy()
    normal[9] = np.nan
    page = Page(render_scene(replace(view, scene=replace(view.scene, normal=normal))))
    assert page.array(page.content["normal"]).reshape(-1, 3)[9].tolist() == [0, 0, 0]


def test_frustums_end_where_the_image_does() -> None:
    pose = np.diag([1.0, -1.0, -1.0, 1.0])  # looks down
    pose[:3, 3] = 1, 2, 3
    intrinsic = np.array([[100.0, 0, 80], [0, 50, 60], [0, 0, 1]])
    found = frustums(pose[None], intrinsic[None], np.array([[160, 120]]), depth=0.5)
    expected = [[1, 2, 3], [0.6, 2.6, 2.5], [1.4, 2.6, 2.5], [1.4, 1.4, 2.5], [0.6, 1.4, 2.5]]
    np.testing.assert_allclose(found, [expected])
    assert frustums(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros((0, 2), int)).shape == (0, 5, 3)


def test_cameras_without_a_place_are_left_out() -> None:
    view = make_view()
    cameras = np.ones((3, 5, 3)) * 4
    cameras[1] = np.inf
    page = Page(render_scene(replace(view, cameras=cameras)))
    low = np.array(page.content["low"])
    np.testing.assert_allclose(np.array(page.content["cameras"]).reshape(-1, 5, 3) + low, cameras[[0, 2]], atol=1e-3)
    assert Page(render_scene(view)).content["cameras"] == []


@given(st.sets(st.integers(0, 2**31 - 1), max_size=30), st.integers(0, 3))
def test_colours_depend_on_the_id_alone(ids: set[int], seed: int) -> None:
    several = np.array(sorted(ids), np.int64)
    colors = distinct_colors(several, seed)
    assert colors.shape == (len(ids), 3) and colors.dtype == np.uint8
    for number, color in zip(several, colors, strict=True):
        np.testing.assert_array_equal(distinct_colors(np.array([number]), seed)[0], color)


def test_neighbouring_ids_are_told_apart() -> None:
    colors = distinct_colors(np.arange(40)).astype(int)
    distance = np.abs(colors[:, None] - colors).sum(axis=2) + 1000 * np.eye(40, dtype=int)
    assert distance.min() > 12 and np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 100


def read_columns(file: Path, *names: str) -> np.ndarray[Any, Any]:
    vertex = PlyData.read(str(file))["vertex"].data
    return np.stack([vertex[name] for name in names], axis=1)


@pytest.mark.parametrize("show", ["colour", "normals", "small", "fine", "instances"])
def test_ply_round_trip(tmp_path: Path, show: str) -> None:
    view, file = make_view(), tmp_path / "scene.ply"
    write_scene_ply(file, view, show=show)
    scene = view.scene
    assert file.read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\n")
    np.testing.assert_array_equal(read_columns(file, "x", "y", "z"), scene.coord)
    np.testing.assert_array_equal(read_columns(file, "nx", "ny", "nz"), scene.normal)
    np.testing.assert_array_equal(read_columns(file, "red", "green", "blue"), point_colors(view, show))
    np.testing.assert_array_equal(read_columns(file, "label_small")[:, 0], scene.segments["small"])
    np.testing.assert_array_equal(read_columns(file, "label_fine")[:, 0], scene.segments["fine"])
    np.testing.assert_array_equal(read_columns(file, "instance")[:, 0], scene.instance)
    assert {"label_small is a class index, -1 is unlabelled", "label_small 2 chair"} <= set(
        PlyData.read(str(file)).comments
    )
    assert [path.name for path in tmp_path.iterdir()] == ["scene.ply"]


def test_colours_of_the_modes() -> None:
    view = make_view(5)
    normal = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0], [0, 0, 0], [0, 0, -1]], np.float32)
    segments = {"small": np.array([0, 1, 2, -1, 0], np.int16)}
    view = replace(view, scene=replace(view.scene, normal=normal, segments=segments))
    assert point_colors(view, "normals")[[0, 1, 3]].tolist() == [[128, 128, 255], [255, 128, 128], [140, 140, 140]]
    assert point_colors(view, "small").tolist() == [[1, 2, 3], [40, 50, 60], [70, 80, 90], [140] * 3, [1, 2, 3]]
    assert point_colors(view, "instances").shape == (5, 3)


def test_names_cannot_write_into_the_header_of_a_ply(tmp_path: Path) -> None:
    view = make_view(name="a\nend_header\nö" + "x" * 500)
    write_scene_ply(tmp_path / "scene.ply", view)
    assert len(PlyData.read(str(tmp_path / "scene.ply"))["vertex"].data) == 500


def test_a_refused_mode_leaves_the_old_ply(tmp_path: Path) -> None:
    file = tmp_path / "scene.ply"
    file.write_text("old")
    with pytest.raises(InputError, match=r"has no scannet20 to show. It has: colour, normals, small, fine, instances"):
        write_scene_ply(file, make_view(), show="scannet20")
    assert file.read_text() == "old"
