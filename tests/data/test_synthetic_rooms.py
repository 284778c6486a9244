"""Synthetic rooms: the raw layouts, their inner consistency, determinism, taking up again, and errors."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData
from scipy import ndimage

from gcbench.data.rooms.bvh import build_hierarchy, trace
from gcbench.data.rooms.camera import look
from gcbench.data.rooms.catalogue import load_catalogue
from gcbench.data.rooms.furnishing import furnish
from gcbench.data.synthetic_rooms import generate_rooms
from gcbench.errors import DataError, InputError

FRAMES, SIZE = 4, (80, 60)
ROOM = {"layout": "scannet", "scenes": 2, "val": 1, "seed": 5, "frames": FRAMES, "frame_size": SIZE}


@pytest.fixture(scope="module")
def scannet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "scannet"
    generate_rooms(out, workers=1, **ROOM)
    return out


@pytest.fixture(scope="module")
def s3dis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "s3dis"
    generate_rooms(out, layout="s3dis", scenes=5, val=1, seed=5, workers=1)
    return out


def fingerprints(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_scan(out: Path, name: str) -> tuple[PlyData, np.ndarray, list[dict[str, object]]]:
    scan = out / "scans" / name
    segments = json.loads((scan / f"{name}_vh_clean_2.0.010000.segs.json").read_text())
    groups = json.loads((scan / f"{name}.aggregation.json").read_text())
    assert groups["segmentsFile"].endswith(f"{name}_vh_clean_2.0.010000.segs.json")
    return PlyData.read(str(scan / f"{name}_vh_clean_2.ply")), np.array(segments["segIndices"]), groups["segGroups"]


def label_table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "scannetv2-labels.combined.tsv").open(newline="") as stream:
        return {row["raw_category"]: row for row in csv.DictReader(stream, delimiter="\t")}


def coordinates(ply: PlyData) -> np.ndarray:
    return np.stack([ply["vertex"][axis] for axis in "xyz"], axis=1).astype(np.float64)


def test_bytes_do_not_depend_on_workers(scannet: Path, tmp_path: Path) -> None:
    generate_rooms(tmp_path / "again", workers=2, **ROOM)
    assert fingerprints(tmp_path / "again") == fingerprints(scannet)


def test_another_seed_gives_another_room(scannet: Path, tmp_path: Path) -> None:
    generate_rooms(tmp_path / "other", workers=1, **{**ROOM, "scenes": 1, "val": 0, "seed": 6})
    name = "scans/scene0000_00/scene0000_00_vh_clean_2.ply"
    assert (tmp_path / "other" / name).read_bytes() != (scannet / name).read_bytes()


def test_scannet_files(scannet: Path) -> None:
    assert (scannet / "scannetv2_train.txt").read_text().split() == ["scene0000_00", "scene0001_00"]
    assert (scannet / "scannetv2_val.txt").read_text().split() == ["scene0002_00"]
    assert (scannet / "scannetv2_test.txt").read_text() == ""
    marker = json.loads((scannet / "SYNTHETIC.json").read_text())
    assert marker["rooms"] == 3 and marker["seed"] == 5 and marker["layout"] == "scannet"
    assert not list(scannet.rglob(".*"))
    ply, segments, _ = read_scan(scannet, "scene0000_00")
    assert ply.byte_order == "<"
    assert [p.name for p in ply["vertex"].properties] == ["x", "y", "z", "red", "green", "blue", "alpha"]
    faces = np.stack(ply["face"]["vertex_indices"])
    assert faces.shape[1] == 3 and faces.min() == 0 and faces.max() == len(ply["vertex"]) - 1
    assert len(segments) == len(ply["vertex"])
    assert 15_000 < len(segments) < 90_000


@pytest.mark.parametrize("name", ["scene0000_00", "scene0001_00", "scene0002_00"])
def test_annotation_is_consistent(scannet: Path, name: str) -> None:
    _, segments, groups = read_scan(scannet, name)
    assert [group["id"] for group in groups] == list(range(len(groups))) == [group["objectId"] for group in groups]
    claimed = [segment for group in groups for segment in group["segments"]]
    assert len(claimed) == len(set(claimed)) and set(claimed) <= set(segments.tolist())
    share = np.isin(segments, claimed).mean()
    assert 0.9 < share < 1.0  # a little stays unannotated
    table = label_table(scannet)
    assert {group["label"] for group in groups} <= set(table)


def test_label_table_has_true_ids_and_counts(scannet: Path) -> None:
    table = label_table(scannet)
    known = {"wall": (1, 1), "office chair": (10, 5), "couch": (6, 6), "coffee table": (24, 7), "bed": (11, 4),
             "refrigerator": (27, 24), "shower curtain": (55, 28), "bathtub": (42, 36), "trash can": (56, 39),
             "monitor": (19, 40), "kitchen cabinet": (29, 3), "books": (22, 23)}  # fmt: skip
    assert {name: (int(table[name]["id"]), int(table[name]["nyu40id"])) for name in known} == known
    groups = [group["label"] for k in range(3) for group in read_scan(scannet, f"scene{k:04d}_00")[2]]
    assert {name: int(row["count"]) for name, row in table.items() if int(row["count"])} == {
        name: groups.count(name) for name in set(groups)
    }


def test_axis_alignment_turns_walls_to_the_axes(scannet: Path) -> None:
    scan = scannet / "scans" / "scene0001_00"
    lines = dict(line.split(" = ") for line in (scan / "scene0001_00.txt").read_text().splitlines())
    matrix = np.array(lines["axisAlignment"].split(), np.float64).reshape(4, 4)
    ply, segments, groups = read_scan(scannet, "scene0001_00")
    points = coordinates(ply) @ matrix[:3, :3].T + matrix[:3, 3]
    for group in groups:
        if group["label"] == "wall":
            wall = points[np.isin(segments, group["segments"])]
            assert min(np.ptp(wall[:, 0]), np.ptp(wall[:, 1])) < 0.05  # flat to the scanner's noise


def test_depth_agrees_with_mesh(scannet: Path) -> None:
    """Vertices projected into the frames lie where the depth image says, but for those behind something."""
    points = coordinates(read_scan(scannet, "scene0001_00")[0])
    folder = scannet / "rgbd" / "scene0001_00"
    lens = np.loadtxt(folder / "intrinsic" / "intrinsic_depth.txt")
    errors = []
    for number in range(0, 10 * FRAMES, 10):
        depth = np.asarray(Image.open(folder / "depth" / f"{number}.png"))
        color = np.asarray(Image.open(folder / "color" / f"{number}.jpg"))
        assert depth.dtype == np.uint16 and depth.shape == (SIZE[1], SIZE[0]) and color.shape == (*depth.shape, 3)
        assert (depth > 0).mean() > 0.6
        pose = np.loadtxt(folder / "pose" / f"{number}.txt")
        camera = (points - pose[:3, 3]) @ pose[:3, :3]
        camera = camera[camera[:, 2] > 0.3]
        x, y = (camera[:, :2] / camera[:, 2:] * np.diag(lens)[:2] + lens[:2, 2]).T
        inside = (x >= 1) & (y >= 1) & (x < SIZE[0] - 2) & (y < SIZE[1] - 2)
        at = np.stack([y[inside], x[inside]])
        near = [depth[tuple(np.floor(at).astype(int) + np.array(step)[:, None])] for step in np.ndindex(2, 2)]
        smooth = (np.min(near, axis=0) > 0) & (np.ptp(np.array(near, np.int64), axis=0) < 150)
        measured = ndimage.map_coordinates(depth.astype(float), at, order=1) / 1000.0
        difference = (camera[inside, 2] - measured)[smooth]
        errors.append(difference[difference < 0.1])
    assert np.median(np.abs(np.concatenate(errors))) < 0.008  # noise of scanner and camera is about 4 mm each
    assert sum(len(part) for part in errors) > 2000


def test_cameras_stand_in_free_space(scannet: Path) -> None:
    for name in ("scene0000_00", "scene0001_00", "scene0002_00"):
        points = coordinates(read_scan(scannet, name)[0])
        floor = np.percentile(points[:, 2], 1)
        for number in range(0, 10 * FRAMES, 10):
            pose = np.loadtxt(scannet / "rgbd" / name / "pose" / f"{number}.txt")
            np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-5)
            assert 1.2 < pose[2, 3] - floor < 1.8
            assert np.linalg.norm(points - pose[:3, 3], axis=1).min() > 0.1


def test_photo_agrees_with_vertex_colours(scannet: Path) -> None:
    """Mean colour of a frame's pixels and of the vertices that fall on them are alike (exposure differs by 6 %)."""
    ply = read_scan(scannet, "scene0002_00")[0]
    points, folder = coordinates(ply), scannet / "rgbd" / "scene0002_00"
    colors = np.stack([ply["vertex"][channel] for channel in ("red", "green", "blue")], axis=1).astype(float)
    lens = np.loadtxt(folder / "intrinsic" / "intrinsic_color.txt")
    pairs = []
    for number in range(0, 10 * FRAMES, 10):
        pose = np.loadtxt(folder / "pose" / f"{number}.txt")
        depth = np.asarray(Image.open(folder / "depth" / f"{number}.png")) / 1000.0
        photo = np.asarray(Image.open(folder / "color" / f"{number}.jpg")).astype(float)
        camera = (points - pose[:3, 3]) @ pose[:3, :3]
        z = np.maximum(camera[:, 2], 0.1)
        x, y = np.rint(camera[:, :2] / z[:, None] * np.diag(lens)[:2] + lens[:2, 2]).astype(int).T
        ok = (camera[:, 2] > 0.3) & (x >= 0) & (y >= 0) & (x < SIZE[0]) & (y < SIZE[1])
        ok[ok] = np.abs(depth[y[ok], x[ok]] - camera[ok, 2]) < 0.04
        pairs.append(np.stack([photo[y[ok], x[ok]], colors[ok]], axis=1))
    both = np.concatenate(pairs)
    assert np.median(np.abs(both[:, 0] - both[:, 1])) < 12
    assert np.corrcoef(both[:, 0].ravel(), both[:, 1].ravel())[0, 1] > 0.85


