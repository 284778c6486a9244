"""Scores a folder of predictions against ground truth: finds the files, and measures scene by scene, in one process or
in several. What is held at a time is one scene, and of the others their integer counts.

Shape legend
    N  vertices of a scene
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as TypingProtocol

import numpy as np

from gcbench.errors import InputError
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget, class_indices
from gcbench.scoring.instance_files import read_instances, read_target, wrong_length
from gcbench.scoring.instance_overlaps import SceneOverlaps
from gcbench.scoring.label_files import SUFFIXES, TEXT_SUFFIX, as_class_indices, read_labels
from gcbench.scoring.processes import keep_freed_memory, worker_processes
from gcbench.scoring.protocols import Protocol
from gcbench.scoring.semantic import ClassCounts, SemanticMetrics, SemanticScorer
from gcbench.structures import Int64Array, LabelSet

SEMANTIC, INSTANCE = "semantic", "instance"
# What the official scripts write beside the predictions.
_OUTPUTS = ("semantic_label_evaluation.txt", "semantic_instance_evaluation.txt")
_NAMED = 5


class GroundTruth(TypingProtocol):
    """Where the ground truth comes from."""

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes of the split."""
        ...

    def segment(self, scene: str) -> Int64Array:
        """Class indices [N] of a scene's vertices, -1 is "does not count"."""
        ...

    def instances(self, scene: str) -> InstanceTarget:
        """Classes and instances of a scene's vertices."""
        ...


@dataclass(frozen=True)
class FolderTruth:
    """Ground truth in a folder: a text or array file per scene.

    Attributes:
        folder: of the files.
        files: by scene.
        label_set: the classes.
        indices: labels in array files are class indices, not raw label ids. Text always has raw ids.
    """

    folder: Path
    files: Mapping[str, Path]
    label_set: LabelSet
    indices: bool = False

    @classmethod
    def open(cls, folder: Path, label_set: LabelSet, *, indices: bool = False) -> FolderTruth:
        """The scenes of a folder, and of folders in it (`Area_1/office_1.txt`).

        Raises:
            InputError: there is no such folder, no scene in it, or two files for one scene.
        """
        files = _scene_files(folder, _existing(folder, "ground truth").rglob("*"))
        if not files:
            raise InputError(f"{folder} has no ground truth.", f"It should have <scene>{TEXT_SUFFIX} files.")
        return cls(folder, files, label_set, indices)

    @property
    def scenes(self) -> tuple[str, ...]:
        return tuple(self.files)

    def segment(self, scene: str) -> Int64Array:
        found = read_target(self.files[scene])
        return _classes(found[0] if isinstance(found, tuple) else found, self.files[scene], self)

    def instances(self, scene: str) -> InstanceTarget:
        path = self.files[scene]
        found = read_target(path)
        if isinstance(found, tuple):
            return InstanceTarget(_classes(found[0], path, self), found[1])
        if self.indices and path.suffix != TEXT_SUFFIX:
            raise InputError(f"{path} has no `segment` and `instance`.", "With class indices it must have both arrays.")
        return InstanceTarget.from_ids(self.label_set, found)


@dataclass(frozen=True)
class Evaluation:
    """A folder of predictions to be scored.

    Attributes:
        kind: ``"semantic"`` or ``"instance"``.
        predictions: folder with a file per scene, as `gcbench.scoring.label_files` or `instance_files` read them.
        truth: the ground truth.
        label_set: the classes.
        protocol: the policy.
        indices: labels in array files are class indices, not raw label ids. Text always has raw ids.
    """

    kind: str
    predictions: Path
    truth: GroundTruth
    label_set: LabelSet
    protocol: Protocol
    indices: bool = False

    def files(self) -> dict[str, Path]:
        """The predictions that are there, by scene, in the order of the ground truth.

        Raises:
            InputError: there is no such folder, a scene has two predictions, or a prediction has no ground truth.
        """
        folder = _existing(self.predictions, "predictions")
        parents = {folder / Path(scene).parent for scene in self.truth.scenes}
        found = _scene_files(folder, (path for parent in parents if parent.is_dir() for path in parent.iterdir()))
        known = set(self.truth.scenes)
        unknown = [path for scene, path in found.items() if scene not in known]
        if unknown:
            raise InputError(
                f"{len(unknown)} predictions have no ground truth: {named(unknown)}.",
                "Remove them, or give the ground truth of all scenes.",
            )
        return {scene: found[scene] for scene in self.truth.scenes if scene in found}

    def scorer(self) -> SemanticScorer | InstanceScorer:
        """An empty scorer of this kind."""
        scorer = SemanticScorer if self.kind == SEMANTIC else InstanceScorer
        return scorer(self.label_set, self.protocol)

    def measure(self, scene: str, path: Path) -> ClassCounts | SceneOverlaps:
        """What one scene adds to the score.

        Raises:
            InputError: with file and line: the prediction or the ground truth is not what it must be.
        """
        scorer = self.scorer()
        if isinstance(scorer, InstanceScorer):
            target = self.truth.instances(scene)
            listed = read_instances(path, self.predictions, len(target.segment))
            classes = _classes(listed.label_ids, path, self)
            return scorer.measure(scene, InstancePredictions(classes, listed.scores, listed.masks), target)
        labels = read_labels(path)
        segment = self.truth.segment(scene)
        if len(labels) != len(segment):
            raise wrong_length(path, len(labels), len(segment))
        prediction = _classes(labels, path, self)
        if self.protocol.semantic.unlisted_prediction == "reject" and len(prediction) and prediction.min() < 0:
            vertex = int(np.argmax(prediction < 0))
            where = f"{path}, line {vertex + 1}" if path.suffix == TEXT_SUFFIX else f"{path}, vertex {vertex}"
            raise InputError(
                f"{where}: {labels[vertex]} is no class of {self.label_set.name}.",
                f"Under the protocol '{self.protocol.name}' every vertex needs one.",
            )
        return scorer.measure(scene, prediction, segment)


