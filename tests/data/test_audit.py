"""Small prepared datasets, whole and with one defect each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from gcbench.cli import data_check
from gcbench.data.arrow_files import content_sha256, write_batch
from gcbench.data.audit import Audit, audit
from gcbench.data.audit_findings import Finding
from gcbench.data.audit_scene import frame_distance, unproject
from gcbench.data.frames import read_exported_frames
from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.data.storage import describe, fingerprint, scene_file, write_manifest, write_scene
from gcbench.errors import DataError
from gcbench.structures import Frame, Scene

ABOVE = np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]], float)  # 2 m up, looking down
SPLITS = {"train": ["scene0000_00", "scene0001_00"], "val": ["scene0002_00"], "test": ["scene0003_00"]}
NAMES = tuple(name for names in SPLITS.values() for name in names)
FOCAL = 40.0


def floor(name: str, classes: int = 20, seed: int = 0, labelled: bool = True) -> Scene:
    """A floor of 4 x 4 m with all classes on it; each seed another one."""
    rng = np.random.default_rng([seed, *name.encode()])
    axis = np.linspace(-2, 2, 60)
    coord = np.stack(np.meshgrid(axis, axis, [0.0]), -1).reshape(-1, 3) + rng.normal(0, 0.002, (3600, 3))
    labels = np.arange(3600) % (classes + 1) - 1
    return Scene(
        name=name,
        coord=coord.astype(np.float32),
        color=rng.integers(0, 256, (3600, 3)).astype(np.uint8),
        normal=np.tile(np.array([0, 0, 1], np.float32), (3600, 1)),
        segments={"scannet20": labels.astype(np.int16)} if labelled else {},
        instance=np.maximum(labels, -1).astype(np.int32) if labelled else None,
    )


def floors(names: Sequence[str] = NAMES) -> dict[str, Scene]:
    return {name: floor(name, labelled=name not in SPLITS["test"]) for name in names}


def write_frames(out: Path, name: str, work: Path, pose: np.ndarray[Any, Any] = ABOVE) -> dict[str, Any]:
    """Two frames of 64 x 48 that see the floor from 2 m above."""
    folder = work / name
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    intrinsic = np.array([[FOCAL, 0, 31.5, 0], [0, FOCAL, 23.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", intrinsic)
    for number in (0, 10):
        Image.new("RGB", (64, 48)).save(folder / "color" / f"{number}.jpg")
        Image.fromarray(np.full((48, 64), 2000, np.uint16)).save(folder / "depth" / f"{number}.png")
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
    path = scene_file(out, "frames", name)
    write_batch(path, read_exported_frames(folder).batch, {"options": {}})
    return {"frames": 2, "frames_dropped": 0, "frames_sha256": content_sha256(path)}


def build(
    tmp_path: Path,
    scenes: Mapping[str, Scene] | None = None,
    splits: Mapping[str, Sequence[str]] = SPLITS,
    poses: Mapping[str, np.ndarray[Any, Any]] | None = None,
    **manifest: Any,
) -> Path:
    """A prepared dataset; `poses` names the scenes that get frames."""
    root = tmp_path / "prepared"
    entries = {}
    for name, scene in (floors() if scenes is None else scenes).items():
        path = scene_file(root, "scenes", name)
        write_scene(path, scene, {"notes": []})
        entries[name] = describe(scene, content_sha256(path), [])
        if poses and name in poses:
            entries[name] |= write_frames(root, name, tmp_path / "raw", poses[name])
    header = {
        "format_version": 1,
        "layout": "scannet",
        "synthetic": True,
        "label_sets": ["scannet20"],
        "normals": "mesh",
    }
    lists = {split: list(names) for split, names in splits.items()}
    content = {"splits": lists, "scenes": entries, "notes": [], "fingerprint": fingerprint(entries, lists)}
    write_manifest(root, header | content | manifest)
    return root


def grave(report: Audit) -> list[Finding]:
    """Findings but the notes."""
    return [finding for finding in report.findings if finding.level != "note"]


def only(report: Audit, check: str, level: str = "error") -> Finding:
    """The one finding that there is but for notes."""
    (finding,) = grave(report)
    assert (finding.check, finding.level) == (check, level), finding
    return finding


def changed(name: str, **arrays: Any) -> dict[str, Scene]:
    """The whole dataset's scenes, but `name` with other arrays."""
    return {**floors(), name: replace(floors()[name], **arrays)}


