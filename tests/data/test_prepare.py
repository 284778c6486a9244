from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gcbench import files
from gcbench.data import prepare
from gcbench.data.prepare import prepare_s3dis, prepare_scannet
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError, RunError
from tests.data.raw_folders import write_frames, write_room, write_scannet, write_scene


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
    real = prepare._read_raw
    monkeypatch.setattr(prepare, "_read_raw", lambda job: read.append(job.name) or real(job))  # type: ignore[func-returns-value]
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


def test_broken_scenes_are_all_named_and_the_others_kept(tmp_path: Path) -> None:
    raw, out = write_scannet(tmp_path / "raw", train=4), tmp_path / "out"
    damaged = [raw / "scans" / name / f"{name}.aggregation.json" for name in ("scene0001_00", "scene0003_00")]
    for file in damaged:
        file.rename(file.with_suffix(".away"))
    with pytest.raises(DataError, match="2 of 6 scenes") as caught:
        prepare_scannet(raw, out)
    assert all(str(file) in str(caught.value) for file in damaged)
    assert len(list((out / "scenes").iterdir())) == 4
    with pytest.raises(DataError, match="did not finish"):
        PreparedDataset.open(out)
    for file in damaged:
        file.with_suffix(".away").rename(file)
    assert len(prepare_scannet(raw, out).scene_names("train")) == 4


def test_a_failed_second_run_does_not_leave_the_first_ones_manifest(tmp_path: Path) -> None:
    raw, out = write_scannet(tmp_path / "raw"), tmp_path / "out"
    prepare_scannet(raw, out)
    (raw / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply")
    with pytest.raises(DataError, match="1 of 4 scenes"):
        prepare_scannet(raw, out)
    with pytest.raises(DataError, match="did not finish"):
        PreparedDataset.open(out)


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


def test_lists_and_table_may_lie_elsewhere(tmp_path: Path) -> None:
    raw, meta = write_scannet(tmp_path / "raw"), tmp_path / "meta"
    meta.mkdir()
    for file in [*raw.glob("*.txt"), *raw.glob("*.tsv")]:
        file.rename(meta / file.name)
    with pytest.raises(DataError, match=r"no scannetv2_train.txt.*--meta-dir"):
        prepare_scannet(raw, tmp_path / "out")
    assert len(prepare_scannet(raw, tmp_path / "out", meta_dir=meta).scene_names("train")) == 2


def test_a_missing_table_is_an_error_for_labelled_scenes(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    (raw / "scannetv2-labels.combined.tsv").unlink()
    with pytest.raises(DataError, match=r"combined.tsv is missing.*--meta-dir"):
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
    assert notes == ["1 of 2 scenes listed for train are not in RAW: scene0001_00"]


def test_scenes_without_frames_are_noted(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", frames=2)
    shutil.rmtree(raw / "rgbd" / "scene0002_00")
    dataset = prepare_scannet(raw, tmp_path / "out")
    assert dataset.manifest["notes"] == ["1 of 4 scenes have no RGB-D frames: scene0002_00"]
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
    with pytest.raises(DataError, match="no scenes"):
        prepare_s3dis(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_estimated_and_mesh_normals_agree_on_the_sheet(tmp_path: Path) -> None:
    from gcbench.data.s3dis import estimate_normals

    raw = write_scannet(tmp_path / "raw")
    scene = prepare_scannet(raw, tmp_path / "out").scene("scene0000_00")
    aligned = np.abs(np.einsum("ni,ni->n", estimate_normals(scene.coord, neighbours=9), scene.normal))
    assert np.median(aligned) > 0.99  # 12 x 12 points on a sheet whose slope changes by 0.15 from point to point
