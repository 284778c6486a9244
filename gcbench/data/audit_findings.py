"""What is wrong with a prepared dataset, from facts about its scenes: each check yields findings with a way out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, Field

from gcbench.data import metadata
from gcbench.data.audit_scene import SceneFacts
from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.data.s3dis_release import check_rooms
from gcbench.data.scene_jobs import some
from gcbench.data.storage import MANIFEST, PreparedDataset, fingerprint
from gcbench.errors import DataError

Level = Literal["error", "warning", "note"]
Facts = Mapping[str, SceneFacts]
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_AGAIN = "Prepare the dataset again."
_LARGEST, _SMALLEST = 100.0, 0.5  # metres: no room is larger or smaller
_FAR = 0.1  # metres between a frame's surface and the points
_FEW, _HALF = 0.01, 0.5  # shares of a scene's normals
_SAME_ROOM = re.compile(r"(scene\d{4})_\d{2}")  # scans of one ScanNet room: scene0000_00, scene0000_01


class Finding(BaseModel):
    """Something that is not as it should be.

    Attributes:
        check: which check found it.
        where: scenes, splits or classes it is about; all of them.
    """

    level: Level
    check: str
    message: str
    where: list[str] = Field(default_factory=list)
    way_out: str = ""


def findings(dataset: PreparedDataset, facts: Facts, absent: Mapping[str, Mapping[str, list[str]]]) -> list[Finding]:
    """All findings, the gravest first.

    Args:
        dataset: the prepared dataset.
        facts: scene -> what was found in it.
        absent: label set -> split -> classes that no scene of the split has.
    """
    found = [
        *_manifest(dataset),
        *_counts(dataset),
        *_splits(dataset, facts),
        *_scenes(facts),
        *_frames(dataset, facts),
    ]
    found += _labels(dataset, facts, absent)
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def extent(facts: SceneFacts) -> float:
    """Longest edge of a scene's box, metres."""
    return max(high - low for low, high in zip(facts.low, facts.high, strict=True))


def _manifest(dataset: PreparedDataset) -> Iterator[Finding]:
    manifest = dataset.manifest
    if not manifest["scenes"]:
        yield Finding(level="error", check="counts", message="There is no scene.", way_out=_AGAIN)
    if fingerprint(manifest["scenes"], dataset.splits) != dataset.fingerprint:
        message = f"{MANIFEST} was changed by hand: its fingerprint is not that of its scenes and splits."
        yield Finding(level="error", check="fingerprint", message=message, way_out=_AGAIN)
    failed = manifest.get("failed", {})
    if failed:
        message = f"Scenes that could not be prepared and are left out: {len(failed)}."
        way_out = "Mend them and run prepare again; it names what is wrong with each."
        yield Finding(level="error", check="failed", message=message, where=sorted(failed), way_out=way_out)
    homeless = sorted(set(manifest["scenes"]) - {name for names in dataset.splits.values() for name in names})
    if homeless:
        message = f"Scenes in no split: {len(homeless)}."
        yield Finding(level="warning", check="splits", message=message, where=homeless, way_out=_AGAIN)
    for note in manifest.get("notes", []):
        yield Finding(level="note", check="prepare", message=note)
    noted = sorted(name for name, entry in manifest["scenes"].items() if entry.get("notes"))
    if noted:
        message = f"Scenes with notes of prepare, which stand in {MANIFEST}: {len(noted)}."
        yield Finding(level="note", check="prepare", message=message, where=noted)


def _counts(dataset: PreparedDataset) -> Iterator[Finding]:
    """Scenes per split against the official lists, or rooms per area against the release."""
    if dataset.synthetic:
        message = "Synthetic rooms: their counts are not compared with those of the real dataset."
        yield Finding(level="note", check="counts", message=message)
    elif dataset.layout == "s3dis":
        yield from _rooms(dataset)
    else:
        for split, expected in metadata.expected_scenes(dataset.layout).items():
            yield from _official(dataset, split, expected)


def _rooms(dataset: PreparedDataset) -> Iterator[Finding]:
    facts = s3dis_facts().rooms
    areas = {area: [name.rpartition("/")[2] for name in names] for area, names in dataset.splits.items()}
    for note in check_rooms(areas):
        area = note.split()[0]
        found = set(areas.get(area, ()))
        missing = sorted(f"{area}/{room}" for room in facts.names(area) - found)
        usual = set(missing) <= set(facts.often_absent) and found <= facts.names(area)
        yield Finding(level="note" if usual else "error", check="counts", message=note, where=missing or [area])