def choose_scenes(evaluation: Evaluation, *, allow_missing: bool) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The predictions to score, by scene, and the scenes without one.

    Args:
        evaluation: what is to be scored.
        allow_missing: leave scenes without a prediction out.

    Raises:
        InputError: a scene has no prediction and that is not allowed, no scene has one, or see `Evaluation.files`.
    """
    files = evaluation.files()
    missing = tuple(scene for scene in evaluation.truth.scenes if scene not in files)
    if not files:
        raise InputError(
            f"{evaluation.predictions} has no prediction for any of {len(missing)} scenes.",
            f"It should have a file per scene ({', '.join(SUFFIXES)}), such as {missing[0]}{TEXT_SUFFIX}.",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(evaluation.truth.scenes)} scenes have no prediction in "
            f"{evaluation.predictions}: {named(missing)}.",
            "Add them, or leave them out with --allow-missing; the result will say so.",
        )
    return files, missing


@contextmanager
def measured_scenes(
    evaluation: Evaluation, files: Mapping[str, Path], workers: int
) -> Iterator[Iterator[tuple[str, ClassCounts | SceneOverlaps]]]:
    """Measure scenes, in the order given.

    Args:
        evaluation: what is to be scored.
        files: predictions by scene.
        workers: processes; up to 1 works in this one.

    Raises:
        InputError: from the iterator, of the first scene that is not what it must be.
        RunError: likewise, a worker was killed.
    """
    keep_freed_memory()
    if workers <= 1:
        yield ((scene, evaluation.measure(scene, path)) for scene, path in files.items())
        return
    with worker_processes(min(workers, len(files)), Evaluation.measure, evaluation) as submit:
        futures = [(scene, submit(scene, path)) for scene, path in files.items()]
        yield ((scene, future.result()) for scene, future in futures)


def collect(
    evaluation: Evaluation, measured: Iterator[tuple[str, ClassCounts | SceneOverlaps]]
) -> SemanticMetrics | InstanceMetrics:
    """The metrics of scenes that were measured."""
    scorer = evaluation.scorer()
    for scene, counts in measured:
        if isinstance(scorer, SemanticScorer):
            assert isinstance(counts, ClassCounts)
            scorer.insert(scene, counts)
        else:
            assert isinstance(counts, SceneOverlaps)
            scorer.insert(scene, counts)
    return scorer.result()


def named(names: Sequence[object]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(str, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")


def _scene_files(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Those of the paths that are files of scenes, by scene.

    Raises:
        InputError: a scene has two.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.suffix in SUFFIXES and path.name not in _OUTPUTS and path.is_file():
            scene = path.relative_to(folder).with_suffix("").as_posix()
            if scene in found:
                raise InputError(f"Scene '{scene}' has two files: {found[scene]} and {path}.", "Remove one.")
            found[scene] = path
    return found


def _existing(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {reason}.", f"Give the folder of the {what}, with a file per scene.")
    return folder


def _classes(labels: Int64Array, path: Path, source: FolderTruth | Evaluation) -> Int64Array:
    """Class indices of a file's labels, which are raw ids or, in array files where the user says so, indices."""
    if not source.indices or path.suffix == TEXT_SUFFIX:
        return class_indices(source.label_set, labels)
    return as_class_indices(labels, path, source.label_set)
