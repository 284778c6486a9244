"""`gcbench evaluate` on small folders: every format, every protocol, and no number where something is wrong."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gcbench.cli.main import main
from gcbench.data.labels import load_label_set
from gcbench.data.storage import describe, fingerprint, scene_file, scene_sha256, write_manifest, write_scene
from gcbench.runs.evaluations import load_evaluation
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.instance_files import write_instances
from gcbench.scoring.label_files import write_labels
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticMetrics, SemanticScorer
from gcbench.structures import Scene

SCANNET20 = load_label_set("scannet20")
IDS = np.array([*SCANNET20.ids, 0])  # the last for class -1
SCENES = ("scene0011_00", "scene0011_01", "scene0015_00")
VERTICES = 700


class Split:
    """Three scenes: classes and instances of their vertices, semantic predictions, and four instances each."""

    def __init__(self, seed: int) -> None:
        self.segment, self.instance, self.guess, self.predictions = {}, {}, {}, {}
        for number, scene in enumerate(SCENES):
            draw = np.random.default_rng([5, number])
            owner = np.arange(VERTICES) // 140
            classes = draw.integers(2, 20, 5)
            classes[4] = -1
            self.segment[scene] = classes[owner]
            self.instance[scene] = np.where(self.segment[scene] < 0, -1, owner)
            draw = np.random.default_rng([seed, number])
            wrong = draw.random(VERTICES) < 0.3
            self.guess[scene] = np.where(wrong | (self.segment[scene] < 0), 0, self.segment[scene])
            masks = np.array([(owner == k) & (draw.random(VERTICES) < 0.9) for k in range(4)])
            self.predictions[scene] = InstancePredictions(classes[:4], draw.random(4, np.float32), masks)

    def write_text(self, root: Path) -> Path:
        for scene in SCENES:
            write_labels(root / "semantic" / f"{scene}.txt", IDS[self.guess[scene]])
            write_labels(root / "semantic_gt" / f"{scene}.txt", IDS[self.segment[scene]])
            found = self.predictions[scene]
            write_instances(root / "instance", scene, IDS[found.classes], found.scores.astype(np.float64), found.masks)
            ids = np.where(self.segment[scene] < 0, 0, IDS[self.segment[scene]] * 1000 + self.instance[scene] + 1)
            write_labels(root / "instance_gt" / f"{scene}.txt", ids)
        return root

    def semantic(self, protocol: str) -> SemanticMetrics:
        scorer = SemanticScorer(SCANNET20, load_protocol(protocol))
        for scene in SCENES:
            scorer.add(scene, self.guess[scene], self.segment[scene])
        return scorer.result()

    def instances(self, protocol: str) -> InstanceMetrics:
        scorer = InstanceScorer(SCANNET20, load_protocol(protocol))
        for scene in SCENES:
            scorer.add(scene, self.predictions[scene], InstanceTarget(self.segment[scene], self.instance[scene]))
        return scorer.result()


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(0)


@pytest.fixture(scope="module")
def written(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split.write_text(tmp_path_factory.mktemp("split"))


@pytest.fixture
def text(written: Path, tmp_path: Path) -> Path:
    """The split as text, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "split"))


def run(kind: str, pred: Path, gt: Path, *words: object) -> int:
    arguments = ["evaluate", kind, "--pred", pred, "--gt", gt, "--labels", "scannet20", *words]
    return main([str(word) for word in arguments])


def scores(kind: str, pred: Path, gt: Path, *words: object) -> dict:
    out = pred.parent / "scores.json"
    assert run(kind, pred, gt, "--json", out, *words) == 0
    return json.loads(out.read_text())


def without_nan(record: dict) -> dict:
    return json.loads(json.dumps(record), parse_constant=lambda _: None)


@pytest.mark.parametrize("protocol", ["scannet-official", "pointcept"])
def test_text_gives_the_numbers_of_the_arrays(written: Path, split: Split, protocol: str) -> None:
    for kind, expected in (("semantic", split.semantic(protocol)), ("instance", split.instances(protocol))):
        record = scores(kind, written / kind, written / f"{kind}_gt", "--protocol", protocol)
        for key, value in without_nan(expected.as_record()).items():
            assert record[key] == value, key
        assert record["kind"] == f"evaluate-{kind}"
        assert (record["protocol"]["name"], record["label_set"]) == (protocol, "scannet20")
        assert list(record["scenes"]) == sorted(SCENES)
    assert 0.5 < record["metrics"]["mAP"] < 1