def _official(dataset: PreparedDataset, split: str, expected: int) -> Iterator[Finding]:
    names, listed = set(dataset.splits.get(split, ())), _official_list(dataset, split)
    missing, extra = sorted(listed - names), sorted(names - listed) if listed else []
    if len(names) == expected and not missing:
        return
    message = f"{split}: {len(names):,} of the official list's {expected:,} scenes."
    way_out = "Get the missing scenes and run prepare again: what is there is kept."
    if not listed:
        way_out += f" Put scannetv2_{split}.txt into the folder to see which they are."
    if extra:
        message += f" Not in that list: {some(extra)}."
    level: Level = (
        "error" if split in ("train", "val") else "warning"
    )  # test has no labels: it is not needed to compare
    yield Finding(level=level, check="counts", message=message, where=missing, way_out=way_out)


def _official_list(dataset: PreparedDataset, split: str) -> set[str]:
    """Scene names of the official list if it lies in the dataset's folder or was downloaded before; else none."""
    try:
        file = metadata.find(f"scannetv2_{split}.txt", [dataset.root], download=False)
        return set(file.read_text(encoding="utf-8").split())
    except (DataError, OSError, UnicodeDecodeError):
        return set()


def _splits(dataset: PreparedDataset, facts: Facts) -> Iterator[Finding]:
    """Scenes and rooms in two splits, and scenes that are there twice."""
    homes: dict[str, set[str]] = defaultdict(set)
    rooms: dict[str, set[str]] = defaultdict(set)
    for split, names in dataset.splits.items():
        for name in names:
            homes[name].add(split)
            match = _SAME_ROOM.fullmatch(name)
            if match and dataset.layout == "scannet":
                rooms[match[1]].add(split)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"Scenes listed twice in {split}: {len(twice)}."
            yield Finding(level="error", check="splits", message=message, where=twice, way_out=_AGAIN)
    both = sorted(name for name, splits in homes.items() if len(splits) > 1)
    if both:
        message = f"Scenes in two splits: {len(both)}. Scores on them are worthless."
        way_out = "Correct the split lists and prepare again."
        yield Finding(level="error", check="overlap", message=message, where=both, way_out=way_out)
    shared = sorted(room for room, splits in rooms.items() if len(splits) > 1 and not {*both} & _scans(room, homes))
    if shared and not dataset.synthetic:
        message = f"Rooms with scans in two splits: {len(shared)}."
        way_out = "The official lists keep all scans of a room together: use them."
        yield Finding(level="error", check="overlap", message=message, where=shared, way_out=way_out)
    yield from _copies(homes, facts)


def _scans(room: str, names: Mapping[str, object]) -> set[str]:
    return {name for name in names if name.startswith(f"{room}_")}


def _copies(homes: Mapping[str, set[str]], facts: Facts) -> Iterator[Finding]:
    same: dict[str, list[str]] = defaultdict(list)
    for name, item in facts.items():
        if item.points:
            same[item.points_sha256].append(name)
    for names in same.values():
        if len(names) > 1:
            across = len({split for name in names for split in homes[name]}) > 1
            message = f"Scenes with the same points{' in different splits' if across else ''}: {len(names)}."
            way_out = "Remove the copies and prepare again."
            level: Level = "error" if across else "warning"
            yield Finding(level=level, check="duplicates", message=message, where=sorted(names), way_out=way_out)


def _scenes(facts: Facts) -> Iterator[Finding]:
    for name, item in facts.items():
        for problem in item.problems:
            yield Finding(level="error", check="files", message=problem, where=[name])
    read = [item for item in facts.values() if item.points]
    empty = [name for name, item in facts.items() if not item.points and not item.problems]
    checks: list[tuple[Level, str, str, str, Callable[[SceneFacts], bool]]] = [
        ("error", "coordinates", "with coordinates that are NaN or infinite", _AGAIN, lambda f: f.not_finite > 0),
        (
            "error",
            "coordinates",
            f"longer than {_LARGEST:g} m or shorter than {_SMALLEST:g} m (another unit than metres?)",
            "Bring the raw coordinates to metres and prepare again.",
            lambda f: bool(f.low) and not _SMALLEST <= extent(f) <= _LARGEST,
        ),
        ("error", "normals", "with normals that are NaN or infinite", _AGAIN, lambda f: f.normals_not_finite > 0),
        (
            "error",
            "normals",
            "without normals at half of their points",
            _AGAIN,
            lambda f: f.normals_zero > _HALF * f.points,
        ),
        (
            "warning",
            "normals",
            f"without normals at more than {_FEW:.0%} of their points",
            "Their meshes have vertices without faces; the network sees zeros there.",
            lambda f: _FEW * f.points < f.normals_zero <= _HALF * f.points,
        ),
        (
            "warning",
            "normals",
            f"with normals that are not unit vectors at more than {_FEW:.0%} of their points",
            _AGAIN,
            lambda f: f.normals_not_unit > _FEW * f.points,  # a few are: tiny triangles, as in the reference
        ),
        ("warning", "colours", "of one colour only", "Is the raw file coloured?", lambda f: f.one_color),
        ("warning", "colours", "that are grey", "Is the raw file coloured?", lambda f: f.colorless and not f.one_color),
    ]
    if empty:
        message = f"Scenes without a point: {len(empty)}."
        yield Finding(level="error", check="coordinates", message=message, where=empty, way_out=_AGAIN)
    for level, check, what, way_out, is_wrong in checks:
        where = [item.name for item in read if is_wrong(item)]
        if where:
            message = f"Scenes {what}: {len(where)} of {len(facts)}."
            yield Finding(level=level, check=check, message=message, where=where, way_out=way_out)


