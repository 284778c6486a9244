"""Submissions to ScanNet's hidden test: what the server takes, checked before it sees them, and packed.

A submission has a text file per scene of the test split, at its top. Semantic: a raw label id per line. Instance: lines
`relative/mask.txt label_id confidence`, and the masks. See `gcbench.scoring.label_files` and `instance_files`.

Shape legend
    N  vertices of a scene
"""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from gcbench.errors import InputError
from gcbench.files import atomic_path
from gcbench.scoring.evaluation import INSTANCE, SEMANTIC
from gcbench.scoring.instance_files import ListedInstance, instance_texts, parse_instance_line, read_instances
from gcbench.scoring.instance_overlaps import class_indices
from gcbench.scoring.label_files import (
    SUFFIXES,
    TEXT_SUFFIX,
    as_class_indices,
    bad_lines,
    count_lines,
    labels_text,
    lines_of,
    parse_integers,
    parse_mask,
    read_labels,
    shown,
)
from gcbench.scoring.submission_files import SubmissionFiles, Violation, open_submission
from gcbench.structures import Int64Array, LabelSet

_LISTED = 1000  # lines of one file that are listed one by one,
_MOST_LISTED = 20_000  # until so many are listed of all files; then one of each. The others are counted
_INTEGER_LINE = re.compile(rb"(?m)^[ \t]*[+-]?[0-9]{1,18}[ \t]*$()")
_MOST_PREDICTIONS = 100_000  # of a scene
_UNLABELLED = 0
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same submission is the same bytes
OnFile = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SubmissionRules:
    """What a submission must be.

    Attributes:
        label_set: whose raw ids are allowed.
        scenes: names of the test scenes.
        kind: ``"semantic"`` or ``"instance"``; None finds out.
        evaluated: raw ids of the classes that count as instances; others are skipped by the server.
        minimum_vertices: smaller predicted instances are dropped by the server.
        vertices: N by scene, where it is known.
    """

    label_set: LabelSet
    scenes: Sequence[str]
    kind: str | None = None
    evaluated: frozenset[int] = frozenset()
    minimum_vertices: int = 1
    vertices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmissionReport:
    """What was found.

    Attributes:
        kind: what it was checked as.
        files: how many there are.
        scenes: how many of the test scenes have a file.
        violations: all of them, file by file and line by line; files with errors first.
    """

    kind: str
    files: int
    scenes: int
    violations: tuple[Violation, ...]

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(violation.count for violation in self.violations if violation.is_error)

    @property
    def warnings(self) -> int:
        """How many warnings there are."""
        return sum(violation.count for violation in self.violations if not violation.is_error)


def check_submission(path: Path, rules: SubmissionRules, on_file: OnFile | None = None) -> SubmissionReport:
    """Check a folder or a ZIP; nothing is unpacked to disk.

    Args:
        path: the folder or ZIP.
        rules: what it must be.
        on_file: told the name of each scene's file, how many are done, and how many there are.

    Raises:
        InputError: there is no such file or folder, or it is no ZIP.
    """
    with open_submission(path) as files:
        kind = rules.kind or guess_kind(files, rules.scenes)
        check = _Check(files, rules)
        names = frozenset(files.names)
        present = [scene for scene in rules.scenes if scene + TEXT_SUFFIX in names]
        check.found += files.violations
        check.root_folder()
        for done, scene in enumerate(present, start=1):
            if kind == SEMANTIC:
                check.semantic(scene)
            else:
                check.instance(scene)
            if on_file is not None:
                on_file(scene, done, len(present))
        check.missing()
        check.unexpected(kind)
        return SubmissionReport(kind, len(names), len(present), tuple(_in_order(check.found)))


def guess_kind(files: SubmissionFiles, scenes: Sequence[str]) -> str:
    """Instances if the first file of a scene that says something has a line of more than one word."""
    expected = {scene + TEXT_SUFFIX for scene in scenes}
    for name in files.names:
        if posixpath.basename(name) in expected:
            content = files.read(name)
            line = next(lines_of(content.lstrip()), None) if isinstance(content, bytes) else None
            if line is not None:
                return INSTANCE if len(line.split()) > 1 else SEMANTIC
    return INSTANCE if any("/" in name for name in files.names) else SEMANTIC


def pack_submission(
    predictions: Path, out: Path, rules: SubmissionRules, *, indices: bool = False, on_file: OnFile | None = None
) -> SubmissionReport:
    """Write a submission ZIP from a folder of predictions as `gcbench evaluate` reads them, text or arrays.

    The ZIP takes its place only if it is free of errors. The same predictions give the same bytes.

    Args:
        predictions: folder with a file per scene.
        out: the ZIP.
        rules: what it must be; its kind must be said.
        indices: labels in array files are class indices, not raw label ids.
        on_file: told the name of each scene, how many are done, and how many there are.

    Raises:
        SubmissionError: scenes have no prediction, or broken ones, or `check_submission` finds an error.
    """
    assert rules.kind is not None
    found: list[Violation] = []
    with atomic_path(out) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for done, scene in enumerate(rules.scenes, start=1):
                try:
                    for name, content in _texts(scene, predictions, rules, indices):
                        entry = zipfile.ZipInfo(name, _ZIP_DATE)
                        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                        archive.writestr(entry, content)
                except InputError as error:  # the others are looked at as well
                    found.append(Violation(scene, None, str(error)))
                if on_file is not None:
                    on_file(scene, done, len(rules.scenes))
        if found:
            raise SubmissionError(SubmissionReport(rules.kind, 0, len(rules.scenes) - len(found), tuple(found)))
        report = check_submission(temporary, rules)
        if report.errors:
            raise SubmissionError(report)
    return report


