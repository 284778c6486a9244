from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from gcbench.cli import data_subsets
from gcbench.data import subsets
from gcbench.data.arrow_files import content_sha256
from gcbench.data.storage import FORMAT_VERSION, PreparedDataset, fingerprint, scene_file, write_manifest, write_scene
from gcbench.errors import DataError, InputError
from gcbench.structures import Int16Array, Scene
from tests.data.mutations import assert_survives

SCENE_SETS = {1: 1, 5: 2, 10: 4, 20: 8}  # percent -> of 40 scenes
POINT_SETS = (20, 50, 100, 200)
NAMES = tuple(f"scene{number:04d}_00" for number in range(42))
TRAIN, VAL = NAMES[:40], NAMES[40:]
POINTS = 300


def segments(name: str) -> dict[str, Int16Array]:
    """Two label sets that leave different points unlabelled; scene0003_00 has 30 labels and scene0004_00 none."""
    rng = np.random.default_rng(int(name[5:9]))
    labels = {key: rng.integers(-1, 3, POINTS).astype(np.int16) for key in ("scannet20", "scannet200")}
    for values in labels.values():
        values[{"scene0003_00": 30, "scene0004_00": 0}.get(name, POINTS) :] = -1
    if name == "scene0003_00":
        labels["scannet20"][:30] = 0
    return labels


def labelled(name: str) -> set[int]:
    either = np.maximum(*segments(name).values())
    return set(np.flatnonzero(either >= 0).tolist())


def make_dataset(root: Path, names: tuple[str, ...] = NAMES, layout: str = "scannet") -> PreparedDataset:
    entries = {}
    for name in names:
        zeros = np.zeros((POINTS, 3), np.float32)
        path = scene_file(root, "scenes", name)
        write_scene(path, Scene(name, zeros, zeros.astype(np.uint8), zeros, segments(name)), {"notes": []})
        entries[name] = {
            "points": POINTS,
            "labels": ["scannet20", "scannet200"],
            "sha256": content_sha256(path),
            "notes": [],
        }
    splits = {"train": [n for n in names if n in TRAIN], "val": [n for n in names if n in VAL], "test": []}
    header = {"format_version": FORMAT_VERSION, "layout": layout, "synthetic": False, "synthetic_rooms": None}
    header |= {"label_sets": ["scannet20", "scannet200"], "normals": "none", "notes": [], "failed": {}}
    write_manifest(root, {**header, "splits": splits, "scenes": entries, "fingerprint": fingerprint(entries, splits)})
    return PreparedDataset.open(root)


def write_tasks(folder: Path, names: tuple[str, ...] = TRAIN) -> Path:
    """The benchmark's folder, as if it had been made for 40 training scenes."""
    (folder / "scenes").mkdir(parents=True)
    (folder / "points").mkdir()
    for percent, count in SCENE_SETS.items():
        (folder / "scenes" / f"{percent}.txt").write_text("".join(f"{name}\n" for name in reversed(names[:count])))
    rng = np.random.default_rng(0)
    for count in POINT_SETS:
        ids = {name: rng.permutation(POINTS)[:count] for name in (*names, "scene0706_00")}
        torch.save(ids, folder / "points" / f"points{count}")
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return make_dataset(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def dataset(shared: PreparedDataset) -> PreparedDataset:
    """The shared dataset without sets."""
    for file in (shared.root / subsets.FOLDER).glob("*"):
        file.unlink()
    return shared


def content(dataset: PreparedDataset) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((dataset.root / subsets.FOLDER).iterdir())}


def test_drawn_scenes_are_the_right_number_and_nested(dataset: PreparedDataset) -> None:
    assert subsets.draw(dataset, 0) == list(subsets.subset_names(dataset))
    larger = set(TRAIN)
    for percent, count in reversed(SCENE_SETS.items()):
        scenes = subsets.load_scenes(dataset, f"scenes-{percent}")
        assert len(set(scenes)) == count
        assert list(scenes) == sorted(scenes)
        assert set(scenes) <= larger
        larger = set(scenes)


def test_drawn_points_are_labelled_nested_and_all_where_there_are_few(dataset: PreparedDataset) -> None:
    subsets.draw(dataset, 0)
    larger = {name: labelled(name) for name in TRAIN}
    for count in reversed(POINT_SETS):
        points = subsets.load_points(dataset, f"points-{count}")
        assert tuple(points) == TRAIN
        for name, ids in points.items():
            assert len(set(ids.tolist())) == len(ids) == min(count, len(labelled(name)))
            assert set(ids.tolist()) <= larger[name]
            larger[name] = set(ids.tolist())
    stored = {subset.name: subset for subset in subsets.load_all(dataset)}
    assert stored["points-20"].notes == ("1 scenes have fewer than 20 labelled points: all of theirs are taken",)
    assert stored["points-50"].notes[0].startswith("2 scenes have fewer than 50")
    total = sum(len(labelled(name)) for name in TRAIN)
    assert stored["points-20"].labels == subsets.Labels(kept=39 * 20, of=total)
    chosen = subsets.load_scenes(dataset, "scenes-10")
    assert stored["scenes-10"].labels == subsets.Labels(kept=sum(len(labelled(name)) for name in chosen), of=total)


