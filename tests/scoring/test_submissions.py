"""Submissions: every kind of violation is named with file and line, and nothing that a stranger packs does harm."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.cli.main import main
from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.scoring import submission_files, submissions
from gcbench.scoring.instance_files import write_instances
from gcbench.scoring.label_files import bad_lines, write_labels
from gcbench.scoring.submissions import (
    SubmissionError,
    SubmissionReport,
    SubmissionRules,
    check_submission,
    pack_submission,
)

SCANNET20 = load_label_set("scannet20")
SCENES = ("scene0707_00", "scene0708_00", "scene0709_00")
VERTICES = 300
RULES = SubmissionRules(
    label_set=SCANNET20,
    scenes=SCENES,
    evaluated=frozenset(SCANNET20.ids[2:]),
    minimum_vertices=100,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a semantic and an instance submission, and each as a ZIP."""
    root = tmp_path_factory.mktemp("submission")
    draw = np.random.default_rng(0)
    for scene in SCENES:
        write_labels(root / "semantic" / f"{scene}.txt", draw.choice(SCANNET20.ids, VERTICES))
        masks = np.array([np.arange(VERTICES) // 150 == part for part in range(2)])
        write_instances(root / "instance", scene, np.array([5, 39]), np.array([0.5, 0.25]), masks)
    for kind in ("semantic", "instance"):
        make_zip(root / kind, root / f"{kind}.zip")
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "submission"))


def make_zip(folder: Path, out: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return out


def messages(report: SubmissionReport, *, errors: bool = True) -> list[str]:
    return [
        f"{found.file}{f', line {found.line}' if found.line else ''}: {found.reason}"
        for found in report.violations
        if found.is_error == errors
    ]


@pytest.mark.parametrize("kind", ["semantic", "instance"])
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_a_good_submission_has_nothing_wrong(good: Path, kind: str, suffix: str) -> None:
    vertices = dict.fromkeys(SCENES, VERTICES)
    for rules in (RULES, SubmissionRules(**{**vars(RULES), "vertices": vertices, "kind": kind})):
        report = check_submission(good / f"{kind}{suffix}", rules)
        assert report.violations == ()
        assert (report.kind, report.scenes, report.files) == (kind, 3, 3 if kind == "semantic" else 9)


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))

    return apply


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text) and None


def to_the_top(folder: Path) -> None:
    """Put a mask where the official script takes it for the file of a scene."""
    (folder / MASK).rename(folder / "m.txt")
    edit(FIRST, lambda lines: [lines[0].replace(MASK, "m.txt"), *lines[1:]])(folder)