def test_the_keys_that_others_read(written: Path) -> None:
    semantic = scores("semantic", written / "semantic", written / "semantic_gt")
    assert set(semantic["metrics"]) == {"mIoU", "mAcc", "allAcc"}
    assert set(semantic["classes"]["wall"]) == {"iou", "acc"}
    assert semantic["classes"]["floor"] == {"iou": None, "acc": None}  # neither in the scenes nor predicted
    instance = scores("instance", written / "instance", written / "instance_gt")
    assert set(instance["metrics"]) == {"mAP", "mAP50", "mAP25"}
    assert set(instance["classes"]["chair"]) == {"ap", "ap50", "ap25"}
    assert "wall" not in instance["classes"]


def to_arrays(root: Path, suffix: str, split: Split, indices: bool) -> None:
    ids = np.array([*range(20), -1]) if indices else IDS
    for kind in ("semantic", "instance", "semantic_gt", "instance_gt"):
        shutil.rmtree(root / kind)
        (root / kind).mkdir()
    for scene in SCENES:
        found = split.predictions[scene]
        content = {
            "semantic": {"segment": ids[split.guess[scene]]},
            "semantic_gt": {"segment": ids[split.segment[scene]]},
            "instance": {"masks": found.masks, "labels": ids[found.classes], "scores": found.scores},
            "instance_gt": {"segment": ids[split.segment[scene]], "instance": split.instance[scene]},
        }
        for kind, arrays in content.items():
            path = root / kind / f"{scene}{suffix}"
            if suffix == ".npz":
                np.savez(path, **arrays)
            elif suffix == ".safetensors":
                save_file(arrays, path)
            elif len(arrays) == 1:
                np.save(path, arrays["segment"])


@pytest.mark.parametrize("indices", [False, True])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_arrays_give_the_numbers_of_text(text: Path, split: Split, suffix: str, indices: bool) -> None:
    kinds = ("semantic",) if suffix == ".npy" else ("semantic", "instance")
    expected = {kind: scores(kind, text / kind, text / f"{kind}_gt") for kind in kinds}
    to_arrays(text, suffix, split, indices)
    for kind in kinds:
        words = ("--ids", "indices") if indices else ()
        assert scores(kind, text / kind, text / f"{kind}_gt", *words) == expected[kind]