def test_the_seed_decides_everything(dataset: PreparedDataset) -> None:
    subsets.draw(dataset, 3)
    first = content(dataset)
    subsets.draw(dataset, 3)
    assert content(dataset) == first
    subsets.draw(dataset, 4)
    assert all(content(dataset)[name] != text for name, text in first.items())
    assert b"drawn: seed 4" in content(dataset)["scenes-1.json"]
    with pytest.raises(InputError, match="-1"):
        subsets.draw(dataset, -1)


def test_a_part_of_the_dataset_draws_the_same_points(dataset: PreparedDataset, tmp_path: Path) -> None:
    part = make_dataset(tmp_path, NAMES[10:15])
    for of in (dataset, part):
        subsets.draw(of, 0)
    whole = subsets.load_points(dataset, "points-50")
    for name, ids in subsets.load_points(part, "points-50").items():
        assert ids.tolist() == whole[name].tolist()
    assert len(subsets.load_scenes(part, "scenes-1")) == 1  # at least one


def test_progress_counts_the_training_scenes(dataset: PreparedDataset) -> None:
    steps: list[tuple[str, int, int]] = []
    subsets.draw(dataset, 0, on_scene=lambda *step: steps.append(step))
    assert steps == [(name, done, 40) for done, name in enumerate(TRAIN, start=1)]


@pytest.mark.parametrize("inside", [True, False])
def test_official_sets_are_taken_over_exactly(dataset: PreparedDataset, tmp_path: Path, inside: bool) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    assert subsets.write_official(dataset, tasks if inside else tmp_path) == list(subsets.subset_names(dataset))
    for percent, count in SCENE_SETS.items():
        assert subsets.load_scenes(dataset, f"scenes-{percent}") == tuple(reversed(TRAIN[:count]))
    official = torch.load(tasks / "points" / "points50", weights_only=False)
    points = subsets.load_points(dataset, "points-50")
    assert {name: sorted(official[name].tolist()) for name in TRAIN} == {n: ids.tolist() for n, ids in points.items()}
    stored = {subset.name: subset for subset in subsets.load_all(dataset)}
    assert stored["points-50"].official
    assert stored["points-50"].notes == ("1 scenes of the file are no training scenes of this dataset",)
    assert stored["points-50"].labels.kept == sum(len(labelled(name) & set(points[name].tolist())) for name in TRAIN)
    assert stored["scenes-5"].source.startswith("official: tasks/scenes/5.txt sha256 ")
    assert stored["scenes-5"].notes == ("the list has 2 names, the official one 60",)


def test_official_sets_are_not_replaced_by_drawn_ones(dataset: PreparedDataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "scenes" / "1.txt").unlink()
    assert "scenes-1" not in subsets.write_official(dataset, tasks)
    assert subsets.draw(dataset, 0) == ["scenes-1"]
    assert [subset.official for subset in subsets.load_all(dataset)] == [False] + [True] * 7


def test_a_part_must_be_accepted(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "part", (*NAMES[:3], NAMES[40]))
    tasks = write_tasks(tmp_path / "tasks")
    with pytest.raises(DataError, match=r"5\.txt|10\.txt") as caught:
        subsets.write_official(dataset, tasks)
    for text in ("names 1 scenes", "scene0003_00", "--allow-missing"):
        assert text in str(caught.value)
    assert not (dataset.root / subsets.FOLDER).exists()
    subsets.write_official(dataset, tasks, allow_missing=True)
    assert subsets.load_scenes(dataset, "scenes-10") == tuple(reversed(NAMES[:3]))
    stored = {subset.name: subset for subset in subsets.load_all(dataset)}
    assert stored["scenes-10"].notes[0] == "1 of 4 listed scenes are not in this dataset"
    assert tuple(subsets.load_points(dataset, "points-20")) == NAMES[:3]


def test_points_that_lack_a_training_scene(dataset: PreparedDataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks", TRAIN[1:])
    with pytest.raises(DataError, match=r"points20 has no points for 1 of 40 training scenes: scene0000_00"):
        subsets.write_official(dataset, tasks)
    subsets.write_official(dataset, tasks, allow_missing=True)
    assert tuple(subsets.load_points(dataset, "points-20")) == TRAIN[1:]


def test_a_validation_scene_in_an_official_list_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "scenes" / "1.txt").write_text(f"{VAL[0]}\n")
    for allow_missing in (False, True):
        with pytest.raises(DataError, match=rf"1\.txt.*{VAL[0]}"):
            subsets.write_official(dataset, tasks, allow_missing=allow_missing)