FIRST, SECOND = (f"{scene}.txt" for scene in SCENES[:2])
MASK = "predicted_masks/scene0707_00_000.txt"
WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("semantic", lambda p: (p / FIRST).unlink(), f"{FIRST}: the file of this scene is missing"),
    ("semantic", edit(FIRST, lambda t: [*t[:4], "13", *t[5:]]), f"{FIRST}, line 5: 13 is no label id of scannet20"),
    ("semantic", edit(FIRST, lambda t: [*t[:4], "5.0", *t[5:]]), f"{FIRST}, line 5: '5.0' is no integer"),
    ("semantic", edit(FIRST, lambda t: [*t[:4], "", *t[5:]]), f"{FIRST}, line 5: it is empty"),
    ("semantic", lambda p: (p / FIRST).write_text(""), f"{FIRST}: it has 0 lines"),
    ("semantic", lambda p: (p / FIRST).write_bytes(b"\xff\xfe1\0\n"), f"{FIRST}, line 1: '\\xff\\xfe1\\x00' is no int"),
    ("semantic", lambda p: (p / "scene0001_00.txt").write_text("1\n"), "scene0001_00.txt: it is no file of a test sce"),
    ("semantic", lambda p: (p / "readme.md").write_text("hi"), "readme.md: it is no file of a test scene"),
    ("semantic", lambda p: (p / ".DS_Store").write_text("x"), ".DS_Store: '.DS_Store' was left by macOS: remove it"),
    ("semantic", lambda p: (p / "é.txt").write_text("1"), "é.txt: its name has characters other than plain ASCII"),
    ("semantic", lambda p: (p / FIRST.upper()).write_text("1"), "differs from"),
    ("instance", edit(FIRST, lambda t: [t[0], "m.txt 3"]), f"{FIRST}, line 2: 'm.txt 3' has 2 fields instead of 3"),
    ("instance", append(FIRST, "m.txt 5 0.5\n"), f"{FIRST}, line 3: there is no mask 'm.txt'"),
    ("instance", append(FIRST, "../m.txt 5 0.5\n"), f"{FIRST}, line 3: the mask '../m.txt' lies outside of the subm"),
    ("instance", append(FIRST, "/m.txt 5 0.5\n"), f"{FIRST}, line 3: the mask '/m.txt' is no relative path"),
    ("instance", append(FIRST, f"{MASK} 5 1\n"), f"{FIRST}, line 3: the mask '{MASK}' is named twice, also in {FIRST}"),
    ("instance", append(SECOND, f"x/../{MASK} 5 1\n"), f"{SECOND}, line 3: the mask '{MASK}' is named twice, also in"),
    ("instance", append(FIRST, f"{SECOND} 5 1\n"), f"{FIRST}, line 3: '{SECOND}' is the file of a scene, and no mask"),
    ("instance", append(FIRST, "m 5 high\n"), f"{FIRST}, line 3: the confidence 'high' is no number"),
    ("instance", edit(MASK, lambda t: t[1:]), "has 300 lines; predicted_masks/scene0707_00_000.txt has 299"),
    ("instance", edit(MASK, lambda t: [*t[:8], "x", *t[9:]]), f"{MASK}, line 9: 'x' is no integer"),
    ("instance", lambda p: (p / MASK).unlink(), f"{FIRST}, line 1: there is no mask '{MASK}'"),
    ("instance", lambda p: (p / "a.txt").write_text("x"), "a.txt: it is no file of a test scene"),
    ("instance", lambda p: to_the_top(p), f"{FIRST}, line 1: the mask 'm.txt' lies at the top; masks must lie in a"),
    ("instance", edit(FIRST, lambda t: ["", *t]), f"{FIRST}, line 1: it is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "said"), WRONG)
def test_a_violation_is_named_in_a_folder_and_in_a_zip(
    root: Path, kind: str, change: Callable[[Path], object], said: str
) -> None:
    change(root / kind)
    for source in (root / kind, make_zip(root / kind, root / "spoilt.zip")):
        found = messages(check_submission(source, SubmissionRules(**{**vars(RULES), "kind": kind})))
        assert any(said in message for message in found), found
        assert len(found) == 1


def test_the_number_of_vertices_is_held_against_the_mesh(good: Path) -> None:
    rules = SubmissionRules(**{**vars(RULES), "vertices": dict.fromkeys(SCENES, VERTICES + 1)})
    found = messages(check_submission(good / "semantic", rules))
    assert found == [f"{scene}.txt: it has 300 lines; the scene has 301 vertices" for scene in SCENES]
    assert len(messages(check_submission(good / "instance", rules))) == 6


def test_warnings_are_no_errors(root: Path) -> None:
    (root / "instance" / FIRST).write_text("")
    edit(SECOND, lambda lines: [lines[0].replace(" 5 ", " 1 "), lines[1]])(root / "instance")
    edit("predicted_masks/scene0709_00_000.txt", lambda lines: ["0"] * 250 + ["1"] * 50)(root / "instance")
    report = check_submission(root / "instance", RULES)
    assert report.errors == 0
    assert messages(report, errors=False) == [
        f"{FIRST}: it has no prediction",
        f"{SECOND}: 1 predictions have a label id that is not evaluated, and are skipped",
        "scene0709_00.txt: 1 predictions have under 100 vertices, and are dropped",
        "predicted_masks/scene0707_00_000.txt: no line of a scene names this mask",
        "predicted_masks/scene0707_00_001.txt: no line of a scene names this mask",
    ]
    edit(FIRST, lambda lines: ["0", *lines[1:]])(root / "semantic")
    assert "1 vertices have no label (0)" in messages(check_submission(root / "semantic", RULES), errors=False)[0]


def test_class_indices_are_recognised(root: Path) -> None:
    for scene in SCENES:
        write_labels(root / "semantic" / f"{scene}.txt", np.arange(VERTICES) % 20)
    report = check_submission(root / "semantic", RULES)
    assert (
        f"{FIRST}, line 14: 13 is no label id of scannet20; these look like class indices, not label ids"
        in messages(report)
    )
    assert report.errors == 3 * VERTICES // 20 * 5  # 13, 15, 17, 18, 19


def test_every_line_is_counted_though_not_all_are_listed(root: Path) -> None:
    (root / "semantic" / FIRST).write_text("x\n" * 5000)
    report = check_submission(root / "semantic", RULES)
    assert report.errors == 5000
    assert len(report.violations) == 1001
    assert report.violations[-1].reason == "4000 more lines are wrong from here on"
    assert report.violations[-1].line == 1001


def test_many_files_of_wrong_lines_are_counted_and_few_lines_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "_LISTED", 10)
    monkeypatch.setattr(submissions, "_MOST_LISTED", 25)
    for mask in (root / "instance" / "predicted_masks").iterdir():
        mask.write_text("1.0\n" * VERTICES)
    report = check_submission(root / "instance", RULES)
    assert report.errors == 6 * VERTICES
    assert len(report.violations) == 3 * (10 + 1) + 3 * (1 + 1)