def test_a_whole_dataset_has_no_finding_but_notes(tmp_path: Path) -> None:
    report = audit(build(tmp_path, poses=dict.fromkeys(floors(), ABOVE)))
    assert not grave(report)
    assert any("Synthetic rooms" in finding.message for finding in report.findings)
    assert [(split.name, split.scenes, split.points, split.expected) for split in report.splits] == [
        ("train", 2, 7200, None),
        ("val", 1, 3600, None),
        ("test", 1, 3600, None),
    ]
    assert report.splits[0].instances is not None
    assert report.splits[0].instances.median == 20
    assert report.splits[2].instances is None  # hidden
    assert report.frame_distance is not None
    assert report.frame_distance.high < 0.05


def test_the_histogram_is_that_of_the_labels(tmp_path: Path) -> None:
    scenes = floors()
    (labels,) = audit(build(tmp_path, scenes)).labels
    every = np.concatenate([scene.segments["scannet20"] for scene in scenes.values() if scene.segments])
    assert [item.points for item in labels.classes] == np.bincount(every[every >= 0], minlength=20).tolist()
    assert sum(item.share for item in labels.classes) == pytest.approx(1)
    assert labels.unlabelled == pytest.approx((every == -1).mean())
    assert (labels.scenes, labels.classes[3].scenes, labels.classes[0].name) == (3, 3, "wall")
    assert labels.absent == {"train": [], "val": []}


def test_a_class_that_does_not_occur_is_named(tmp_path: Path) -> None:
    scenes = {name: floor(name, classes=19, labelled=name not in SPLITS["test"]) for name in floors()}
    report = audit(build(tmp_path, scenes, synthetic=False))
    found = [finding for finding in report.findings if finding.check == "labels"]
    assert [(finding.level, finding.where) for finding in found] == [("warning", ["otherfurniture"])] * 2
    assert report.labels[0].absent == {"train": ["otherfurniture"], "val": ["otherfurniture"]}


def test_a_coordinate_that_is_not_finite_is_found(tmp_path: Path) -> None:
    coord = floors()["scene0001_00"].coord.copy()
    coord[7, 1] = np.nan
    report = audit(build(tmp_path, changed("scene0001_00", coord=coord), poses={"scene0001_00": ABOVE}))
    found = [finding for finding in report.findings if finding.level == "error"]
    assert [(finding.check, finding.where) for finding in found] == [("coordinates", ["scene0001_00"])]
    assert next(scene for scene in report.scenes if scene.name == "scene0001_00").not_finite == 1


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_another_unit_than_metres_is_found(tmp_path: Path, factor: float) -> None:
    coord = floors()["scene0002_00"].coord * np.float32(factor)
    finding = only(audit(build(tmp_path, changed("scene0002_00", coord=coord))), "coordinates")
    assert "unit" in finding.message
    assert finding.where == ["scene0002_00"]


@pytest.mark.parametrize(
    ("value", "share", "level", "said"),
    [
        (0.0, 1.0, "error", "half"),
        (0.0, 0.1, "warning", "1%"),
        (np.nan, 0.001, "error", "NaN"),
        (2.0, 0.5, "warning", "unit"),
    ],
)
def test_wrong_normals_are_found(tmp_path: Path, value: float, share: float, level: str, said: str) -> None:
    normal = floors()["scene0000_00"].normal.copy()
    normal[: round(share * len(normal)), 2] = value
    finding = only(audit(build(tmp_path, changed("scene0000_00", normal=normal))), "normals", level)
    assert said in finding.message
    assert finding.where == ["scene0000_00"]


def test_a_few_short_normals_are_as_in_the_reference(tmp_path: Path) -> None:
    normal = floors()["scene0000_00"].normal.copy()
    normal[:4] *= 0.9
    report = audit(build(tmp_path, changed("scene0000_00", normal=normal)))
    assert not grave(report)
    assert report.scenes[0].normals_not_unit == 4


@pytest.mark.parametrize(("color", "said"), [(0, "one colour"), (None, "grey")])
def test_scenes_without_colours_are_found(tmp_path: Path, color: int | None, said: str) -> None:
    grey = np.repeat(np.arange(3600) % 256, 3).reshape(-1, 3) if color is None else np.full((3600, 3), color)
    report = audit(build(tmp_path, changed("scene0000_00", color=grey.astype(np.uint8))))
    assert said in only(report, "colours", "warning").message