def _labels(dataset: PreparedDataset, facts: Facts, absent: Mapping[str, Mapping[str, list[str]]]) -> Iterator[Finding]:
    for label_set in dataset.label_sets:
        of = {name: item.labels[label_set] for name, item in facts.items() if label_set in item.labels}
        wrong = [name for name, item in of.items() if item.out_of_range]
        bare = [name for name, item in of.items() if not any(item.points) and not item.out_of_range and item.unlabelled]
        if wrong:
            message = f"Scenes with {label_set} labels that are no class: {len(wrong)}."
            yield Finding(level="error", check="labels", message=message, where=wrong, way_out=_AGAIN)
        if bare:
            message = f"Scenes with {label_set} labels, but not one labelled point: {len(bare)}."
            yield Finding(level="warning", check="labels", message=message, where=bare)
        for split, classes in absent.get(label_set, {}).items():
            if classes:
                message = f"Classes of {label_set} that do not occur in {split}: {len(classes)}."
                way_out = "An absent class counts as 0 in Pointcept's mean and is left out of ScanNet's."
                level: Level = "note" if dataset.synthetic else "warning"
                yield Finding(level=level, check="labels", message=message, where=classes, way_out=way_out)
    with_labels = {name for name, item in facts.items() if item.labels}
    read = {name for name, item in facts.items() if item.points}
    hidden = set(dataset.splits.get("test", ())) if dataset.layout == "scannet" else set()
    without = sorted(read - with_labels - hidden)
    if without:
        message = f"Scenes without labels, outside the hidden test split: {len(without)}."
        yield Finding(level="warning", check="labels", message=message, where=without, way_out=_AGAIN)
    single = sorted(name for name in with_labels if facts[name].instances is None)
    if single:
        message = f"Labelled scenes without instances, of no use for instance segmentation: {len(single)}."
        yield Finding(level="warning", check="instances", message=message, where=single)


def _frames(dataset: PreparedDataset, facts: Facts) -> Iterator[Finding]:
    if not dataset.has_frames:
        message = "There are no RGB-D frames: the dataset cannot be used for pre-training."
        yield Finding(level="note", check="frames", message=message)
        return
    without = [name for name, item in facts.items() if not item.frames]
    if without:
        message = f"Scenes without RGB-D frames, which pre-training leaves out: {len(without)} of {len(facts)}."
        yield Finding(level="warning", check="frames", message=message, where=without)
    dropped = {name: item.frames_dropped for name, item in facts.items() if item.frames_dropped}
    if dropped:
        message = f"Frames that were dropped because they have no usable pose: {sum(dropped.values()):,}."
        yield Finding(level="note", check="frames", message=message, where=sorted(dropped))
    far: list[str] = []
    partly: list[str] = []
    blind: list[str] = []
    for name, item in facts.items():
        metres = [found.metres for found in item.distances if found.metres is not None]
        wrong = [value for value in metres if value > _FAR]
        if wrong:
            (far if len(wrong) == len(metres) else partly).append(name)
        elif item.distances and not metres:
            blind.append(name)
    levels: list[tuple[Level, list[str], str]] = [
        ("error", far, f"frames that do not fit the points, their surface is more than {_FAR} m away"),
        ("warning", partly, f"a frame that does not fit the points, its surface is more than {_FAR} m away"),
        ("warning", blind, "frames without depth"),
    ]
    for level, where, what in levels:
        if where:
            message = f"Scenes with {what} (two frames of each looked at): {len(where)}."
            way_out = "Check the poses (camera-to-world), the depth unit (millimetres) and the intrinsics."
            yield Finding(level=level, check="frames", message=message, where=where, way_out=way_out)