@pytest.mark.parametrize("alphabet", ["059 \t\r\n\n+-x\x0b", "1.\n\r", "5x\n", "x\n"])
@given(data=st.data())
def test_wrong_lines_are_counted_as_they_are_listed(alphabet: str, data: st.DataObject) -> None:
    content = data.draw(st.text(alphabet, max_size=30)).encode()
    assert submissions._count_bad(content) == sum(1 for _ in bad_lines(content))


def test_files_with_errors_come_first_and_lines_in_order(root: Path) -> None:
    (root / "instance" / FIRST).write_text("")
    mask = "predicted_masks/scene0708_00_000.txt"
    edit(SECOND, lambda lines: [*lines, "m.txt 5 1", "bad", "m.txt 5 1"])(root / "instance")
    edit(mask, lambda lines: ["x", *lines[1:]])(root / "instance")
    report = check_submission(root / "instance", RULES)
    assert [(found.file, found.line, found.is_error) for found in report.violations[:5]] == [
        (mask, 1, True),
        *((SECOND, line, True) for line in (3, 4, 5)),
        (FIRST, None, False),
    ]


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_a_root_folder_is_named_once(good: Path, root: Path, tmp_path: Path, kind: str) -> None:
    said = "mine: all files lie in this folder; they must lie at the top. They were not looked into"
    report = check_submission(make_zip(good / kind, tmp_path / "a.zip", "mine/"), RULES)
    assert (report.kind, messages(report)) == (kind, [said])
    (root / kind / SECOND).unlink()
    report = check_submission(make_zip(root / kind, tmp_path / "a.zip", "mine/"), RULES)
    assert messages(report) == [said, f"{SECOND}: the file of this scene is missing"]


# What a ZIP can do that a folder cannot


