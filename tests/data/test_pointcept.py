"""Pointcept's folders: imported, in place or not, and exported again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcbench.data.npy_files import map_npy, write_npy
from gcbench.data.pointcept import open_scene
from gcbench.data.pointcept_transfer import export_pointcept, import_pointcept
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError
from tests.data.mutations import assert_survives

POINTS = 40
SCANNET = {"train": ["scene0000_00", "scene0001_00"], "val": ["scene0002_00"], "test": ["scene0707_00"]}
ROOMS = {"Area_1": ["office_1", "office_2"], "Area_5": ["hallway_1"]}


def write_folder(folder: Path, layout: str, *, seed: int = 0, labelled: bool = True, points: int = POINTS) -> Path:
    """One scene as Pointcept's scripts leave it; ScanNet's arrays lie column by column."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "coord": rng.uniform(0, 5, (points, 3)).astype(np.float32),
        "color": rng.integers(0, 256, (points, 3)).astype(np.uint8),
        "normal": rng.uniform(-1, 1, (points, 3)).astype(np.float32),
    }
    for stem, values in arrays.items():
        np.save(folder / f"{stem}.npy", np.asfortranarray(values) if layout == "scannet" else values)
    if labelled and layout == "scannet":
        for stem, classes in (("segment20", 20), ("segment200", 200), ("instance", 9)):
            np.save(folder / f"{stem}.npy", rng.integers(-1, classes, points))
    elif labelled:
        for stem, classes in (("segment", 13), ("instance", 9)):
            np.save(folder / f"{stem}.npy", rng.integers(-1, classes, (points, 1)).astype(np.int16))
    return folder


def write_root(root: Path, layout: str) -> Path:
    parts = SCANNET if layout == "scannet" else ROOMS
    for number, (part, name) in enumerate((part, name) for part, names in parts.items() for name in names):
        write_folder(root / part / name, layout, seed=number, labelled=part != "test", points=POINTS + number)
    return root