class SubmissionError(InputError):
    """What was packed has errors; nothing was written.

    Attributes:
        report: what is wrong.
    """

    def __init__(self, report: SubmissionReport) -> None:
        errors = "1 error" if report.errors == 1 else f"{report.errors} errors"
        super().__init__(f"The submission has {errors}; nothing was written.")
        self.report = report


class _Check:
    """Collects what is wrong with the files of scenes."""

    def __init__(self, files: SubmissionFiles, rules: SubmissionRules) -> None:
        self.found: list[Violation] = []
        self._files = files
        self._names = frozenset(files.names)
        self._rules = rules
        self._scene_files = frozenset(scene + TEXT_SUFFIX for scene in rules.scenes)
        self._root = self._find_root()
        self._listed = 0
        self._masks: dict[str, str] = {}  # mask -> where it is named

    def root_folder(self) -> None:
        """A folder that everything lies in."""
        if self._root:
            reason = "all files lie in this folder; they must lie at the top. They were not looked into"
            self.found.append(Violation(self._root, None, reason))

    def missing(self) -> None:
        """Scenes without a file; one that cannot be used was named already."""
        known = {*self._names, *(violation.file for violation in self._files.violations)}
        if self._root:
            known = {posixpath.basename(name) for name in known}
        for name in (scene + TEXT_SUFFIX for scene in self._rules.scenes):
            if name not in known:
                self.found.append(Violation(name, None, "the file of this scene is missing"))

    def semantic(self, scene: str) -> None:
        """One raw label id per vertex."""
        name = scene + TEXT_SUFFIX
        content = self._read(name)
        if content is None or not self._vertices_fit(name, content, self._rules.vertices.get(scene)):
            return
        labels = self._integers(name, content)
        if labels is None:
            return
        label_set = self._rules.label_set
        unlisted = np.flatnonzero((class_indices(label_set, labels) < 0) & (labels != _UNLABELLED))
        reason = f"is no label id of {label_set.name}"
        if labels.max() < len(label_set):
            reason += "; these look like class indices, not label ids"
        self._list(name, ((int(row) + 1, f"{labels[row]} {reason}") for row in unlisted), len(unlisted))
        unlabelled = int(np.count_nonzero(labels == _UNLABELLED))
        if unlabelled:
            self._warn(name, f"{unlabelled} vertices have no label ({_UNLABELLED}) and count as missed")

    def instance(self, scene: str) -> None:
        """A list of masks, and the masks."""
        name = scene + TEXT_SUFFIX
        content = self._read(name)
        if content is None:
            return
        if count_lines(content) > _MOST_PREDICTIONS:
            self.found.append(Violation(name, None, f"it has {count_lines(content)} lines, too many for a scene"))
            return
        lines = [parse_instance_line(line, number) for number, line in enumerate(lines_of(content), start=1)]
        vertices, first = self._rules.vertices.get(scene), ""
        skipped = small = 0
        wrong: list[tuple[int, str]] = []
        for number, item in enumerate(lines, start=1):
            if not isinstance(item, ListedInstance):
                wrong.append((number, item))
                continue
            mask = posixpath.normpath(item.mask)
            reason = self._mask_problem(mask, f"{name}, line {item.line}")
            if reason is not None:
                wrong.append((item.line, reason))
                continue
            skipped += item.label_id not in self._rules.evaluated
            size = self._mask(mask, vertices, first)
            if size is not None:
                vertices, first = vertices or size[0], first or mask
                small += size[1] < self._rules.minimum_vertices
        self._list(name, wrong, len(wrong))
        if not lines:
            self._warn(name, "it has no prediction")
        if skipped:
            self._warn(name, f"{skipped} predictions have a label id that is not evaluated, and are skipped")
        if small:
            self._warn(name, f"{small} predictions have under {self._rules.minimum_vertices} vertices, and are dropped")

    def unexpected(self, kind: str) -> None:
        """Files that are neither of a scene nor named by one."""
        if self._root:
            return
        for name in sorted(self._names - self._scene_files - self._masks.keys()):
            if kind == INSTANCE and "/" in name and name.endswith(TEXT_SUFFIX):
                self._warn(name, "no line of a scene names this mask")
            else:
                self.found.append(Violation(name, None, "it is no file of a test scene"))

    def _find_root(self) -> str:
        """The folder that everything lies in, files of scenes too; empty if there is none."""
        roots = {name.partition("/")[0] for name in self._names}
        if len(roots) != 1 or self._names & self._scene_files:
            return ""
        return roots.pop() if any(posixpath.basename(name) in self._scene_files for name in self._names) else ""

    def _mask_problem(self, mask: str, where: str) -> str | None:
        quoted = shown(os.fsencode(mask))
        if mask.startswith("../") or mask == "..":
            return f"the mask {quoted} lies outside of the submission"
        if mask in self._masks:
            return f"the mask {quoted} is named twice, also in {self._masks[mask]}"
        if mask not in self._names:
            return f"there is no mask {quoted}"
        if mask in self._scene_files:
            return f"{quoted} is the file of a scene, and no mask"
        self._masks[mask] = where
        if "/" not in mask:  # the script takes every text file there for one of a scene
            return f"the mask {quoted} lies at the top; masks must lie in a folder"
        return None

    def _mask(self, name: str, vertices: int | None, first: str) -> tuple[int, int] | None:
        """Vertices of a scene and of a mask; None if it is wrong."""
        content = self._read(name)
        if content is None or not self._vertices_fit(name, content, vertices, first):
            return None
        try:
            mask = parse_mask(content, name)
        except InputError:
            self._list(name, bad_lines(content), _count_bad(content))
            return None
        return len(mask), int(np.count_nonzero(mask))

    def _vertices_fit(self, name: str, content: bytes, vertices: int | None, first: str = "") -> bool:
        lines = count_lines(content)
        if lines == 0 or (vertices is not None and lines != vertices):
            expected = "" if vertices is None else f"; the scene has {vertices} vertices"
            expected = f"; {first} has {vertices}" if first and vertices is not None else expected
            self.found.append(Violation(name, None, f"it has {lines} lines{expected}"))
            return False
        return True

    def _integers(self, name: str, content: bytes) -> Int64Array | None:
        try:
            return parse_integers(content, name)
        except InputError:
            self._list(name, bad_lines(content), _count_bad(content))
            return None

    def _read(self, name: str) -> bytes | None:
        content = self._files.read(name)
        if isinstance(content, bytes):
            return content
        self.found.append(content)
        return None

    def _list(self, name: str, problems: Iterable[tuple[int, str]], count: int) -> None:
        """The first of `count` lines one by one, the others as a number."""
        limit = _LISTED if self._listed < _MOST_LISTED else 1
        wrong = iter(problems)
        listed = [Violation(name, line, reason) for line, reason in islice(wrong, limit)]
        self._listed += len(listed)
        self.found += listed
        rest = next(wrong, None)
        if rest is not None:
            more = count - len(listed)
            self.found.append(Violation(name, rest[0], f"{more} more lines are wrong from here on", count=more))

    def _warn(self, name: str, reason: str) -> None:
        self.found.append(Violation(name, None, reason, is_error=False))