def test_labels_out_of_range_are_found(tmp_path: Path) -> None:
    labels = floors()["scene0000_00"].segments["scannet20"].copy()
    labels[:3] = [20, 99, -2]
    report = audit(build(tmp_path, changed("scene0000_00", segments={"scannet20": labels})))
    assert only(report, "labels").where == ["scene0000_00"]
    assert report.scenes[0].labels["scannet20"].out_of_range == 3


def test_labels_that_are_all_missing_are_found(tmp_path: Path) -> None:
    bare = np.full(3600, -1, np.int16)
    finding = only(audit(build(tmp_path, changed("scene0000_00", segments={"scannet20": bare}))), "labels", "warning")
    assert "not one labelled point" in finding.message
    other = audit(build(tmp_path / "b", changed("scene0000_00", segments={}, instance=None)))
    assert "without labels" in only(other, "labels", "warning").message


def flip(file: Path) -> None:
    """Change one byte of the coordinates, leaving a file that can be read."""
    content = bytearray(file.read_bytes())
    content[len(content) // 5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("folder", ["scenes", "frames"])
def test_a_flipped_byte_is_found_by_its_hash_only(tmp_path: Path, folder: str) -> None:
    root = build(tmp_path, poses=dict.fromkeys(floors(), ABOVE))
    file = root / folder / "scene0002_00.arrow"
    if folder == "scenes":
        flip(file)
    else:
        batch = read_exported_frames(tmp_path / "raw" / "scene0002_00", every=2).batch
        write_batch(file, batch, {"options": {}})
    finding = only(audit(root), "files")
    assert str(file) in finding.message
    assert finding.where == ["scene0002_00"]
    quick = audit(root, hashes=False)
    assert not grave(quick)
    assert (quick.hashes_checked, audit(root).hashes_checked) == (False, True)


@pytest.mark.parametrize("folder", ["scenes", "frames"])
@pytest.mark.parametrize("damage", ["missing", "cut", "folder"])
def test_unreadable_files_are_named_and_the_rest_is_checked(tmp_path: Path, folder: str, damage: str) -> None:
    root = build(tmp_path, poses=dict.fromkeys(floors(), ABOVE))
    file = root / folder / "scene0000_00.arrow"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    if damage == "folder":
        file.mkdir()
    for hashes in (True, False):
        report = audit(root, hashes=hashes)
        finding = only(report, "files")
        assert str(file) in finding.message
        assert [scene.points for scene in report.scenes] == [3600 * (folder == "frames"), 3600, 3600, 3600]


def test_frames_that_do_not_fit_the_points_are_found(tmp_path: Path) -> None:
    moved = ABOVE.copy()
    moved[2, 3] += 0.5
    poses = {**dict.fromkeys(floors(), ABOVE), "scene0001_00": moved}
    report = audit(build(tmp_path, poses=poses))
    assert only(report, "frames").where == ["scene0001_00"]
    assert report.frame_distance is not None
    assert report.frame_distance.high == pytest.approx(0.5, abs=0.02)
    assert report.frame_distance.low < 0.05


def test_the_distance_of_a_frame_is_that_of_its_surface() -> None:
    depth = np.full((48, 64), 2000, np.uint16)
    depth[:, :10] = 0  # not measured
    intrinsic = np.array([[FOCAL, 0, 32], [0, FOCAL, 24], [0, 0, 1.0]])
    frame = Frame(5, np.zeros((48, 64, 3), np.uint8), depth, ABOVE, intrinsic)
    surface = unproject(frame, 10**6)
    assert len(surface) == 48 * 54
    np.testing.assert_allclose(surface[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(surface[0], [(10.5 - 32) * 2 / FOCAL, -(0.5 - 24) * 2 / FOCAL, 0])
    assert frame_distance(frame, cKDTree(surface - np.array([0, 0, 0.3]))).metres == pytest.approx(0.3)
    blind = replace(frame, depth=np.zeros_like(depth))
    assert frame_distance(blind, cKDTree(surface)).metres is None


def test_scenes_without_frames_beside_others_are_listed(tmp_path: Path) -> None:
    report = audit(build(tmp_path, poses={"scene0000_00": ABOVE}))
    assert only(report, "frames", "warning").where == ["scene0001_00", "scene0002_00", "scene0003_00"]


def test_a_scene_in_two_splits_is_found(tmp_path: Path) -> None:
    splits = {**SPLITS, "val": ["scene0002_00", "scene0001_00"]}
    assert only(audit(build(tmp_path, splits=splits)), "overlap").where == ["scene0001_00"]


def test_scans_of_one_room_in_two_splits_are_found(tmp_path: Path) -> None:
    splits = {"train": ["scene0000_00", "scene0001_00"], "val": ["scene0000_01"]}
    scenes = floors(["scene0000_00", "scene0001_00", "scene0000_01"])
    report = audit(build(tmp_path, scenes, splits, synthetic=False))
    assert [f.where for f in report.findings if f.check == "overlap"] == [["scene0000"]]
    together = {"train": ["scene0000_00", "scene0000_01"], "val": ["scene0001_00"]}
    report = audit(build(tmp_path / "b", scenes, together, synthetic=False))
    assert not [f for f in report.findings if f.check == "overlap"]


def test_copies_of_a_scene_are_found(tmp_path: Path) -> None:
    copy = {**floors(), "scene0002_00": replace(floors()["scene0000_00"], name="scene0002_00")}
    finding = only(audit(build(tmp_path, copy)), "duplicates")
    assert "different splits" in finding.message
    assert finding.where == ["scene0000_00", "scene0002_00"]


def test_counts_of_real_scannet_are_compared(tmp_path: Path) -> None:
    report = audit(build(tmp_path, synthetic=False, poses=dict.fromkeys(floors(), ABOVE)))
    counts = {finding.message.partition(":")[0]: finding for finding in report.findings if finding.check == "counts"}
    assert {split: finding.level for split, finding in counts.items()} == {
        "train": "error",
        "val": "error",
        "test": "warning",
    }
    assert "1,201" in counts["train"].message
    assert [split.expected for split in report.splits] == [1201, 312, 100]


def test_missing_scenes_are_named_where_the_list_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCBENCH_CACHE", str(tmp_path / "cache"))
    root = build(tmp_path, synthetic=False)
    (root / "scannetv2_val.txt").write_text("scene0002_00\nscene0777_00\n")
    report = audit(root)
    assert next(f for f in report.findings if f.message.startswith("val")).where == ["scene0777_00"]
    assert next(f for f in report.findings if f.message.startswith("train")).where == []


def s3dis(tmp_path: Path, left_out: Sequence[str] = ()) -> Audit:
    rooms = s3dis_facts().rooms
    names = [f"{area}/{room}" for area in rooms.areas for room in sorted(rooms.names(area))]
    names = [name for name in names if name not in left_out]
    labels = (np.arange(40) % 13).astype(np.int16)
    coord = np.random.default_rng(0).uniform(0, 3, (len(names), 40, 3)).astype(np.float32)
    color = np.arange(120, dtype=np.uint8).reshape(40, 3)
    up = np.tile(np.array([0, 0, 1], np.float32), (40, 1))
    scenes = {
        name: Scene(name, coord[number], color, up, {"s3dis": labels}, labels.astype(np.int32))
        for number, name in enumerate(names)
    }
    splits = {area: [name for name in names if name.startswith(area)] for area in rooms.areas}
    return audit(build(tmp_path, scenes, splits, layout="s3dis", label_sets=["s3dis"], synthetic=False))


def test_rooms_of_s3dis_are_compared_with_the_release(tmp_path: Path) -> None:
    assert not grave(s3dis(tmp_path / "whole"))
    usual = s3dis(tmp_path / "usual", ["Area_5/hallway_6"])
    assert not grave(usual)  # 271 rooms, as in usual copies
    assert [f.where for f in usual.findings if f.check == "counts"] == [["Area_5/hallway_6"]]
    finding = only(s3dis(tmp_path / "part", ["Area_3/office_2", "Area_3/office_3"]), "counts")
    assert finding.where == ["Area_3/office_2", "Area_3/office_3"]


def test_a_manifest_that_was_changed_is_found(tmp_path: Path) -> None:
    root = build(tmp_path)
    manifest = json.loads((root / "dataset.json").read_text())
    manifest["splits"]["val"] = []
    (root / "dataset.json").write_text(json.dumps(manifest))
    checks = {finding.check for finding in audit(root).findings if finding.level != "note"}
    assert checks == {"fingerprint", "splits"}


def test_scenes_that_failed_and_notes_are_passed_on(tmp_path: Path) -> None:
    root = build(tmp_path, failed={"scene0009_00": "x.ply is broken"}, notes=["half of RAW is missing"])
    report = audit(root)
    assert only(report, "failed").where == ["scene0009_00"]
    assert "half of RAW is missing" in [finding.message for finding in report.findings]


def test_an_empty_scene_is_found(tmp_path: Path) -> None:
    name = "scene0000_00"
    whole = floors()[name]
    empty = replace(
        whole,
        coord=whole.coord[:0],
        color=whole.color[:0],
        normal=whole.normal[:0],
        segments={"scannet20": whole.segments["scannet20"][:0]},
        instance=None,
    )
    found = grave(audit(build(tmp_path, {**floors(), name: empty})))
    assert ("coordinates", [name]) in [(finding.check, finding.where) for finding in found]


def test_a_label_set_of_ones_own_is_counted_by_numbers(tmp_path: Path) -> None:
    scenes = {
        n: replace(s, segments={"mine": s.segments["scannet20"]} if s.segments else {}) for n, s in floors().items()
    }
    (labels,) = audit(build(tmp_path, scenes, label_sets=["mine"])).labels
    assert [item.name for item in labels.classes] == [str(k) for k in range(20)]


def test_workers_find_the_same(tmp_path: Path) -> None:
    root = build(tmp_path, poses=dict.fromkeys(floors(), ABOVE))
    (root / "scenes" / "scene0001_00.arrow").unlink()
    seen: list[int] = []
    alone = audit(root, on_scene=lambda name, done, total: seen.append(10 * done + total))
    assert seen == [14, 24, 34, 44]
    assert audit(root, workers=2) == alone


def test_a_raw_folder_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "scans" / "scene0000_00"
    folder.mkdir(parents=True)
    (folder / "scene0000_00_vh_clean_2.ply").touch()
    report = audit(tmp_path)
    assert (report.kind, report.layout) == ("raw", "scannet")
    assert list(report.raw.values()) == [(1, 1613)]
    assert [finding.where for finding in report.findings if finding.level == "error"] == [["mesh"]]


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_what_is_no_dataset_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "x"
    if make == "file":
        path.touch()
    if make == "empty":
        path.mkdir()
    with pytest.raises(DataError, match=str(path)):
        audit(path)


def run(*arguments: str, columns: int = 80) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(data_check.audit)
    result = CliRunner().invoke(app, [*arguments, "--workers", "0"], env={"COLUMNS": str(columns)})
    return result.exit_code, result.stdout


@pytest.mark.parametrize("columns", [80, 140])
def test_the_command_says_what_is_wrong_and_fails_on_errors_only(tmp_path: Path, columns: int) -> None:
    normal = floors()["scene0000_00"].normal.copy()
    normal[:300] = 0
    root = build(tmp_path, changed("scene0000_00", normal=normal))
    code, printed = run(str(root), "--json", str(tmp_path / "audit.json"), columns=columns)
    assert code == 0
    for said in ("warning", "scene0000_00", "otherfurniture", "synthetic rooms", "0 errors, 1 warning"):
        assert said in printed
    assert "…" not in printed
    assert Audit.model_validate_json((tmp_path / "audit.json").read_text()) == audit(root)
    (root / "scenes" / "scene0002_00.arrow").unlink()
    code, printed = run(str(root), "--no-hashes", columns=columns)
    assert code == 1
    assert "1 error, 1 warning" in printed


def test_a_dataset_that_was_prepared_anew_is_read_anew(tmp_path: Path) -> None:
    assert audit(build(tmp_path)).points == 4 * 3600
    root = build(tmp_path, floors(["scene0000_00"]), {"train": ["scene0000_00"]})
    assert audit(root).points == 3600


def test_broken_intrinsics_count_as_a_frame_without_depth() -> None:
    frame = Frame(0, np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint16), ABOVE, np.zeros((3, 3)))
    assert frame_distance(frame, cKDTree(np.zeros((1, 3)))).metres is None