def test_a_broken_official_file_leaves_nothing_half_written(dataset: PreparedDataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    subsets.draw(dataset, 0)
    before = content(dataset)
    (tasks / "points" / "points200").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match="points200"):
        subsets.write_official(dataset, tasks)
    assert content(dataset) == before


def test_a_folder_without_the_files_is_named(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has none of scenes/1\.txt.*points/points200.*data-efficient"):
        subsets.write_official(dataset, tmp_path)


def test_what_is_not_there_or_not_asked_for_rightly(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scenes-1\.json is missing.*gcbench data subsets"):
        subsets.load_scenes(dataset, "scenes-1")
    assert subsets.load_all(dataset) == []
    with pytest.raises(DataError, match=r"no data-efficient set '../../x'.*scenes-1.*points-200"):
        subsets.load_scenes(dataset, "../../x")
    subsets.draw(dataset, 0)
    with pytest.raises(DataError, match="lists points per scene, not scenes"):
        subsets.load_scenes(dataset, "points-20")
    with pytest.raises(DataError, match="lists scenes, not points"):
        subsets.load_points(dataset, "scenes-1")
    with pytest.raises(DataError, match="'other'"):
        subsets.draw(make_dataset(tmp_path / "other", NAMES[:1], layout="other"), 0)
    with pytest.raises(DataError, match="no scenes in its split 'train'"):
        subsets.draw(make_dataset(tmp_path / "val", VAL), 0)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("scenes-1", {"dataset": "0" * 16}, "another state of the dataset"),
        ("scenes-1", {"name": "scenes-5"}, "must be 'scenes-1'"),
        ("scenes-1", {"scenes": ["scene0040_00"]}, "1 scenes are no training scenes of this dataset: scene0040_00"),
        ("scenes-1", {"scenes": ["scene0000_00"] * 2}, "one twice"),
        ("scenes-1", {"scenes": []}, "no scene"),
        ("scenes-1", {"scenes": [3]}, "scenes.scenes.0"),
        ("scenes-1", {"colour": 1}, "colour"),
        ("scenes-1", {"format_version": 2}, "format_version"),
        ("scenes-1", {"kind": "colours"}, "kind"),
        ("scenes-1", {"kind": "points"}, "points"),
        ("points-20", {"points": {"scene0000_00": [POINTS]}}, f"there is no point {POINTS}"),
        ("points-20", {"points": {"scene0000_00": [-1]}}, "greater than or equal to 0"),
        ("points-20", {"points": {"scene0000_00": [2, 2]}}, "not ascending"),
        ("points-20", {"points": {"scene0000_00": [1.5]}}, "valid integer"),
        ("points-20", {"points": {"scene0000_00": ["1"]}}, "valid integer"),
        ("points-20", {"points": {"scene0000_00": [10**30]}}, "no point"),
        ("points-20", {"points": {"../x": [1]}}, "no training scenes"),
    ],
)
def test_a_wrong_set_is_named_with_what_is_wrong(
    dataset: PreparedDataset, name: str, change: dict[str, object], expected: str
) -> None:
    subsets.draw(dataset, 0)
    file = subsets.subset_file(dataset, name)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=f"{name}.json") as caught:
        subsets.load(dataset, name)
    assert expected in str(caught.value)
    subsets.draw(dataset, 0)  # a drawn set is mended by drawing again
    subsets.load(dataset, name)


@pytest.mark.parametrize("name", ["scenes-20", "points-20"])
def test_damaged_sets(dataset: PreparedDataset, name: str) -> None:
    subsets.draw(dataset, 0)
    file = subsets.subset_file(dataset, name)
    whole = file.read_bytes()
    assert assert_survives(lambda: subsets.load(dataset, name), file, whole) > 100
    deep = b"[" * 100_000
    file.write_bytes(deep)
    with pytest.raises(DataError, match=f"{name}.json"):
        subsets.load(dataset, name)


def test_damaged_official_files_next_to_a_dataset(dataset: PreparedDataset, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    for file in (tasks / "scenes").glob("*"):
        file.unlink()
    for count in POINT_SETS[1:]:
        (tasks / "points" / f"points{count}").unlink()
    file = tasks / "points" / "points20"
    assert assert_survives(lambda: subsets.write_official(dataset, tasks), file, file.read_bytes(), count=20) > 5


def test_the_command_draws_and_shows(dataset: PreparedDataset, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(data_subsets.subsets)
    answer = CliRunner().invoke(app, [str(dataset.root), "--seed", "5"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert answer.exit_code == 0
    for text in ("scenes-20", "points-200", "drawn: seed 5", "note: points-20: 1 scenes have fewer than 20"):
        assert text in answer.output
    write_tasks(tmp_path / "tasks")
    arguments = [str(dataset.root), "--tasks", str(tmp_path / "tasks")]
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert "official: tasks/points/points20" in answer.output
    assert "drawn" not in answer.output