def _count_bad(content: bytes) -> int:
    """How many lines `bad_lines` has, without a loop over them."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    foreign = lines.removesuffix(b"\n").translate(None, b"+-0123456789 \t")
    if b"\n\n" not in b"\n" + foreign + b"\n":  # every line has something of it, as in a file of decimals
        return count_lines(lines)
    return count_lines(lines) - len(_INTEGER_LINE.findall(lines))


def _in_order(found: Sequence[Violation]) -> list[Violation]:
    """File by file, in the order they came, and line by line; files with errors first."""
    wrong = {violation.file for violation in found if violation.is_error}
    place: dict[str, int] = {}
    for violation in found:
        place.setdefault(violation.file, len(place))
    return sorted(found, key=lambda one: (one.file not in wrong, place[one.file], one.line or 0))


def _source(predictions: Path, scene: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := predictions / f"{scene}{suffix}").is_file()]
    if len(found) != 1:
        what = "no prediction" if not found else f"two: {found[0].name} and {found[1].name}"
        raise InputError(f"Scene '{scene}' has {what} in {predictions}.", "Every test scene must have one.")
    return found[0]


def _texts(scene: str, root: Path, rules: SubmissionRules, indices: bool) -> Iterator[tuple[str, bytes]]:
    """Files of a scene in the submission, by name. Raises `InputError` for a prediction that is broken or not there."""
    source = _source(root, scene)
    if rules.kind == SEMANTIC:
        labels = read_labels(source)
        yield scene + TEXT_SUFFIX, labels_text(_raw(labels, source, rules.label_set, indices))
    else:
        listed = read_instances(source, root)
        label_ids = _raw(listed.label_ids, source, rules.label_set, indices)
        yield from instance_texts(scene, label_ids, listed.scores, listed.masks)


def _raw(labels: Int64Array, source: Path, label_set: LabelSet, indices: bool) -> Int64Array:
    """Raw label ids of class indices; -1 is unlabelled. Text has raw ids already."""
    if not indices or source.suffix == TEXT_SUFFIX:
        return labels
    return np.array([*label_set.ids, _UNLABELLED], np.int64)[as_class_indices(labels, source, label_set)]
