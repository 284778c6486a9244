from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcbench import files
from gcbench.data import prepare
from gcbench.data.prepare import prepare_s3dis, prepare_scannet
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError, RunError
from tests.data.raw_folders import write_frames, write_room, write_scannet, write_scene
from tests.data.test_sens import encode, pictures


def test_a_scannet_folder(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", frames=3)
    seen: list[tuple[str, int, int]] = []
    dataset = prepare_scannet(raw, tmp_path / "out", on_scene=lambda *step: seen.append(step))
    assert dataset.splits == {
        "train": ("scene0000_00", "scene0001_00"),
        "val": ("scene0002_00",),
        "test": ("scene0003_00",),
    }
    assert [step[1:] for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert dataset.label_sets == ("scannet20", "scannet200")
    assert not dataset.synthetic
    assert set(dataset.scene("scene0000_00").segments) == {"scannet20", "scannet200"}
    assert dataset.scene("scene0003_00").instance is None
    assert len(dataset.frames("scene0003_00")) == dataset.frame_count("scene0003_00") == 3
    assert dataset.manifest["scenes"]["scene0000_00"]["notes"] != []  # the unknown category
    assert dataset.manifest["scenes"]["scene0003_00"]["notes"] == []


def test_an_s3dis_folder(tmp_path: Path) -> None:
    for name in ("Area_1/office_1", "Area_1/office_2", "Area_6/hallway_1"):
        write_room(tmp_path / "raw", name)
    dataset = prepare_s3dis(tmp_path / "raw", tmp_path / "out")
    assert dataset.splits == {"Area_1": ("Area_1/office_1", "Area_1/office_2"), "Area_6": ("Area_6/hallway_1",)}
    assert (dataset.label_sets, dataset.has_frames) == (("s3dis",), False)
    assert "estimated" in dataset.manifest["normals"]
    assert len(dataset.scene("Area_6/hallway_1")) == 500


def test_processes_paths_and_repeats_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", frames=2)
    first = prepare_scannet(raw, tmp_path / "a")
    shutil.copytree(raw, tmp_path / "elsewhere")
    second = prepare_scannet(tmp_path / "elsewhere", tmp_path / "b", workers=2)
    assert first.manifest == second.manifest
    other = prepare_scannet(write_scannet(tmp_path / "other", frames=2, first=4), tmp_path / "c")
    assert other.fingerprint != first.fingerprint


def test_running_again_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = write_scannet(tmp_path / "raw", frames=2), tmp_path / "out"
    whole = prepare_scannet(raw, out)
    kept = (out / "scenes" / "scene0000_00.arrow").stat().st_mtime_ns
    (out / MANIFEST).unlink()
    (out / "scenes" / "scene0001_00.arrow").unlink()
    broken = out / "scenes" / "scene0002_00.arrow"
    broken.write_bytes(broken.read_bytes()[:100])
    read: list[str] = []
    real = prepare.scannet.read_scene

    def counted(folder: Path, categories: Any) -> Any:
        read.append(folder.name)
        return real(folder, categories)

    monkeypatch.setattr(prepare.scannet, "read_scene", counted)
    again = prepare_scannet(raw, out)
    assert read == ["scene0001_00", "scene0002_00"]
    assert (out / "scenes" / "scene0000_00.arrow").stat().st_mtime_ns == kept
    assert again.manifest == whole.manifest


def test_changed_options_or_raw_files_are_prepared_anew(tmp_path: Path) -> None:
    raw, out = write_scannet(tmp_path / "raw", frames=4), tmp_path / "out"
    assert prepare_scannet(raw, out).frame_count("scene0000_00") == 4
    assert prepare_scannet(raw, out, every_frame=2).frame_count("scene0000_00") == 2
    write_frames(raw / "rgbd" / "scene0000_00", count=6)
    dataset = prepare_scannet(raw, out, every_frame=2)
    assert [dataset.frame_count(f"scene000{k}_00") for k in range(2)] == [3, 2]


def test_a_broken_scene_stops_and_keep_going_does_the_others(tmp_path: Path) -> None:
    raw, out = write_scannet(tmp_path / "raw", train=4), tmp_path / "out"
    damaged = [raw / "scans" / name / f"{name}.aggregation.json" for name in ("scene0001_00", "scene0003_00")]
    for file in damaged:
        file.rename(file.with_suffix(".away"))
    with pytest.raises(DataError, match=f"{damaged[0]} is missing.*--keep-going"):
        prepare_scannet(raw, out)
    assert [path.name for path in (out / "scenes").iterdir()] == ["scene0000_00.arrow"]
    with pytest.raises(DataError, match="did not finish"):
        PreparedDataset.open(out)
    dataset = prepare_scannet(raw, out, keep_going=True)
    assert dataset.splits == {
        "train": ("scene0000_00", "scene0002_00"),
        "val": ("scene0004_00",),
        "test": ("scene0005_00",),
    }
    assert list(dataset.manifest["failed"]) == ["scene0001_00", "scene0003_00"]
    assert all(str(file) in dataset.manifest["failed"][file.parent.name] for file in damaged)
    for file in damaged:
        file.with_suffix(".away").rename(file)
    assert len(prepare_scannet(raw, out).scene_names("train")) == 4


def test_a_failed_second_run_does_not_leave_the_first_ones_manifest(tmp_path: Path) -> None:
    raw, out = write_scannet(tmp_path / "raw"), tmp_path / "out"
    prepare_scannet(raw, out)
    (raw / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply")
    with pytest.raises(DataError, match=r"scene0000_00_vh_clean_2\.ply"):
        prepare_scannet(raw, out)
    with pytest.raises(DataError, match="did not finish"):
        PreparedDataset.open(out)


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    write_scene(raw, "scene0000_00", labelled=False)
    with pytest.raises(DataError, match="two scenes each: scene0000_00"):
        prepare_scannet(raw, tmp_path / "out")


def test_a_full_disk_stops_at_once_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = write_scannet(tmp_path / "raw"), tmp_path / "out"
    real, calls = files.os.fsync, []

    def full_at_the_third(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full_at_the_third)
    with pytest.raises(RunError, match="disk is full"):
        prepare_scannet(raw, out)
    assert len(calls) == 3
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "scene0000_00.arrow",
        "scene0001_00.arrow",
    ]
    assert len(prepare_scannet(raw, out).scene_names("train")) == 2


def test_hidden_scenes_need_neither_table_nor_lists(tmp_path: Path) -> None:
    write_scene(tmp_path / "raw", "scene0707_00", labelled=False)
    dataset = prepare_scannet(tmp_path / "raw", tmp_path / "out")
    assert (dataset.scene_names("test"), dataset.label_sets) == (("scene0707_00",), ())


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No official files: none in the cache, none downloaded."""
    monkeypatch.setenv("GCBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare.metadata, "find", partial(prepare.metadata.find, download=False))


@pytest.mark.usefixtures("offline")
def test_lists_and_table_may_lie_elsewhere(tmp_path: Path) -> None:
    raw, meta = write_scannet(tmp_path / "raw"), tmp_path / "meta"
    meta.mkdir()
    for file in [*raw.glob("*.txt"), *raw.glob("*.tsv")]:
        file.rename(meta / file.name)
    with pytest.raises(DataError, match=r"scannetv2_train.txt.*--meta-dir"):
        prepare_scannet(raw, tmp_path / "out")
    assert len(prepare_scannet(raw, tmp_path / "out", meta_dir=meta).scene_names("train")) == 2


@pytest.mark.usefixtures("offline")
def test_a_missing_table_is_an_error_for_labelled_scenes(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    (raw / "scannetv2-labels.combined.tsv").unlink()
    with pytest.raises(DataError, match=r"combined.tsv.*--meta-dir"):
        prepare_scannet(raw, tmp_path / "out")


def test_every_labelled_scene_needs_one_split(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    write_scene(raw, "scene0009_00", labelled=True)
    with pytest.raises(DataError, match=r"in neither.*scene0009_00"):
        prepare_scannet(raw, tmp_path / "out")
    for split in ("train", "val"):
        with (raw / f"scannetv2_{split}.txt").open("a") as stream:
            stream.write("scene0009_00\n")
    with pytest.raises(DataError, match=r"in both.*scene0009_00"):
        prepare_scannet(raw, tmp_path / "out")


def test_listed_scenes_that_are_not_there_are_noted(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    shutil.rmtree(raw / "scans" / "scene0001_00")
    notes = prepare_scannet(raw, tmp_path / "out").manifest["notes"]
    assert "1 of 2 scenes listed for train are not in RAW: scene0001_00" in notes
    assert any(note.startswith("scannetv2_train.txt is not the official file") for note in notes)


def test_scenes_without_frames_are_noted(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", frames=2)
    shutil.rmtree(raw / "rgbd" / "scene0002_00")
    dataset = prepare_scannet(raw, tmp_path / "out")
    assert "1 of 4 scenes have no RGB-D frames: scene0002_00" in dataset.manifest["notes"]
    assert not prepare_scannet(raw, tmp_path / "without", frames=False).has_frames
    assert (dataset.has_frames, dataset.frame_count("scene0002_00")) == (True, 0)
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        prepare_scannet(raw, tmp_path / "out", rgbd=tmp_path / "nowhere")


def test_dropped_frames_are_counted(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    write_frames(raw / "rgbd" / "scene0000_00", count=5, lost=(20,))
    entry = prepare_scannet(raw, tmp_path / "out").manifest["scenes"]["scene0000_00"]
    assert (entry["frames"], entry["frames_dropped"]) == (4, 1)


def test_synthetic_rooms_stay_marked(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    (raw / "SYNTHETIC.json").write_text(json.dumps({"seed": 7}))
    dataset = prepare_scannet(raw, tmp_path / "out")
    assert dataset.synthetic
    assert dataset.manifest["synthetic_rooms"] == {"seed": 7}
    (raw / "SYNTHETIC.json").write_text("{")
    with pytest.raises(DataError, match=r"SYNTHETIC\.json"):
        prepare_scannet(raw, tmp_path / "out")


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither scans"):
        prepare_scannet(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no folder Area_1"):
        prepare_s3dis(tmp_path, tmp_path / "out")
    (tmp_path / "Area_1").mkdir()
    with pytest.raises(DataError, match="have no rooms"):
        prepare_s3dis(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_estimated_and_mesh_normals_agree_on_the_sheet(tmp_path: Path) -> None:
    from gcbench.data.s3dis import estimate_normals

    raw = write_scannet(tmp_path / "raw")
    scene = prepare_scannet(raw, tmp_path / "out").scene("scene0000_00")
    aligned = np.abs(np.einsum("ni,ni->n", estimate_normals(scene.coord, neighbours=9), scene.normal))
    assert np.median(aligned) > 0.99  # 12 x 12 points on a sheet whose slope changes by 0.15 from point to point


def test_frames_come_from_the_recording_where_none_were_exported(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", train=2, val=1, hidden=1)
    write_frames(raw / "rgbd" / "scene0001_00", count=2)
    (raw / "scans" / "scene0000_00" / "scene0000_00.sens").write_bytes(encode(pictures(23, lost=(10,))))
    (raw / "scans" / "scene0001_00" / "scene0001_00.sens").write_bytes(encode(pictures(23)))
    dataset = prepare_scannet(raw, tmp_path / "out")
    entry = dataset.manifest["scenes"]["scene0000_00"]
    assert (dataset.frames("scene0000_00").indices, entry["frames_dropped"]) == ((0, 20), 1)
    assert dataset.frame_count("scene0001_00") == 2  # the exported ones
    assert len(prepare_scannet(raw, tmp_path / "out", every_frame=5).frames("scene0000_00")) == 4


@pytest.mark.parametrize("release", ["auto", "unaligned"])
def test_rooms_of_the_unaligned_release_are_turned(tmp_path: Path, release: str) -> None:
    raw = tmp_path / "raw"
    write_room(raw, "Area_1/office_1")
    (raw / "Area_1" / "Area_1_alignmentAngle.txt").write_text("office_1 90\n")
    turned = prepare_s3dis(raw, tmp_path / "turned", release=release).scene("Area_1/office_1").coord
    plain = prepare_s3dis(raw, tmp_path / "plain", release="aligned").scene("Area_1/office_1").coord
    low, high = plain.min(axis=0).astype(np.float64), plain.max(axis=0)
    center = (low + high) / 2
    offset = plain - center
    np.testing.assert_allclose(turned, np.stack([offset[:, 1], -offset[:, 0], offset[:, 2]], 1) + center, atol=1e-5)


def test_meshes_are_refused_for_the_aligned_release(tmp_path: Path) -> None:
    write_room(tmp_path / "raw", "Area_1/office_1")
    with pytest.raises(DataError, match="fit the unaligned release"):
        prepare_s3dis(tmp_path / "raw", tmp_path / "out", release="aligned", meshes=tmp_path)