def test_taken_up_again_after_a_stop(scannet: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(scannet, out)
    marker = json.loads((out / "SYNTHETIC.json").read_text())
    (out / "SYNTHETIC.json").rename(out / ".synthetic_rooms.json")
    shutil.rmtree(out / "scans" / "scene0001_00")
    (out / "scans" / ".scene0001_00.partial").mkdir()
    kept = (out / "scans" / "scene0000_00" / "scene0000_00.txt").stat().st_mtime_ns
    names: list[str] = []
    generate_rooms(out, workers=1, on_room=names.append, **ROOM)
    assert sorted(names) == ["scene0000_00", "scene0001_00", "scene0002_00"]
    assert (out / "scans" / "scene0000_00" / "scene0000_00.txt").stat().st_mtime_ns == kept
    assert json.loads((out / "SYNTHETIC.json").read_text()) == marker
    assert fingerprints(out) == fingerprints(scannet)


def test_other_arguments_are_refused(scannet: Path, tmp_path: Path) -> None:
    before = fingerprints(scannet)
    with pytest.raises(DataError, match="seed = 5"):
        generate_rooms(scannet, workers=1, **{**ROOM, "seed": 6})
    assert fingerprints(scannet) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        generate_rooms(tmp_path, workers=1, **ROOM)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "kitti"}, "scannet, s3dis"),
        ({"scenes": 0}, "scenes = 0"),
        ({"frame_size": (8, 60)}, "width = 8"),
        ({"layout": "s3dis", "scenes": 3}, "six areas"),
    ],
)
def test_wrong_arguments(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        generate_rooms(tmp_path / "out", **{**ROOM, **change})
    assert not (tmp_path / "out").exists()


def test_broken_catalogue_names_file_and_key(tmp_path: Path) -> None:
    from gcbench.resources import resource_path

    for path in resource_path("recipes", "rooms").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "furniture.yaml"
    path.write_text(path.read_text().replace("shape: desk", "shape: dais"))
    with pytest.raises(DataError, match=r"furniture\.yaml.*desk.*no shape named 'dais'"):
        load_catalogue(tmp_path)


def test_s3dis_files(s3dis: Path) -> None:
    rooms = sorted(path for path in s3dis.glob("Area_*/*") if path.is_dir())
    assert [room.parent.name for room in rooms] == [f"Area_{k}" for k in range(1, 7)]
    classes = set()
    for room in rooms:
        whole = np.loadtxt(room / f"{room.name}.txt")
        parts = {path.stem: np.loadtxt(path, ndmin=2) for path in (room / "Annotations").glob("*.txt")}
        classes |= {stem.rsplit("_", 1)[0] for stem in parts}
        assert whole.shape[1] == 6 and 15_000 < len(whole) < 90_000
        assert sum(len(part) for part in parts.values()) == len(whole)
        assert whole[:, 3:].min() >= 0 and whole[:, 3:].max() <= 255
        assert abs(np.median(parts["floor_1"][:, 2])) < 0.02
        assert 2.3 < np.median(parts["ceiling_1"][:, 2]) < 3.0
    assert classes == {"ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
                       "bookcase", "board", "clutter"}  # fmt: skip


def test_every_class_is_frequent_enough() -> None:
    """ROOMS.md: 40 training rooms hold at least 8 and 16 further ones at least 4 objects of each of the 20 classes."""
    book = load_catalogue()
    nyu40 = {row.raw_category: row.nyu40class for row in book.labels.rows}
    benchmark = {"wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
                 "counter", "desk", "curtain", "refridgerator", "shower curtain", "toilet", "sink", "bathtub",
                 "otherfurniture"} - {"wall", "floor"}  # fmt: skip
    counts = {name: [0, 0] for name in benchmark}
    labels: set[str] = set()
    for number in range(56):
        kind = book.rooms.types[book.rooms.scannet[number % len(book.rooms.scannet)]]
        room = furnish(kind, book, np.random.default_rng([0, 0, number]), 0.5)
        for thing in room.placed:
            labels.add(thing.item.label or "")
            name = nyu40.get(thing.item.label or "")
            if name in counts:
                counts[name][number >= 40] += 1
    assert {name: pair for name, pair in counts.items() if pair[0] < 8 or pair[1] < 4} == {}
    assert len({row.id for row in book.labels.rows if row.raw_category in labels}) >= 50


def test_trace_finds_the_nearest_triangle() -> None:
    """The tree against every triangle in turn."""
    rng = np.random.default_rng(0)
    corners = (rng.uniform(-1, 1, (300, 1, 3)) + rng.normal(0, 0.15, (300, 3, 3))).astype(np.float32)
    tree, stack = build_hierarchy(corners), np.zeros(128, np.int32)
    hits = 0
    for _ in range(200):
        origin, toward = rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3)
        ray = tuple(toward - origin)
        found = trace(tree.triangles, tree.boxes, tree.links, stack, tuple(origin), ray, 10.0, False)
        v0, v1, v2 = corners.astype(np.float64).transpose(1, 0, 2)
        system = np.stack([v1 - v0, v2 - v0, np.broadcast_to(-np.array(ray), v0.shape)], axis=2)
        u, v, t = np.linalg.solve(system, (origin - v0)[:, :, None])[:, :, 0].T
        best = t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-5)].min(initial=np.inf)
        if best == np.inf:
            assert found[1] == -1
        else:
            hits += 1
            assert found[0] == pytest.approx(best, abs=1e-4)
    assert hits > 50


def test_look_is_right_handed_and_level() -> None:
    matrix = look(np.array([1.0, 2.0, 1.5]), np.pi / 2, 0.0, 0.0)
    np.testing.assert_allclose(matrix[:3, :3], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    assert np.linalg.det(look(np.zeros(3), 0.7, -0.4, 0.1)[:3, :3]) == pytest.approx(1.0)


def test_a_room_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gcbench.data.rooms import writers

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers, "write_scannet_scan", full)
    with pytest.raises(OSError, match="No space"):
        generate_rooms(tmp_path / "rooms", layout="scannet", scenes=1, val=0, seed=0, workers=1, frames=2)
    left = {
        path.relative_to(tmp_path / "rooms").as_posix() for path in (tmp_path / "rooms").rglob("*") if path.is_file()
    }
    assert not any("scene0000_00" in name for name in left)
    assert "SYNTHETIC.json" not in left