def spoilt_zip(good: Path, out: Path, name: str, content: bytes = b"1\n", **of_entry: object) -> Path:
    shutil.copy(good / "semantic.zip", out)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        for key, value in of_entry.items():
            setattr(entry, key, value)
        archive.writestr(entry, content)
    return out


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "of_entry", "said"),
    [
        ("../evil.txt", {}, "../evil.txt: its name leads out of the folder (..)"),
        ("a/../../evil.txt", {}, "its name leads out of the folder (..)"),
        ("/etc/evil.txt", {}, "/etc/evil.txt: its name is an absolute path"),
        ("C:/evil.txt", {}, "its name is an absolute path"),
        ("a\\evil.txt", {}, "a\\evil.txt: its name has a backslash"),
        ("a//evil.txt", {}, "its name has an empty part"),
        ("./evil.txt", {}, "its name has an empty part"),
        (FIRST, {}, f"{FIRST}: there are two files of this name"),
        ("link.txt", {"external_attr": (stat.S_IFLNK | 0o777) << 16}, "link.txt: it is a link"),
        ("pipe.txt", {"external_attr": (stat.S_IFIFO | 0o777) << 16}, "pipe.txt: it is no regular file"),
        ("bz2.txt", {"compress_type": zipfile.ZIP_BZIP2}, "bz2.txt: its compression (method 12) is not Deflate"),
        ("__MACOSX/._a.txt", {}, "'__MACOSX' was left by macOS: remove it"),
        ("a\x1b[31m.txt", {}, "its name has characters other than plain ASCII"),
        ("folder/", {}, "folder/: it is a folder with content"),
        (f"{FIRST}/m.txt", {}, f"{FIRST}: it is a file and a folder at once"),
    ],
)
def test_unsafe_members_are_named_and_not_read(
    good: Path, tmp_path: Path, name: str, of_entry: dict[str, object], said: str
) -> None:
    report = check_submission(spoilt_zip(good, tmp_path / "a.zip", name, **of_entry), RULES)
    assert any(said in message for message in messages(report)), messages(report)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip"]


def test_an_encrypted_member_is_named(good: Path, tmp_path: Path) -> None:
    path = spoilt_zip(good, tmp_path / "a.zip", "secret.txt")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last entry of the directory
    content[at + 8] |= 1
    path.write_bytes(content)
    assert "secret.txt: it is encrypted" in messages(check_submission(path, RULES))


def test_a_bomb_is_not_unpacked(good: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission_files, "LARGEST_FILE", 1 << 20)
    bomb = spoilt_zip(good, tmp_path / "a.zip", "bomb.txt", b"0" * (1 << 22))
    assert "bomb.txt: it would unpack to 4 MB" in messages(check_submission(bomb, RULES))
    # A scene that says it is small: what is read ends there, and the checksum tells.
    (root / "semantic" / FIRST).write_bytes(b"5\n" * (1 << 21))
    content = make_zip(root / "semantic", tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content.replace((1 << 22).to_bytes(4, "little"), (600).to_bytes(4, "little")))
    assert messages(check_submission(tmp_path / "b.zip", RULES)) == [
        f"{FIRST}: it unpacks to more than the 600 bytes that the archive says"
    ]
    monkeypatch.setattr(submission_files, "LARGEST_TOTAL", 1 << 21)
    report = check_submission(bomb, RULES)
    assert "are too much; nothing was unpacked" in messages(report)[0]
    assert report.files == 0


@pytest.mark.parametrize(
    ("says", "said"), [(600, "the archive is broken here (Bad CRC"), (900, "it unpacks to less than the 900")]
)
def test_a_member_must_unpack_to_what_the_archive_says(root: Path, tmp_path: Path, says: int, said: str) -> None:
    """With a checksum to match, `zipfile` alone would take the first 600 bytes for the whole."""
    whole = b"14\n" * (400 if says < 800 else 200)
    (root / "semantic" / FIRST).write_bytes(whole)
    content = make_zip(root / "semantic", tmp_path / "a.zip").read_bytes()
    for old, new in ((len(whole), says), (zlib.crc32(whole), zlib.crc32(whole[:says]))):
        assert content.count(old.to_bytes(4, "little")) >= 2
        content = content.replace(old.to_bytes(4, "little"), new.to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(content)
    (found,) = messages(check_submission(tmp_path / "a.zip", RULES))
    assert found.startswith(f"{FIRST}: {said}")


def test_an_endless_list_of_members_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission_files, "LARGEST_DIRECTORY", 1 << 17)  # its end alone has up to 64 kB
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3000):
            archive.writestr(f"{number}.txt", b"")
    with pytest.raises(InputError, match="its list of files has 160,890 bytes"):
        check_submission(tmp_path / "a.zip", RULES)


