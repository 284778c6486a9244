from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcbench.data.arrow_files import content_sha256, kept_metadata, read_table, write_batch
from gcbench.data.frames import read_exported_frames
from gcbench.data.storage import (
    MANIFEST,
    PreparedDataset,
    fingerprint,
    read_scene,
    scene_entry,
    scene_file,
    scene_sha256,
    write_scene,
)
from gcbench.errors import DataError, RunError
from gcbench.structures import Scene
from tests.data.mutations import assert_survives
from tests.data.raw_folders import write_frames


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


def arrays_of(scene: Scene) -> list[np.ndarray[Any, Any]]:
    assert scene.instance is not None
    return [scene.coord, scene.color, scene.normal, *scene.segments.values(), scene.instance]


def test_scenes_are_views_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "scene.arrow"
    write_scene(file, make_scene(), {})
    scene, _ = read_scene(file)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps]
    for values in arrays_of(scene):
        assert not values.flags.owndata
        assert values.flags.c_contiguous
        start = values.__array_interface__["data"][0]
        assert any(low <= start and start + values.nbytes <= high for low, high in ranges)
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_opening_a_scene_imports_no_pandas(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.arrow", make_scene(), {})
    code = (
        "import sys; from pathlib import Path; from gcbench.data.storage import read_scene; "
        f"read_scene(Path({str(tmp_path / 'scene.arrow')!r})); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


def test_a_scene_has_the_hash_of_its_file(tmp_path: Path) -> None:
    for number, scene in enumerate([make_scene(), make_scene(labelled=False), make_scene(seed=4, points=1)]):
        file = tmp_path / f"{number}.arrow"
        write_scene(file, scene, {"notes": ["n"], "normals": "estimated"})
        assert scene_sha256(scene) == content_sha256(file)
        assert scene_entry(file) == {
            "points": len(scene),
            "labels": sorted(scene.segments),
            "sha256": content_sha256(file),
            "notes": ["n"],
            "normals": "estimated",
        }


def test_hashes_stay_what_they_were(tmp_path: Path) -> None:
    scene = Scene(
        name="a",
        coord=np.arange(6, dtype=np.float32).reshape(2, 3),
        color=np.arange(6, dtype=np.uint8).reshape(2, 3),
        normal=np.ones((2, 3), np.float32),
        segments={"scannet20": np.array([-1, 3], np.int16)},
        instance=np.array([-1, 0], np.int32),
    )
    assert scene_sha256(scene) == "c4ad443a2ea0e9af3d1d1ebeef808bedda96e0eca76c0165deaee355c4512bae"
    scenes = {"a": {"sha256": "0", "frames_sha256": "1"}}
    assert fingerprint(scenes, {"train": ["a"], "val": []}) == "f6b7b38f139bcef1"


def test_what_an_earlier_run_wrote_is_kept_only_with_its_options(tmp_path: Path) -> None:
    file = tmp_path / "scene.arrow"
    assert kept_metadata(file, {}) is None
    write_scene(file, make_scene(), {"options": {"sizes": [1, 2]}})
    metadata = kept_metadata(file, {"sizes": (1, 2)})
    assert metadata is not None
    assert metadata["name"] == "Area_1/office_1"
    assert kept_metadata(file, {"sizes": (1, 3)}) is None
    file.write_bytes(file.read_bytes()[:99])
    assert kept_metadata(file, {"sizes": (1, 2)}) is None


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
    scenes: dict[str, dict[str, Any]] = {"a": {"sha256": "1", "points": 3}, "b": {"sha256": "2"}}
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
        "scenes": {name: {"points": 50, "sha256": ""} for name in "abc"},
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


def test_a_renamed_scene_is_refused(tmp_path: Path) -> None:
    dataset = open_with(tmp_path)
    write_scene(scene_file(tmp_path, "scenes", "a"), make_scene("b"), {})
    with pytest.raises(DataError, match=r"a\.arrow is scene 'b'"):
        dataset.scene("a")


def write_dataset(root: Path, *, frames: bool = False) -> PreparedDataset:
    """A prepared dataset of one scene, with the manifest that belongs to it."""
    file = scene_file(root, "scenes", "a")
    write_scene(file, make_scene("a"), {"notes": []})
    entry = scene_entry(file)
    if frames:
        write_frames(root / "raw", count=2)
        write_batch(scene_file(root, "frames", "a"), read_exported_frames(root / "raw").batch, {"dropped": []})
        entry |= {"frames": 2, "frames_sha256": content_sha256(scene_file(root, "frames", "a"))}
    splits = {"train": ["a"], "val": []}
    return open_with(root, splits=splits, scenes={"a": entry}, fingerprint=fingerprint({"a": entry}, splits))


def test_verify_reads_everything(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, frames=True)
    dataset.verify("a")
    for folder in ("scenes", "frames"):
        file = scene_file(tmp_path, folder, "a")
        content = file.read_bytes()
        table, _ = read_table(file)
        at = content.index(table[table.column_names[0]].chunk(0).buffers()[-1].to_pybytes()[:8])
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DataError, match=rf"{folder}/a\.arrow is not what dataset\.json says"):
            dataset.verify("a")
        file.write_bytes(content)
    dataset.verify("a")
    scene_file(tmp_path, "frames", "a").unlink()
    with pytest.raises(DataError, match=r"frames/a\.arrow is missing"):
        dataset.verify("a")


def test_damaged_scene_files_are_refused_or_read(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    file = scene_file(tmp_path, "scenes", "a")

    def read() -> None:
        for values in arrays_of(dataset.scene("a")):  # to the last byte: a view beyond the file would show
            values.tobytes()

    assert assert_survives(read, file, file.read_bytes(), count=400) > 200
    assert assert_survives(lambda: dataset.verify("a"), file, file.read_bytes(), count=200, seed=1) > 150


def test_damaged_frames_files_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, frames=True)
    file = scene_file(tmp_path, "frames", "a")
    assert assert_survives(lambda: dataset.verify("a"), file, file.read_bytes(), count=300) > 200


def test_damaged_manifests_are_refused_or_read(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    file = tmp_path / MANIFEST

    def read() -> None:
        dataset = PreparedDataset.open(tmp_path)
        dataset.scene_names(list(dataset.splits))
        assert isinstance(dataset.fingerprint + dataset.layout, str)
        assert sum(dataset.point_count(name) + dataset.frame_count(name) for name in dataset.manifest["scenes"]) >= 0

    assert assert_survives(read, file, file.read_bytes(), count=400) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": 3}, "'layout'"),
        ({"synthetic": "no"}, "'synthetic'"),
        ({"fingerprint": None}, "'fingerprint'"),
        ({"label_sets": [1]}, "'label_sets'"),
        ({"notes": "none"}, "'notes'"),
        ({"notes": [{}]}, "'notes'"),
        ({"failed": []}, "'failed'"),
        ({"scenes": []}, "'scenes'"),
        ({"splits": {"train": "a"}}, "split 'train'"),
        ({"splits": {"train": ["z"]}}, "split 'train'"),
        ({"splits": {"..": ["a"]}}, r"split '\.\.'"),
        ({"splits": {"train": [{}]}}, "split 'train'"),
        ({"scenes": {"a": {"points": "5", "sha256": ""}}, "splits": {}}, "scene 'a'"),
        ({"scenes": {"a": {"points": True, "sha256": ""}}, "splits": {}}, "scene 'a'"),
        ({"scenes": {"a": {"points": -1, "sha256": ""}}, "splits": {}}, "scene 'a'"),
        ({"scenes": {"a": {"points": 1, "sha256": 0}}, "splits": {}}, "scene 'a'"),
        ({"scenes": {"a": {"points": 1, "sha256": "", "frames": 1.5}}, "splits": {}}, "scene 'a'"),
        ({"scenes": {"../a": {"points": 1, "sha256": ""}}, "splits": {}}, r"scene '\.\./a'"),
        ({"scenes": {"/etc/a": {"points": 1, "sha256": ""}}, "splits": {}}, "scene '/etc/a'"),
        ({"storage": {"kind": "other"}}, "'storage'"),
        ({"storage": {"kind": ["pointcept"]}}, "'storage'"),
        ({"storage": {"kind": "pointcept"}}, "'storage'"),
        ({"storage": {"kind": "pointcept", "root": "relative"}}, "'storage'"),
        ({"storage": {"kind": "pointcept", "root": "/"}, "layout": "outdoor"}, "'storage'"),
        ({"storage": {"kind": "pointcept", "root": "/"}}, "scene 'a'"),
        (
            {
                "storage": {"kind": "pointcept", "root": "/"},
                "scenes": {"a": {"points": 1, "sha256": "", "folder": "../a"}},
                "splits": {},
            },
            "scene 'a'",
        ),
    ],
)
def test_manifests_of_wrong_types_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json is broken: {message}"):
        open_with(tmp_path, **changes)


@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000, '{"format_version": null}', "\xff", "{}"])
def test_manifests_that_are_no_table_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset\.json is broken"):
        PreparedDataset.open(tmp_path)


def test_a_dataset_pickles_without_its_scenes(tmp_path: Path) -> None:
    dataset = open_with(tmp_path)
    write_scene(scene_file(tmp_path, "scenes", "a"), make_scene("a"), {})
    assert len(dataset.scene("a")) == 50
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 400  # loader workers start side by side only if this is less than a pipe's buffer
    assert pickle.loads(pickled) == dataset
    assert len(pickle.loads(pickled).scene("a")) == 50
    open_with(tmp_path, fingerprint="another")
    with pytest.raises(DataError, match="prepared anew"):
        pickle.loads(pickled)


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