@pytest.fixture(params=["scannet", "s3dis"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_import_holds_what_the_folders_hold(tmp_path: Path, layout: str) -> None:
    root = write_root(tmp_path / "root", layout)
    dataset = import_pointcept(root, tmp_path / "out")
    assert dataset.layout == layout
    if layout == "scannet":
        assert dataset.splits == {split: tuple(names) for split, names in SCANNET.items()}
        assert dataset.label_sets == ("scannet20", "scannet200")
        assert (dataset.scene("scene0707_00").segments, dataset.scene("scene0707_00").instance) == ({}, None)
    else:
        assert dataset.splits == {area: tuple(f"{area}/{room}" for room in rooms) for area, rooms in ROOMS.items()}
        assert dataset.label_sets == ("s3dis",)
    name, folder = ("scene0001_00", "train/scene0001_00") if layout == "scannet" else ("Area_1/office_2",) * 2
    scene = dataset.scene(name)
    for stem in ("coord", "color", "normal"):
        expected = np.load(root / folder / f"{stem}.npy")
        assert getattr(scene, stem).dtype == expected.dtype
        assert np.array_equal(getattr(scene, stem), expected)
    stems = {"scannet20": "segment20", "scannet200": "segment200"} if layout == "scannet" else {"s3dis": "segment"}
    for label_set, stem in stems.items():
        assert scene.segments[label_set].dtype == np.int16
        assert np.array_equal(scene.segments[label_set], np.load(root / folder / f"{stem}.npy").reshape(-1))
    assert scene.instance is not None
    assert scene.instance.dtype == np.int32
    assert np.array_equal(scene.instance, np.load(root / folder / "instance.npy").reshape(-1))


def test_in_place_is_the_same_dataset_without_a_copy(tmp_path: Path, layout: str) -> None:
    root = write_root(tmp_path / "root", layout)
    copied = import_pointcept(root, tmp_path / "copied", workers=2)
    placed = import_pointcept(root, tmp_path / "placed", in_place=True)
    assert placed.fingerprint == copied.fingerprint
    assert [path.name for path in (tmp_path / "placed").iterdir()] == [MANIFEST]
    assert (placed.in_place, copied.in_place) == (root, None)
    for name in placed.manifest["scenes"]:
        one, other = placed.scene(name), copied.scene(name)
        placed.verify(name)
        copied.verify(name)
        assert one.name == other.name
        for field in ("coord", "color", "normal", "instance"):
            values, expected = getattr(one, field), getattr(other, field)
            assert (values is None) == (expected is None)
            if values is not None:
                assert (values.dtype, values.tobytes()) == (expected.dtype, expected.tobytes())
                assert values.flags.c_contiguous


def test_arrays_in_place_are_views_of_the_files(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "s3dis")
    scene = import_pointcept(root, tmp_path / "out", in_place=True).scene("Area_1/office_1")
    for values in (scene.coord, scene.color, scene.normal, scene.segments["s3dis"]):
        assert not values.flags.owndata
        assert not values.flags.writeable
    folder = root / "Area_1" / "office_1"
    with (folder / "coord.npy").open("rb+") as stream:  # what is written to the file shows in the array
        stream.seek(-4, 2)
        stream.write(np.float32(7).tobytes())
    assert scene.coord[-1, 2] == 7


def test_a_round_trip_keeps_the_fingerprint(tmp_path: Path, layout: str) -> None:
    first = import_pointcept(write_root(tmp_path / "root", layout), tmp_path / "first")
    exported = export_pointcept(first, tmp_path / "exported", workers=2)
    assert set(exported.written) == set(first.manifest["scenes"])
    assert (exported.kept, exported.failed, exported.notes) == ((), {}, ())
    assert import_pointcept(tmp_path / "exported", tmp_path / "second").fingerprint == first.fingerprint
    placed = import_pointcept(tmp_path / "exported", tmp_path / "third", in_place=True)
    assert export_pointcept(placed, tmp_path / "again").written == exported.written
    assert import_pointcept(tmp_path / "again", tmp_path / "fourth").fingerprint == first.fingerprint


def test_an_export_has_the_types_of_pointcepts_scripts(tmp_path: Path, layout: str) -> None:
    root = write_root(tmp_path / "root", layout)
    export_pointcept(import_pointcept(root, tmp_path / "out"), tmp_path / "exported")
    files = sorted(file.relative_to(root) for file in root.rglob("*.npy"))
    assert sorted(file.relative_to(tmp_path / "exported") for file in (tmp_path / "exported").rglob("*.*")) == files
    for file in files:
        expected, values = np.load(root / file), np.load(tmp_path / "exported" / file)
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(values, expected)


def test_an_export_goes_on_and_never_writes_over(tmp_path: Path) -> None:
    dataset, out = import_pointcept(write_root(tmp_path / "root", "scannet"), tmp_path / "data"), tmp_path / "out"
    export_pointcept(dataset, out)
    shutil.rmtree(out / "train" / "scene0000_00")
    half = out / "train" / ".scene0000_00.unfinished"  # as a killed export leaves it
    half.mkdir()
    (half / "coord.npy").write_bytes(b"half")
    again = export_pointcept(dataset, out)
    assert (again.written, len(again.kept)) == (("scene0000_00",), 3)
    assert not half.exists()
    file = out / "val" / "scene0002_00" / "color.npy"
    np.save(file, np.zeros_like(np.load(file)))
    with pytest.raises(DataError, match=r"scene0002_00/color\.npy is there already, with other content"):
        export_pointcept(dataset, out)
    assert not np.load(file).any()
    file.unlink()
    left = export_pointcept(dataset, out, keep_going=True)
    assert list(left.failed) == ["scene0002_00"]
    assert "without color.npy" in left.failed["scene0002_00"]
    assert len(left.kept) == 3


def test_a_failed_export_leaves_no_half_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = import_pointcept(write_root(tmp_path / "root", "scannet"), tmp_path / "data"), tmp_path / "out"
    calls: list[Path] = []

    def failing(file: Path, values: Any) -> None:
        calls.append(file)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        write_npy(file, values)

    monkeypatch.setattr("gcbench.data.pointcept_transfer.write_npy", failing)
    with pytest.raises(OSError, match="Input/output"):
        export_pointcept(dataset, out)
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_instances_above_int16_cannot_be_exported_for_s3dis(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "s3dis")
    np.save(root / "Area_1" / "office_2" / "instance.npy", np.arange(POINTS + 1)[:, None] + 32740)
    dataset = import_pointcept(root, tmp_path / "data")
    assert dataset.scene("Area_1/office_2").instance.max() > 2**15  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"Area_1/office_2: instance 32780 does not fit.*int16"):
        export_pointcept(dataset, tmp_path / "out")


def test_generated_rooms_stay_marked(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    (root / "SYNTHETIC.json").write_text(json.dumps({"seed": 3}))
    dataset = import_pointcept(root, tmp_path / "data")
    export_pointcept(dataset, tmp_path / "out")
    again = import_pointcept(tmp_path / "out", tmp_path / "again")
    assert again.synthetic
    assert again.manifest["synthetic_rooms"] == {"seed": 3}


def test_an_import_goes_on_where_it_stopped_and_sees_changes(tmp_path: Path) -> None:
    root, out = write_root(tmp_path / "root", "scannet"), tmp_path / "out"
    whole = import_pointcept(root, out)
    files = {file: file.stat().st_mtime_ns for file in (out / "scenes").iterdir()}
    content = {file: file.read_bytes() for file in files}
    (out / MANIFEST).unlink()
    lost, broken, *kept = sorted(files)
    lost.unlink()
    broken.write_bytes(b"half")
    assert import_pointcept(root, out).manifest == whole.manifest
    assert {file: file.read_bytes() for file in files} == content
    assert all(file.stat().st_mtime_ns == files[file] for file in kept)
    labels = root / "val" / "scene0002_00" / "segment20.npy"
    np.save(labels, np.roll(np.load(labels), 1))  # the same size
    assert import_pointcept(root, out).fingerprint != whole.fingerprint


def convert(stem: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / f"{stem}.npy", change(np.load(folder / f"{stem}.npy")))


@pytest.mark.parametrize(
    "change",
    [
        convert("coord", lambda values: values.astype(np.float64)),
        convert("coord", lambda values: values.astype(">f4")),
        convert("color", lambda values: values.astype(np.float32)),
        convert("color", lambda values: values.astype(np.int64)),
        convert("normal", lambda values: values.astype(np.float64)),
        convert("segment20", lambda values: values.astype(np.int32)),
        convert("segment20", lambda values: values.astype(np.int16)[:, None]),
        convert("instance", lambda values: values.astype(np.int32)),
    ],
)
def test_types_in_the_wild_give_the_same_scene(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = write_root(tmp_path / "root", "scannet")
    expected = import_pointcept(root, tmp_path / "out").fingerprint
    change(root / "train" / "scene0000_00")
    assert import_pointcept(root, tmp_path / "out", in_place=True).fingerprint == expected


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        ("coord", lambda v: np.where(np.arange(len(v))[:, None] == 7, np.nan, v), "point 7 .*not finite"),
        ("coord", lambda v: np.full(v.shape, 1e200), "point 0 .*not finite"),
        ("coord", lambda v: v[:0], "no values"),
        ("coord", lambda v: v[:, :2], r"shape \[40, 2\]"),
        ("coord", lambda v: v.astype(np.float16), "float16"),
        ("coord", lambda v: v.astype(complex), "complex"),
        ("color", lambda v: v[:-1], "39 points, coord.npy has 40"),
        ("color", lambda v: v.astype(np.float32) + 0.5, "whole numbers"),
        ("color", lambda v: v.astype(np.int32) - 1000, "whole numbers"),
        ("normal", lambda v: np.full_like(v, np.inf), "not finite"),
        ("normal", lambda v: v.astype(object), "object"),
        ("segment20", lambda v: np.where(np.arange(len(v)) == 3, 20, v), r"point 3 has label 20; .*0 \.\. 19"),
        ("segment20", lambda v: np.full_like(v, -2), "label -2"),
        ("segment20", lambda v: v[1:], r"shape \[39\]"),
        ("segment20", lambda v: v.astype(np.float32), "float32"),
        ("segment200", lambda v: np.full_like(v, 70000), "label 70000"),
        ("instance", lambda v: np.full_like(v, 2**40), "label 1099511627776"),
        ("instance", lambda v: np.full_like(v, -5), "label -5"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_wrong_values_name_the_file(
    tmp_path: Path, stem: str, change: Callable[[Any], Any], message: str, in_place: bool
) -> None:
    folder = write_folder(tmp_path / "root" / "train" / "scene0000_00", "scannet")
    np.save(folder / f"{stem}.npy", change(np.load(folder / f"{stem}.npy")), allow_pickle=True)
    with pytest.raises(DataError, match=rf"scene0000_00/({stem}|color)\.npy.*{message}"):
        import_pointcept(tmp_path / "root", tmp_path / "out", in_place=in_place)
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("stem", ["color", "normal", "segment20", "segment200", "instance"])
def test_a_missing_file_is_named(tmp_path: Path, stem: str) -> None:
    root = write_root(tmp_path / "root", "scannet")
    (root / "train" / "scene0001_00" / f"{stem}.npy").unlink()
    with pytest.raises(DataError, match=rf"scene0001_00/{stem}\.npy is missing"):
        import_pointcept(root, tmp_path / "out")
    dataset = import_pointcept(root, tmp_path / "out", keep_going=True)
    assert dataset.scene_names("train") == ("scene0000_00",)
    assert f"{stem}.npy is missing" in dataset.manifest["failed"]["scene0001_00"]


def test_folders_with_twenty_classes_alone(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    for file in root.rglob("segment200.npy"):
        file.unlink()
    dataset = import_pointcept(root, tmp_path / "out")
    assert dataset.label_sets == ("scannet20",)
    for file in root.rglob("segment20.npy"):
        file.unlink()
    with pytest.raises(DataError, match=r"No labelled scene .* has segment20\.npy or segment200\.npy"):
        import_pointcept(root, tmp_path / "out")


def test_rooms_without_normals_get_estimated_ones(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "s3dis")
    (root / "Area_1" / "office_2" / "normal.npy").unlink()
    dataset = import_pointcept(root, tmp_path / "out")
    entries = dataset.manifest["scenes"]
    assert "estimated" in entries["Area_1/office_2"]["normals"]
    assert "normals" not in entries["Area_1/office_1"]
    length = np.linalg.norm(dataset.scene("Area_1/office_2").normal, axis=1)
    assert np.allclose(length, 1, atol=1e-5)
    with pytest.raises(DataError, match=r"normal\.npy is missing.*without --in-place"):
        import_pointcept(root, tmp_path / "placed", in_place=True)


def test_a_moved_root_says_so(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    fingerprint = import_pointcept(root, tmp_path / "out", in_place=True).fingerprint
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{root}, and there is no such folder.*--in-place"):
        PreparedDataset.open(tmp_path / "out")
    again = import_pointcept(tmp_path / "elsewhere", tmp_path / "out", in_place=True)
    assert again.fingerprint == fingerprint
    shutil.rmtree(tmp_path / "elsewhere" / "train" / "scene0000_00")
    with pytest.raises(DataError, match=r"scene0000_00/coord\.npy is missing"):
        again.scene("scene0000_00")


def test_a_change_after_an_import_in_place_is_seen(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    dataset = import_pointcept(root, tmp_path / "out", in_place=True)
    folder = root / "train" / "scene0000_00"
    convert("segment20", lambda values: np.roll(values, 1))(folder)
    dataset.verify("scene0001_00")
    with pytest.raises(DataError, match=r"scene0000_00 is not what dataset\.json says"):
        dataset.verify("scene0000_00")
    shutil.rmtree(folder)
    write_folder(folder, "scannet", points=POINTS + 9)
    with pytest.raises(DataError, match="49 points"):
        dataset.scene("scene0000_00")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    cases: dict[str, tuple[list[str], str]] = {
        "empty": ([], "neither train"),
        "raw_scannet": (["scans/scene0000_00/x.ply"], "data prepare scannet"),
        "raw_s3dis": (["Area_1/office_1/Annotations/wall_1.txt"], "data prepare s3dis"),
        "both": (["train/a/coord.npy", "Area_1/b/coord.npy"], "both train and Area_1"),
        "old": (["train/scene0000_00.pth", "val/scene0001_00.pth"], r"2 \.pth files.*pickles.*data prepare"),
        "deeper": (["train/scene/room/coord.npy"], r"No scene below .* has a coord\.npy"),
    }
    for name, (files, message) in cases.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(b"")
        with pytest.raises(DataError, match=message):
            import_pointcept(tmp_path / name, tmp_path / "out")
    with pytest.raises(DataError, match="no folder"):
        import_pointcept(tmp_path / "nowhere", tmp_path / "out")
    root = write_root(tmp_path / "root", "scannet")
    with pytest.raises(DataError, match=r"out lies in .*root"):
        import_pointcept(root, root / "out")
    assert not (tmp_path / "out").exists()


def test_a_scene_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    write_folder(root / "val" / "scene0000_00", "scannet")
    with pytest.raises(DataError, match="two scenes each: scene0000_00"):
        import_pointcept(root, tmp_path / "out")


def test_old_files_beside_folders_are_noted(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", "scannet")
    (root / "train" / "scene0000_00.pth").write_bytes(b"")
    assert "1 .pth files" in import_pointcept(root, tmp_path / "out").manifest["notes"][0]


def test_datasets_of_another_layout_are_not_exported(tmp_path: Path) -> None:
    dataset = PreparedDataset(tmp_path, {"layout": "outdoor", "splits": {}, "scenes": {}})
    with pytest.raises(DataError, match="'outdoor'"):
        export_pointcept(dataset, tmp_path / "out")
    with pytest.raises(DataError, match="itself"):
        export_pointcept(PreparedDataset(tmp_path, {**dataset.manifest, "layout": "s3dis"}), tmp_path)


@pytest.mark.parametrize("stem", ["coord", "segment20"])
def test_damaged_arrays_are_refused_or_read(tmp_path: Path, stem: str) -> None:
    folder = write_folder(tmp_path / "scene0000_00", "scannet")
    file = folder / f"{stem}.npy"
    refused = assert_survives(lambda: open_scene(folder, "scene0000_00", "scannet"), file, file.read_bytes(), count=300)
    assert refused > 150


def test_arrays_shorter_or_longer_than_their_header_says(tmp_path: Path) -> None:
    file = tmp_path / "values.npy"
    np.save(file, np.arange(12.0))
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"\0", content[:64], b"", b"\x93NUMPY"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"values\.npy"):
            map_npy(file)
    with pytest.raises(DataError, match="not a whole"):
        map_npy(tmp_path)