def test_a_folder_may_be_deeper_than_the_recursion_of_python(root: Path) -> None:
    deep = root / "semantic" / Path(*"a" * 400)
    deep.mkdir(parents=True)
    (deep / "x.txt").write_text("1")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        report = check_submission(root / "semantic", RULES)
    finally:
        sys.setrecursionlimit(limit)
    assert messages(report) == ["a/" * 400 + "x.txt: it is no file of a test scene"]


def test_a_folder_has_so_many_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission_files, "MOST_FILES", 2)
    found = messages(check_submission(root / "semantic", RULES))
    assert found[0] == ": more than 2 files are too much; the others are left out"


def test_a_folder_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "predicted_masks":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(submission_files.os, "scandir", refuse)
    report = check_submission(root / "instance", RULES)
    assert "predicted_masks: this folder cannot be read: Permission denied" in messages(report)


def test_a_huge_line_is_cut_in_the_message(root: Path) -> None:
    (root / "semantic" / FIRST).write_bytes(b"1" * (1 << 22) + b"\n")
    (found,) = messages(check_submission(root / "semantic", RULES))
    assert found == f"{FIRST}, line 1: '{'1' * 40}'... is no integer"


def test_too_many_predictions_of_a_scene_are_not_read(root: Path) -> None:
    (root / "instance" / FIRST).write_bytes(b"m 5 1\n" * 100_001)
    assert messages(check_submission(root / "instance", RULES)) == [
        f"{FIRST}: it has 100001 lines, too many for a scene"
    ]


def test_links_and_pipes_of_a_folder(root: Path) -> None:
    folder = root / "semantic"
    (folder / "out.txt").symlink_to(root / "instance" / FIRST)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "linked").symlink_to(folder)
    os.mkfifo(folder / "pipe.txt")
    found = messages(check_submission(folder, RULES))
    assert "out.txt: it is a link that leads out of the folder" in found
    assert "linked: it is a link to a folder" in found
    assert {"loop.txt: it is no regular file", "pipe.txt: it is no regular file"} <= set(found)
    assert len(found) == 4


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="not a whole ZIP"):
        check_submission(tmp_path / "a.zip", RULES)
    with pytest.raises(InputError, match="does not exist"):
        check_submission(tmp_path / "b.zip", RULES)


# Packing


def packed(kind: str, predictions: Path, out: Path, **words: bool) -> SubmissionReport:
    return pack_submission(predictions, out, SubmissionRules(**{**vars(RULES), "kind": kind}), **words)


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_packing_is_clean_and_repeats(good: Path, tmp_path: Path, kind: str) -> None:
    for out in ("a.zip", "b.zip"):
        assert packed(kind, good / kind, tmp_path / out).violations == ()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for path in (good / kind).rglob("*.txt"):
            assert archive.read(path.relative_to(good / kind).as_posix()) == path.read_bytes()


