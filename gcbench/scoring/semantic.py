"""Semantic segmentation: class-wise IoU and accuracy from integer counts, under a named protocol.

Shape legend
    N  points of a scene            K  classes of the label set

Counts of a class, over the points whose true class is known (Pointcept's `intersection_and_union`; the same integers
as the confusion matrix of ScanNet's `evaluate_semantic_label.py`):
    I  predicted as the class and of the class      T  of the class      U  predicted as it or of it
The ratios are IoU = I / (U + epsilon) and Acc = I / (T + epsilon); what is not a plain ratio is the protocol's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import InputError
from gcbench.scoring.means import mean_of_defined, means_of_defined
from gcbench.scoring.protocols import Protocol
from gcbench.structures import IGNORE_INDEX, Float64Array, Int64Array, LabelSet


@dataclass(frozen=True)
class ClassCounts:
    """Integer counts per class: `intersection`, `union`, `target`, each [K] int64."""

    intersection: Int64Array
    union: Int64Array
    target: Int64Array

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(self.intersection + other.intersection, self.union + other.union, self.target + other.target)

    def as_lists(self) -> dict[str, list[int]]:
        """The counts as JSON has them."""
        return {
            "intersection": self.intersection.tolist(),
            "union": self.union.tolist(),
            "target": self.target.tolist(),
        }


@dataclass(frozen=True)
class SemanticMetrics:
    """Metrics of a split, as fractions in [0, 1], float64. NaN is "undefined under this protocol".

    Attributes:
        label_set: the classes.
        protocol: the policy the ratios follow.
        counts: summed over the scenes.
        scenes: counts per scene, in the order they were added.
        iou: [K].
        acc: [K].
        miou: mean of `iou`.
        macc: mean of `acc`.
        allacc: share of the labelled points that are right.
        groups: mean IoU per group of the label set (head, common, tail), over its classes that have a value.
        undefined: names of the classes left out of the means.
    """

    label_set: LabelSet
    protocol: Protocol
    counts: ClassCounts
    scenes: Mapping[str, ClassCounts]
    iou: Float64Array
    acc: Float64Array
    miou: float
    macc: float
    allacc: float
    groups: Mapping[str, float]
    undefined: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """The three means by name."""
        return {"mIoU": self.miou, "mAcc": self.macc, "allAcc": self.allacc}

    def resampled_means(self, scene_counts: Int64Array) -> dict[str, Float64Array]:
        """The three means of R splits in which every scene stands so many times, [R] each; equal but for rounding.

        A class that a split lost is left out of its means under every protocol; one that no scene has stays what it is.

        Args:
            scene_counts: [R, S], in the order of `scenes`.
        """
        I, U, T = (  # noqa: E741 - the names of the metric's definition
            scene_counts @ np.stack([getattr(counts, part) for counts in self.scenes.values()])
            for part in ("intersection", "union", "target")
        )
        epsilon = self.protocol.semantic.epsilon
        iou, acc = _ratio(I, U, epsilon, np.nan), _ratio(I, T, epsilon, np.nan)
        iou[:, self.counts.union == 0] = self.protocol.semantic.absent_value
        acc[:, self.counts.target == 0] = self.protocol.semantic.absent_value
        allacc = _ratio(I.sum(axis=1), T.sum(axis=1), epsilon, np.nan)
        return {"mIoU": means_of_defined(iou), "mAcc": means_of_defined(acc), "allAcc": allacc}

    def as_record(self) -> dict[str, Any]:
        """`metrics`, `classes`, `groups` and `scenes` as plain values, named as in the result schema."""
        return {
            "metrics": self.means(),
            "classes": {
                name: {"iou": float(iou), "acc": float(acc)}
                for name, iou, acc in zip(self.label_set.classes, self.iou, self.acc, strict=True)
            },
            "groups": dict(self.groups),
            "scenes": {name: counts.as_lists() for name, counts in self.scenes.items()},
        }


@dataclass(frozen=True)
class FoldMetrics:
    """Several folds as one number, both ways.

    Attributes:
        summed: counts summed over the folds first, then the ratios (what the authors' script does).
        mean: mean over the folds of `mIoU`, `mAcc` and `allAcc`; never to be mistaken for `summed`.
    """

    summed: SemanticMetrics
    mean: Mapping[str, float]


class SemanticScorer:
    """Collects counts scene by scene; no prediction is kept.

    Args:
        label_set: the classes; a class index is a position in it.
        protocol: from `gcbench.scoring.protocols.load_protocol`.
    """

    def __init__(self, label_set: LabelSet, protocol: Protocol) -> None:
        self.label_set = label_set
        self.protocol = protocol
        self._scenes: dict[str, ClassCounts] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def add(self, scene_name: str, prediction: NDArray[np.integer[Any]], target: NDArray[np.integer[Any]]) -> None:
        """Count one scene: `measure`, then `insert`."""
        self.insert(scene_name, self.measure(scene_name, prediction, target))

    def measure(
        self, scene_name: str, prediction: NDArray[np.integer[Any]], target: NDArray[np.integer[Any]]
    ) -> ClassCounts:
        """Counts of one scene, which is not added; so that several processes can share the work.

        Args:
            scene_name: for errors.
            prediction: [N] class indices, 0 .. K - 1 (and -1 where the protocol allows "no class").
            target: [N] class indices, 0 .. K - 1, -1 is not labelled.

        Raises:
            InputError: not integers, not one-dimensional, not of equal length, or out of range.
        """
        lowest = IGNORE_INDEX if self.protocol.semantic.unlisted_prediction == "miss" else 0
        _check(scene_name, "prediction", prediction, lowest, len(self.label_set))
        _check(scene_name, "target", target, IGNORE_INDEX, len(self.label_set))
        if len(prediction) != len(target):
            raise InputError(
                f"Scene '{scene_name}': {len(prediction)} predictions for {len(target)} labels.",
                "Predict exactly one class for every point of the scene.",
            )
        return count_classes(prediction, target, len(self.label_set))

    def insert(self, scene_name: str, counts: ClassCounts) -> None:
        """Add a scene that was measured.

        Raises:
            InputError: it was added before.
        """
        if scene_name in self._scenes:
            raise InputError(f"Scene '{scene_name}' was scored twice.", "Score every scene of a split exactly once.")
        self._scenes[scene_name] = counts

    def add_counts(self, scene_name: str, counts: Mapping[str, Sequence[int]]) -> None:
        """Take over the counts of a scene from a stored result (``intersection``, ``union``, ``target``, [K] each).

        Raises:
            InputError: counts are missing, not of length K, or contradict each other.
        """
        arrays = [np.asarray(counts.get(key, ()), dtype=np.int64) for key in ("intersection", "union", "target")]
        I, U, T = arrays  # noqa: E741 - the names of the metric's definition
        if any(array.shape != (len(self.label_set),) for array in arrays):
            raise InputError(
                f"Scene '{scene_name}': its counts are not those of the {len(self.label_set)} classes "
                f"of {self.label_set.name}."
            )
        if (I < 0).any() or (I > T).any() or (T > U).any():
            raise InputError(f"Scene '{scene_name}': its counts break 0 <= intersection <= target <= union.")
        self.insert(scene_name, ClassCounts(I, U, T))

    def merge(self, other: SemanticScorer) -> None:
        """Take over another scorer's scenes.

        Raises:
            InputError: another label set or protocol, or a scene both have; nothing is taken over then.
        """
        _same_measure((self.label_set, self.protocol), (other.label_set, other.protocol))
        _no_common_scene(self._scenes, other._scenes)
        self._scenes.update(other._scenes)

    def result(self) -> SemanticMetrics:
        """The metrics over everything added so far.

        Raises:
            InputError: nothing was added.
        """
        if not self._scenes:
            raise InputError("There is no scene to score.", "Add at least one scene before asking for the result.")
        return _metrics(self.label_set, self.protocol, dict(self._scenes))


def count_classes(prediction: NDArray[np.integer[Any]], target: NDArray[np.integer[Any]], classes: int) -> ClassCounts:
    """I, U and T of one scene, from one pass over its confusion matrix.

    Args:
        prediction: [N], -1 .. K - 1.
        target: [N], -1 .. K - 1.
        classes: K.
    """
    side = classes + 1  # row and column 0 stand for -1
    cell = (target.astype(np.intp) + 1) * side + prediction
    confusion = np.bincount(cell + 1, minlength=side * side).reshape(side, side)[1:]
    intersection = confusion[:, 1:].diagonal().astype(np.int64)
    target_count = confusion.sum(axis=1, dtype=np.int64)
    output_count = confusion[:, 1:].sum(axis=0, dtype=np.int64)
    return ClassCounts(intersection, output_count + target_count - intersection, target_count)


def sixfold(folds: Sequence[SemanticMetrics]) -> FoldMetrics:
    """Put folds together: counts summed first, and beside it the mean over the folds.

    Raises:
        InputError: no fold, folds of different label sets or protocols, or a scene in two folds.
    """
    if not folds:
        raise InputError("There is no fold to put together.")
    scenes: dict[str, ClassCounts] = {}
    for fold in folds:
        _same_measure((folds[0].label_set, folds[0].protocol), (fold.label_set, fold.protocol))
        _no_common_scene(scenes, fold.scenes)
        scenes.update(fold.scenes)
    mean = {name: float(np.mean([fold.means()[name] for fold in folds])) for name in folds[0].means()}
    return FoldMetrics(_metrics(folds[0].label_set, folds[0].protocol, scenes), mean)


def _metrics(label_set: LabelSet, protocol: Protocol, scenes: dict[str, ClassCounts]) -> SemanticMetrics:
    counts = sum(scenes.values(), start=_no_counts(len(label_set)))
    epsilon, absent = protocol.semantic.epsilon, protocol.semantic.absent_value
    iou = _ratio(counts.intersection, counts.union, epsilon, absent)
    acc = _ratio(counts.intersection, counts.target, epsilon, absent)
    allacc = _ratio(counts.intersection.sum(keepdims=True), counts.target.sum(keepdims=True), epsilon, absent)
    return SemanticMetrics(
        label_set=label_set,
        protocol=protocol,
        counts=counts,
        scenes=scenes,
        iou=iou,
        acc=acc,
        miou=mean_of_defined(iou),
        macc=mean_of_defined(acc),
        allacc=float(allacc[0]),
        groups={name: mean_of_defined(iou[list(members)]) for name, members in label_set.groups.items()},
        undefined=tuple(name for name, value in zip(label_set.classes, iou, strict=True) if np.isnan(value)),
    )


def _ratio(numerator: Int64Array, denominator: Int64Array, epsilon: float, absent: float) -> Float64Array:
    ratio = np.full(numerator.shape, absent)
    np.divide(numerator, denominator + epsilon, out=ratio, where=denominator > 0)
    return ratio


def _no_counts(classes: int) -> ClassCounts:
    zero = np.zeros(classes, dtype=np.int64)
    return ClassCounts(zero, zero, zero)


def _check(scene: str, what: str, values: NDArray[np.integer[Any]], lowest: int, classes: int) -> None:
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"Scene '{scene}': the {what} is an array of {values.dtype} with shape {values.shape}.",
            "It must be one-dimensional and of integers: one class index per point.",
        )
    if len(values) and (values.min() < lowest or values.max() >= classes):
        wrong = int(np.flatnonzero((values < lowest) | (values >= classes))[0])
        raise InputError(
            f"Scene '{scene}': the {what} of point {wrong} is {int(values[wrong])}.",
            f"Allowed are {lowest} to {classes - 1}.",
        )


def _same_measure(one: tuple[LabelSet, Protocol], other: tuple[LabelSet, Protocol]) -> None:
    if one != other:
        raise InputError(
            f"Scores on {one[0].name} ({one[1].name} v{one[1].version}) and on "
            f"{other[0].name} ({other[1].name} v{other[1].version}) cannot be put together."
        )


def _no_common_scene(one: Mapping[str, object], other: Mapping[str, object]) -> None:
    common = sorted(one.keys() & other.keys())
    if common:
        raise InputError(f"Scene '{common[0]}' was scored twice.", "Score every scene of a split exactly once.")