@pytest.fixture(scope="module")
def prepared(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as a prepared dataset; a fourth one, in `train`, has no labels."""
    root = tmp_path_factory.mktemp("prepared")
    entries = {}
    for name in (*SCENES, "scene0020_00"):
        labelled = name in SCENES
        scene = Scene(
            name=name,
            coord=np.zeros((VERTICES, 3), np.float32),
            color=np.zeros((VERTICES, 3), np.uint8),
            normal=np.zeros((VERTICES, 3), np.float32),
            segments={"scannet20": split.segment[name].astype(np.int16)} if labelled else {},
            instance=split.instance[name].astype(np.int32) if labelled else None,
        )
        write_scene(scene_file(root, "scenes", name), scene, {})
        entries[name] = describe(scene, scene_sha256(scene), [])
    splits = {"val": list(SCENES), "train": ["scene0020_00"]}
    header = {"format_version": 1, "layout": "scannet", "synthetic": True, "label_sets": ["scannet20"], "normals": "x"}
    rest = {"splits": splits, "scenes": entries, "notes": [], "fingerprint": fingerprint(entries, splits)}
    write_manifest(root, header | rest)
    return root


def test_a_prepared_dataset_is_ground_truth(written: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("semantic", "instance"):
        expected = scores(kind, written / kind, written / f"{kind}_gt")
        record = scores(kind, written / kind, prepared)
        assert (record["split"], record["synthetic"], record["data_fingerprint"] is None) == ("val", True, False)
        assert record["metrics"] == expected["metrics"]
        assert record["scenes"] == expected["scenes"]
        assert record["protocol"]["fingerprint"] == expected["protocol"]["fingerprint"]
        assert "synthetic rooms" in capsys.readouterr().out
    assert run("semantic", written / "semantic", prepared, "--split", "test") == 2
    assert "has no split 'test'.\nIt has: val, train. Choose with --split." in capsys.readouterr().err
    (written / "unlabelled").mkdir()
    write_labels(written / "unlabelled" / "scene0020_00.txt", np.ones(VERTICES, np.int64))
    assert run("semantic", written / "unlabelled", prepared, "--split", "train") == 2
    assert "Scene 'scene0020_00'" in capsys.readouterr().err
    assert run("semantic", written / "semantic", prepared, "--labels", "scannet200") == 2
    assert "has no labels of scannet200" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_two_processes_give_the_same_result(text: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = scores(kind, text / kind, text / f"{kind}_gt")
    assert scores(kind, text / kind, text / f"{kind}_gt", "--workers", 2) == alone
    broken = text / "semantic" / f"{SCENES[1]}.txt"
    if kind == "instance":
        broken = next((text / "instance" / "predicted_masks").glob(f"{SCENES[1]}*"))
    broken.write_text(broken.read_text() + "x\n")
    capsys.readouterr()
    assert run(kind, text / kind, text / f"{kind}_gt", "--workers", 2) == 2
    assert f"{broken}, line {VERTICES + 1}: 'x' is no integer" in capsys.readouterr().err


def test_several_seeds_and_both_uncertainties(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = [Split(seed) for seed in range(3)]
    folders = [split.write_text(tmp_path / str(number)) for number, split in enumerate(seeds)]
    words = [word for folder in folders[1:] for word in ("--pred", folder / "semantic")]
    record = scores("semantic", folders[0] / "semantic", folders[0] / "semantic_gt", *words)
    values = [split.semantic("scannet-official").miou for split in seeds]
    assert record["metrics"]["mIoU"] == np.mean(values)
    assert record["seeds"]["mIoU"] == {"mean": np.mean(values), "std": np.std(values, ddof=1), "n": 3}
    assert [one["metrics"]["mIoU"] for one in record["runs"]] == values
    low, high = record["intervals"]["scenes"]["mIoU"]
    assert low < record["metrics"]["mIoU"] < high
    assert {key: record["intervals"][key] for key in ("level", "draws", "seed")} == {
        "level": 0.95,
        "draws": 1000,
        "seed": 0,
    }
    printed = capsys.readouterr().out
    assert "over scenes" in printed
    assert "over runs" in printed
    none = scores("semantic", folders[0] / "semantic", folders[0] / "semantic_gt", "--bootstrap", 0)
    assert none["intervals"] is None
    assert none["seeds"] is None
    assert run("semantic", folders[0] / "semantic", folders[0] / "semantic_gt", "--pred", folders[0] / "semantic") == 2
    assert "names a folder twice" in capsys.readouterr().err


def test_the_table_and_csv(written: Path, split: Split, capsys: pytest.CaptureFixture[str]) -> None:
    out = written / "scores.csv"
    assert run("instance", written / "instance", written / "instance_gt", "--csv", out) == 0
    printed = capsys.readouterr().out
    metrics = split.instances("scannet-official")
    assert f"{100 * metrics.map:.2f}" in printed
    assert "3 scenes, scannet-official v1" in printed
    assert "So few scenes say little" in printed
    rows = list(csv.DictReader(out.open()))
    assert float(rows[0]["mAP50"]) == metrics.map50
    (chair,) = [row for row in rows if row["name"] == "chair"]
    expected = metrics.ap[SCANNET20.classes.index("chair")]
    assert chair["ap"] == ("" if math.isnan(expected) else repr(float(expected)))
    assert chair["scope"] == "class"


def test_two_hundred_classes_and_their_groups(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("--labels", "scannet200")
    record = scores("semantic", text / "semantic", text / "semantic_gt", *labels, "--csv", text / "a.csv")
    assert set(record["groups"]) == {"head", "common", "tail"}
    assert len(record["classes"]) == 200
    printed = capsys.readouterr().out
    assert "200 classes: --classes prints them" in printed
    assert "head" in printed
    assert "rail" not in printed
    assert run("semantic", text / "semantic", text / "semantic_gt", *labels, "--classes") == 0
    assert "rail" in capsys.readouterr().out
    assert "group,tail" in (text / "a.csv").read_text()
    instance = scores("instance", text / "instance", text / "instance_gt", *labels)
    assert set(instance["groups"]["head"]) == {"ap", "ap50", "ap25"}


def test_areas_are_put_together_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    areas: dict[str, list[float]] = {}
    for room, right in (("Area_1/office_1", 0.9), ("Area_1/hall_1", 0.5), ("Area_2/office_1", 0.7)):
        target = draw.integers(0, 13, 400)
        guess = np.where(draw.random(400) < right, target, (target + 1) % 13)
        write_labels(tmp_path / "gt" / f"{room}.txt", target)
        write_labels(tmp_path / "pred" / f"{room}.txt", guess)
        areas.setdefault(room.split("/")[0], []).append(float((guess == target).mean()))
    words = ("--labels", "s3dis", "--protocol", "pointcept", "--csv", tmp_path / "a.csv")
    record = scores("semantic", tmp_path / "pred", tmp_path / "gt", *words)
    expected = {area: float(np.mean(values)) for area, values in areas.items()}
    assert {area: fold["allAcc"] for area, fold in record["folds"].items()} == pytest.approx(expected, abs=1e-9)
    assert record["fold_mean"]["allAcc"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert record["metrics"]["allAcc"] == pytest.approx(np.mean([a for part in areas.values() for a in part]), abs=1e-9)
    assert "mean of the folds" in capsys.readouterr().out
    assert "fold,Area_1" in (tmp_path / "a.csv").read_text()


def test_missing_scenes_are_refused_or_named(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text / "semantic" / f"{SCENES[1]}.txt").unlink()
    assert run("semantic", text / "semantic", text / "semantic_gt") == 2
    assert f"1 of 3 scenes have no prediction in {text / 'semantic'}: {SCENES[1]}." in capsys.readouterr().err
    record = scores("semantic", text / "semantic", text / "semantic_gt", "--allow-missing")
    assert record["missing"] == [SCENES[1]]
    assert len(record["scenes"]) == 2
    assert "1 scenes without a prediction were left out" in capsys.readouterr().out


def test_what_the_official_script_writes_is_no_scene(text: Path) -> None:
    for kind, name in (("semantic", "semantic_label"), ("instance", "semantic_instance")):
        for folder in (kind, f"{kind}_gt"):
            (text / folder / f"{name}_evaluation.txt").write_text("iou scores\n")
        assert run(kind, text / kind, text / f"{kind}_gt") == 0


Change = Callable[[Path], object]
WRONG: list[tuple[str, Change, str]] = [
    ("semantic", lambda p: (p / "semantic" / "scene0011_00.txt").write_text("1\n2\nx\n"), "scene0011_00.txt, line 3"),
    ("semantic", lambda p: (p / "semantic" / "scene0011_00.txt").write_text("1\n2\n"), "2 values, its scene 700"),
    ("semantic", lambda p: (p / "semantic_gt" / "scene0011_00.txt").write_text("1.5\n"), "gt/scene0011_00.txt, line 1"),
    ("semantic", lambda p: (p / "semantic" / "scene0099_00.txt").write_text("1\n"), "1 predictions have no ground"),
    ("semantic", lambda p: np.save(p / "semantic" / "scene0011_00.npy", [1]), "Scene 'scene0011_00' has two files"),
    ("semantic", lambda p: np.save(p / "semantic_gt" / "scene0011_00.npy", [1]), "'scene0011_00' has two files"),
    ("semantic", lambda p: shutil.rmtree(p / "semantic"), "semantic does not exist"),
    ("semantic", lambda p: shutil.rmtree(p / "semantic_gt"), "semantic_gt does not exist"),
    ("semantic", lambda p: [f.unlink() for f in (p / "semantic").iterdir()], "no prediction for any of 3 scenes"),
    ("semantic", lambda p: [f.unlink() for f in (p / "semantic_gt").iterdir()], "has no ground truth"),
    ("instance", lambda p: (p / "instance" / "scene0011_00.txt").write_text("m 3\n"), "scene0011_00.txt, line 1"),
    ("instance", lambda p: (p / "instance" / "scene0011_00.txt").write_text("../m 3 1\n"), "lies outside of"),
    ("instance", lambda p: (p / "instance" / "scene0011_00.txt").write_text("m.txt 3 1\n"), "m.txt cannot be read"),
    ("instance", lambda p: (p / "instance" / "scene0011_00.txt").write_bytes(b"\xff\xfe\0"), "line 1"),
    ("instance", lambda p: (p / "instance_gt" / "scene0011_00.txt").write_text("1\n"), "700 values, its scene 1 vert"),
]


@pytest.mark.parametrize(("kind", "change", "said"), WRONG)
def test_no_number_where_something_is_wrong(
    text: Path, kind: str, change: Change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(text)
    assert run(kind, text / kind, text / f"{kind}_gt", "--json", text / "a.json", "--csv", text / "a.csv") == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert not (text / "a.json").exists()
    assert not (text / "a.csv").exists()


def test_no_class_of_the_list_depends_on_the_protocol(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = text / "semantic" / f"{SCENES[0]}.txt"
    lines = path.read_text().splitlines()
    lines[4] = "13"
    path.write_text("\n".join(lines))
    assert run("semantic", text / "semantic", text / "semantic_gt") == 0
    assert run("semantic", text / "semantic", text / "semantic_gt", "--protocol", "pointcept") == 2
    assert f"{path}, line 5: 13 is no class of scannet20." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "scannet"), "There is no label set 'scannet'. Known: s3dis, scannet20, scannet200."),
        (("--protocol", "official"), "There is no evaluation protocol 'official'"),
        (("--split", "val"), "is no prepared dataset"),
        (("--json", "no/such/folder/a.json"), "cannot be written"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_options_that_make_no_sense(
    written: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("semantic", written / "semantic", written / "semantic_gt", *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_s3dis_has_no_official_instances(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("instance", written / "instance", written / "instance_gt", "--labels", "s3dis") == 2
    assert "does not say which classes of 's3dis'" in capsys.readouterr().err


def test_indices_out_of_range_are_named(text: Path, split: Split, capsys: pytest.CaptureFixture[str]) -> None:
    to_arrays(text, ".npz", split, indices=False)  # raw ids up to 39
    assert run("semantic", text / "semantic", text / "semantic_gt", "--ids", "indices") == 2
    assert "is no class index of scannet20" in " ".join(capsys.readouterr().err.split())


def test_a_result_loads_again_and_a_newer_one_does_not(written: Path) -> None:
    from gcbench.errors import RunError

    scores("semantic", written / "semantic", written / "semantic_gt")
    record = load_evaluation(written / "scores.json")
    assert math.isnan(record.classes["floor"]["iou"])
    content = json.loads((written / "scores.json").read_text())
    newer = written / "newer.json"
    newer.write_text(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(RunError, match="Update gcbench"):
        load_evaluation(newer)
    newer.write_text(json.dumps(content | {"surprise": 1}))
    with pytest.raises(RunError, match="'surprise'"):
        load_evaluation(newer)


def test_nothing_heavy_is_imported(written: Path) -> None:
    code = (
        "import sys; from gcbench.cli.main import main\n"
        "code = main(['evaluate', 'instance', '--pred', 'instance', '--gt', 'instance_gt', '--labels', 'scannet20'])\n"
        "heavy = ('torch', 'pyarrow', 'scipy', 'matplotlib', 'datasets', 'numba')\n"
        "sys.stderr.write(','.join(name for name in heavy if name in sys.modules)); sys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=written)
    assert (answer.returncode, answer.stderr) == (0, "")


def mutate(root: Path, draw: np.random.Generator) -> str:
    """Break one file of a folder in one of many ways; what was done."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = files[draw.integers(len(files))]
    content = bytearray(path.read_bytes())
    at = int(draw.integers(max(len(content), 1)))
    odd = [
        b"\0",
        b"\xff",
        b"\n",
        b" ",
        b"-1\n",
        b"nan",
        b"1e3\n",
        b"../../x ",
        b"9" * 30,
        "٣".encode(),
        b"\r",
        b"0x1\n",
    ]
    way = int(draw.integers(8))
    if way == 0:
        path.write_bytes(content[:at])
    elif way == 1:
        path.write_bytes(content[:at] + odd[draw.integers(len(odd))] + content[at:])
    elif way == 2:
        path.write_bytes(bytes(draw.integers(0, 256, 50, np.uint8)))
    elif way == 3:
        path.unlink()
        path.mkdir()
    elif way == 4:
        path.write_bytes(files[draw.integers(len(files))].read_bytes())
    elif way == 5:
        path.unlink()
        path.symlink_to(files[draw.integers(len(files))] if draw.random() < 0.5 else "/dev/zero")
    elif way == 6:
        path.rename(path.with_suffix([".npy", ".npz", ".safetensors", "", ".txt.txt"][draw.integers(5)]))
    else:
        content[at : at + 1] = bytes([int(draw.integers(256))])
        path.write_bytes(content)
    return f"{path.relative_to(root)}: way {way} at {at}"


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_mutated_predictions_are_scored_or_refused(
    written: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    for seed in range(120):
        pred = tmp_path / str(seed) / kind
        shutil.copytree(written / kind, pred)
        did = mutate(pred, np.random.default_rng(seed))
        out = tmp_path / f"{seed}.json"
        code = run(kind, pred, written / f"{kind}_gt", "--json", out, "--bootstrap", 0)
        captured = capsys.readouterr()
        assert code in (0, 2), (seed, did, captured.err)
        assert out.exists() == (code == 0)
        assert (captured.out == "") == (code == 2)
        assert "Traceback" not in captured.err
        refused += code == 2
    assert refused > 60