@pytest.mark.parametrize("indices", [False, True])
def test_arrays_are_packed_as_text(good: Path, tmp_path: Path, indices: bool) -> None:
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    lookup = {raw: index for index, raw in enumerate(SCANNET20.ids)}
    for scene in SCENES:
        labels = np.loadtxt(good / "semantic" / f"{scene}.txt", np.int64)
        np.save(arrays / f"{scene}.npy", [lookup[raw] for raw in labels] if indices else labels)
    packed("semantic", arrays, tmp_path / "semantic.zip", indices=indices)
    with zipfile.ZipFile(tmp_path / "semantic.zip") as archive:
        assert archive.read(FIRST) == (good / "semantic" / FIRST).read_bytes()
    for scene in SCENES:
        (arrays / f"{scene}.npy").unlink()
        masks = np.array([np.arange(VERTICES) // 150 == part for part in range(2)])
        labels = np.array([4, 19] if indices else [5, 39])
        np.savez(arrays / f"{scene}.npz", masks=masks, labels=labels, scores=np.array([0.5, 0.25], np.float32))
    packed("instance", arrays, tmp_path / "instance.zip", indices=indices)
    with zipfile.ZipFile(tmp_path / "instance.zip") as archive:
        for path in (good / "instance").rglob("*.txt"):
            assert archive.read(path.relative_to(good / "instance").as_posix()) == path.read_bytes()


def test_a_class_index_out_of_range_is_not_packed(good: Path, tmp_path: Path) -> None:
    for scene in SCENES:
        np.save(tmp_path / f"{scene}.npy", np.array([0, 19, -1, 20]))
    with pytest.raises(SubmissionError) as caught:
        packed("semantic", tmp_path, tmp_path / "a.zip", indices=True)
    assert len(messages(caught.value.report)) == len(SCENES)
    assert "value 3 is 20, which is no class index of scannet20" in messages(caught.value.report)[0]


def test_nothing_is_packed_with_an_error(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.zip"
    edit(FIRST, lambda lines: ["13", *lines[1:]])(root / "semantic")
    with pytest.raises(SubmissionError, match="1 error; nothing was written") as caught:
        packed("semantic", root / "semantic", out)
    assert messages(caught.value.report) == [f"{FIRST}, line 1: 13 is no label id of scannet20"]
    (root / "semantic" / SECOND).unlink()
    (root / "semantic" / "scene0709_00.txt").write_text("1\nx\n")
    np.save(root / "semantic" / "scene0707_00.npy", [1])
    with pytest.raises(SubmissionError, match="3 errors; nothing was written") as caught:
        packed("semantic", root / "semantic", out)
    two, none, bad = messages(caught.value.report)
    assert "has two: scene0707_00.txt and scene0707_00.npy" in two
    assert "Scene 'scene0708_00' has no prediction" in none
    assert "scene0709_00.txt, line 2: 'x' is no integer" in bad
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*.part"))


# Mutations


def mutate_zip(content: bytearray, draw: np.random.Generator) -> bytes:
    for _ in range(draw.integers(1, 4)):
        at = int(draw.integers(max(len(content), 1)))
        way = draw.integers(5)
        if way == 0:
            content[at : at + 1] = bytes([draw.integers(256)])
        elif way == 1:
            del content[at : at + int(draw.integers(1, 200))]
        elif way == 2:
            content[at:at] = bytes(draw.integers(0, 256, int(draw.integers(1, 60)), np.uint8))
        elif way == 3:
            content[:] = content[: max(at, 1)]
        else:  # a name, wherever it stands
            new = (b"../", b"/\0/", b"C:\\", b"\xff\xfe\n")[draw.integers(4)]
            content[:] = content.replace(b"scene0708_00"[: len(new)], new)
    return bytes(content)


def mutate_folder(folder: Path, draw: np.random.Generator) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[draw.integers(len(files))]
    content = bytearray(path.read_bytes())
    at = int(draw.integers(max(len(content), 1)))
    way = draw.integers(8)
    if way == 0:
        path.write_bytes(content[:at])
    elif way == 1:
        odd = (b"\0", b"\xff", b"\n\n", b" ", b"nan", b"-7\n", b"../../../etc/passwd 5 1\n", b"9" * 100_000, b"\x1b[2J")
        path.write_bytes(content[:at] + odd[draw.integers(len(odd))] + content[at:])
    elif way == 2:
        path.write_bytes(bytes(draw.integers(0, 256, 200, np.uint8)))
    elif way == 3:
        path.unlink()
        path.mkdir()
    elif way == 4:
        path.write_bytes(files[draw.integers(len(files))].read_bytes())
    elif way == 5:
        path.unlink()
        path.symlink_to(("/dev/zero", "/", path.name, files[draw.integers(len(files))])[draw.integers(4)])
    elif way == 6:
        path.rename(path.with_name(("scene0708_00.TXT", "\udcff.txt", "a\nb", "..txt", "é.zip")[draw.integers(5)]))
    else:
        path.write_bytes(bytes(content).decode("latin-1").encode("utf-16"))


def content_of(path: Path) -> dict[str, bytes] | None:
    """What a ZIP unpacks to, as `zipfile` sees it; None if it does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [(member.orig_filename, archive.read(member)) for member in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError):
        return None
    return dict(found) if len(dict(found)) == len(found) else None


def is_acceptable(folder: Path, kind: str) -> bool:
    """What the check must find, in a simple way: after the benchmark's scripts, and what its guide asks for."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    if not all(
        Path(os.path.realpath(path)).is_relative_to(folder) and (path.is_file() or path.is_dir())
        for path in files.values()
    ):
        return False
    texts = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    tops = {name for name in texts if "/" not in name}
    if tops != {f"{scene}.txt" for scene in SCENES} or not all(re.fullmatch(r"[!-~ ]+", name) for name in texts):
        return False
    if kind == "semantic":
        return set(texts) == tops and all(has_integers(text, {0, *SCANNET20.ids}) for text in texts.values())
    masks = []
    for name in sorted(tops):
        for line in texts[name].splitlines():
            words = line.split(b" ")
            try:
                (mask, _, score), _ = words, int(words[1])
                assert float(score) == float(score)
            except (ValueError, IndexError, AssertionError):
                return False
            masks.append(os.path.normpath(os.fsdecode(mask)))
    named = all(mask in texts and mask not in tops and has_integers(texts[mask]) for mask in masks)
    return named and len(set(masks)) == len(masks) and all(name.endswith(".txt") for name in texts)


def has_integers(text: bytes, allowed: set[int] | None = None) -> bool:
    lines = text.splitlines()
    if len(lines) != VERTICES or not all(re.fullmatch(rb"[ \t]*[+-]?\d{1,18}[ \t]*", line) for line in lines):
        return False
    return allowed is None or all(int(line) in allowed for line in lines)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mutated_archives_do_no_harm(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an archive that is called ready, every file is what it was before the mutation."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    whole = {kind: (good / f"{kind}.zip").read_bytes() for kind in ("semantic", "instance")}
    unspoilt = {kind: content_of(good / f"{kind}.zip") for kind in whole}
    ready = 0
    for seed in range(400):
        kind = ("semantic", "instance")[seed % 2]
        (tmp_path / "a.zip").write_bytes(mutate_zip(bytearray(whole[kind]), np.random.default_rng(seed)))
        try:
            report = check_submission(tmp_path / "a.zip", RULES)
        except InputError:
            continue
        assert all(violation.reason for violation in report.violations)
        if report.errors == 0:
            ready += 1
            assert content_of(tmp_path / "a.zip") == unspoilt[kind], seed
    assert 0 < ready < 60  # a date or another field that says nothing
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "here"]


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_mutated_folders_are_refused_if_and_only_if_they_are_wrong(good: Path, tmp_path: Path, kind: str) -> None:
    rules = SubmissionRules(**{**vars(RULES), "kind": kind, "vertices": dict.fromkeys(SCENES, VERTICES)})
    wrong = 0
    for seed in range(200):
        folder = tmp_path / str(seed)
        shutil.copytree(good / kind, folder)
        mutate_folder(folder, np.random.default_rng(seed))
        report = check_submission(folder, rules)
        assert (report.errors == 0) == is_acceptable(folder, kind), (seed, messages(report))
        wrong += report.errors > 0
        try:
            repacked = pack_submission(folder, tmp_path / "a.zip", rules)
        except InputError:
            assert not (tmp_path / "a.zip").exists()
        else:
            assert repacked.errors == 0
            (tmp_path / "a.zip").unlink()
        shutil.rmtree(folder)
    assert 120 < wrong < 200
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_answers_mutations_with_0_or_2(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "scenes").write_text("".join(f"{scene}\n" for scene in SCENES))
    codes = []
    for seed in range(40):
        draw, kind, source = np.random.default_rng(1000 + seed), ("semantic", "instance")[seed // 2 % 2], tmp_path / "a"
        if seed % 2:
            shutil.copytree(good / kind, source)
            mutate_folder(source, draw)
        else:
            source.write_bytes(mutate_zip(bytearray((good / f"{kind}.zip").read_bytes()), draw))
        codes.append(main(["submission", "check", str(source), "--scenes", str(tmp_path / "scenes")]))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert "\x1b" not in said.out + said.err
        assert ("refused:" in said.out) + ("Error: " in said.err) == (codes[-1] == 2)
        shutil.rmtree(source) if source.is_dir() else source.unlink()
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "scenes"]
    assert set(codes) == {0, 2}
