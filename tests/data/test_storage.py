from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from gcbench.data.arrow_files import content_sha256
from gcbench.data.storage import MANIFEST, PreparedDataset, fingerprint, read_scene, scene_file, write_scene
from gcbench.errors import DataError, RunError
from gcbench.structures import Scene


def make_scene(name: str = "Area_1/office_1", points: int = 50, seed: int = 0, labelled: bool = True) -> Scene:
    rng = np.random.default_rng(seed)
    return Scene(
        name=name,
        coord=rng.uniform(-3, 3, (points, 3)).astype(np.float32),
        color=rng.integers(0, 256, (points, 3)).astype(np.uint8),
        normal=rng.uniform(-1, 1, (points, 3)).astype(np.float32),
        segments={"scannet20": rng.integers(-1, 20, points).astype(np.int16)} if labelled else {},
        instance=rng.integers(-1, 9, points).astype(np.int32) if labelled else None,
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_a_scene_comes_back_as_it_was(tmp_path: Path, labelled: bool) -> None:
    scene = make_scene(labelled=labelled)
    write_scene(tmp_path / "scene.arrow", scene, {"notes": ["x"]})
    back, metadata = read_scene(tmp_path / "scene.arrow")
    assert (back.name, metadata["notes"]) == (scene.name, ["x"])
    for field in ("coord", "color", "normal"):
        assert getattr(back, field).dtype == getattr(scene, field).dtype
        assert getattr(back, field).tobytes() == getattr(scene, field).tobytes()
    assert set(back.segments) == set(scene.segments)
    for label_set, values in scene.segments.items():
        assert back.segments[label_set].dtype == np.int16
        assert back.segments[label_set].tolist() == values.tolist()
    assert (back.instance is None) == (not labelled)


def test_scenes_are_views_of_the_file(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.arrow", make_scene(), {})
    scene, _ = read_scene(tmp_path / "scene.arrow")
    assert not scene.coord.flags.writeable
    assert not scene.coord.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        scene.coord[0] = 0


def test_the_datasets_library_opens_the_same_file(tmp_path: Path) -> None:
    from datasets import Dataset

    scene = make_scene()
    write_scene(tmp_path / "scene.arrow", scene, {})
    table = Dataset.from_file(str(tmp_path / "scene.arrow")).with_format("arrow")[0]
    assert table["coord"][0].values.to_numpy(zero_copy_only=True).tolist() == scene.coord.reshape(-1).tolist()


def test_the_content_hash_sees_values_and_not_metadata(tmp_path: Path) -> None:
    hashes = []
    for number, (scene, notes) in enumerate(
        [(make_scene(), []), (make_scene(), ["other"]), (make_scene(seed=1), []), (make_scene(labelled=False), [])]
    ):
        write_scene(tmp_path / f"{number}.arrow", scene, {"notes": notes})
        hashes.append(content_sha256(tmp_path / f"{number}.arrow"))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "", ".hidden", "a/.b", "a\n"])
def test_names_cannot_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be a scene's name"):
        scene_file(tmp_path, "scenes", name)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "scene.arrow"
    write_scene(file, make_scene(points=500), {})
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"scene\.arrow is broken"):
        read_scene(file)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scene.arrow"
    write_scene(file, make_scene(), {})
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk is full.*run the same command again"):
        write_scene(file, make_scene(seed=1), {})
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["scene.arrow"]


def test_the_fingerprint_sees_hashes_and_splits_only() -> None:
    scenes = {"a": {"sha256": "1", "points": 3}, "b": {"sha256": "2"}}
    splits = {"train": ["a"], "val": ["b"]}
    print_ = fingerprint(scenes, splits)
    assert print_ == fingerprint({"b": {"sha256": "2"}, "a": {"sha256": "1"}}, splits)
    changed = [
        fingerprint({**scenes, "b": {"sha256": "3"}}, splits),
        fingerprint({**scenes, "b": {"sha256": "2", "frames_sha256": "4"}}, splits),
        fingerprint(scenes, {"train": ["a", "b"], "val": []}),
    ]
    assert len({print_, *changed}) == 4


def open_with(tmp_path: Path, **changes: object) -> PreparedDataset:
    manifest = {
        "format_version": 1,
        "layout": "scannet",
        "synthetic": True,
        "label_sets": ["scannet20"],
        "splits": {"train": ["a", "b"], "val": ["c"]},
        "scenes": {"a": {"points": 50, "sha256": ""}},
        "fingerprint": "f",
    }
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, **changes}))
    return PreparedDataset.open(tmp_path)


def test_what_a_manifest_says(tmp_path: Path) -> None:
    dataset = open_with(tmp_path)
    assert dataset.scene_names("train") == ("a", "b")
    assert dataset.scene_names(["val", "train"]) == ("c", "a", "b")
    assert (dataset.synthetic, dataset.has_frames, dataset.label_sets) == (True, False, ("scannet20",))
    with pytest.raises(DataError, match=r"no split 'test'.*train, val"):
        dataset.scene_names("test")
    with pytest.raises(DataError, match="no scene 'z'"):
        dataset.scene("z")
    with pytest.raises(DataError, match=r"no RGB-D frames.*--rgbd"):
        dataset.frames("a")
    with pytest.raises(DataError, match=r"a\.arrow is missing"):
        dataset.scene("a")


def test_a_scene_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    dataset = open_with(tmp_path)
    write_scene(scene_file(tmp_path, "scenes", "a"), make_scene("a", points=49), {})
    with pytest.raises(DataError, match="49 points"):
        dataset.scene("a")


def test_a_dataset_pickles_without_its_scenes(tmp_path: Path) -> None:
    dataset = open_with(tmp_path)
    write_scene(scene_file(tmp_path, "scenes", "a"), make_scene("a"), {})
    assert len(dataset.scene("a")) == 50
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1500
    assert len(pickle.loads(pickled).scene("a")) == 50


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*gcbench data prepare"):
        PreparedDataset.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"prepare did not finish.*\(again\)"):
        PreparedDataset.open(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format_version": 1')
    with pytest.raises(DataError, match="is broken"):
        PreparedDataset.open(tmp_path)
    with pytest.raises(DataError, match="format version 2"):
        open_with(tmp_path, format_version=2)
