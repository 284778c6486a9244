"""From masks and ground truth of one scene to the sizes and intersections of its instances, in vertices.

Shape legend
    N  vertices of a scene    P  predictions    G  ground truths    M  pairs that share vertices    K  classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import InputError
from gcbench.scoring.protocols import InstancePolicy
from gcbench.structures import IGNORE_INDEX, Float64Array, Int64Array, LabelSet

BoolArray = NDArray[np.bool_]
IntegerArray = NDArray[np.integer[Any]]
Masks = Sequence[NDArray[Any]] | NDArray[Any]

_ID_BASE = 1000  # of the benchmark's ground-truth ids
_TABLE_CELLS = 1 << 20  # up to so many possible (class, id) pairs are counted in a table


@dataclass(frozen=True)
class InstancePredictions:
    """The predictions of one scene, in the order of its file.

    Attributes:
        classes: [P] class indices, -1 is "not in the list"; such a prediction is left out and its mask not looked at.
        scores: [P], higher is surer.
        masks: P masks, read one by one: each a [N] bool array, or the ascending indices of its vertices. Or one [P, N]
            array; non-zero is in.
    """

    classes: IntegerArray
    scores: NDArray[np.floating[Any]]
    masks: Masks

    @classmethod
    def from_ids(
        cls, label_set: LabelSet, label_ids: IntegerArray, scores: NDArray[np.floating[Any]], masks: Masks
    ) -> InstancePredictions:
        """From raw label ids of the dataset ([P], e.g. nyu40id), as the benchmark's files have them."""
        return cls(class_indices(label_set, label_ids), scores, masks)


@dataclass(frozen=True)
class InstanceTarget:
    """The ground truth of one scene.

    Attributes:
        segment: [N] class indices, -1 is not annotated.
        instance: [N] instance ids, -1 is none.
    """

    segment: IntegerArray
    instance: IntegerArray

    @classmethod
    def from_ids(cls, label_set: LabelSet, ids: IntegerArray) -> InstanceTarget:
        """From the benchmark's id per vertex ([N]): label id * 1000 + instance + 1, and 0 where not annotated."""
        label_ids, numbers = np.divmod(np.asarray(ids), _ID_BASE)
        return cls(class_indices(label_set, label_ids), numbers - 1)


@dataclass(frozen=True)
class SceneOverlaps:
    """What one scene adds to a score; of evaluated classes only.

    Attributes:
        target_classes: [G] class indices; within a class by ascending id.
        target_sizes: [G], small ones included.
        classes: [P] class indices of the predictions that are large enough, in the order given.
        scores: [P] float64.
        sizes: [P].
        void: [P] vertices of a prediction that are of no evaluated class.
        pairs: [M, 3] prediction, ground truth and their intersection (> 0), where both are of one class.
    """

    target_classes: Int64Array
    target_sizes: Int64Array
    classes: Int64Array
    scores: Float64Array
    sizes: Int64Array
    void: Int64Array
    pairs: Int64Array

    def as_record(self) -> dict[str, list[list[float]]]:
        """As JSON has it: rows of `targets` (class, size), `predictions` (class, score, size, void), `overlaps`."""
        predictions = zip(
            self.classes.tolist(), self.scores.tolist(), self.sizes.tolist(), self.void.tolist(), strict=True
        )
        return {
            "targets": np.stack([self.target_classes, self.target_sizes], axis=1).tolist(),
            "predictions": [list(row) for row in predictions],
            "overlaps": self.pairs.tolist(),
        }


def class_indices(label_set: LabelSet, label_ids: IntegerArray) -> Int64Array:
    """Class index of each raw label id (any shape), -1 where the label set does not have it."""
    ids = np.asarray(label_set.ids)
    table = np.full(int(ids.max()) + 2, IGNORE_INDEX, np.int64)  # the last for ids out of range
    table[ids] = np.arange(len(ids))
    label_ids = np.asarray(label_ids)
    in_range = (label_ids >= 0) & (label_ids <= ids.max())
    return table[np.where(in_range, label_ids, -1)]


class OverlapMeter:
    """Reduces scenes to integers, one after the other; its buffer is used again for every scene.

    Args:
        is_evaluated: [K + 1] whether a class has an AP; the last is class -1.
        policy: what an instance is, and how large one must be.
    """

    def __init__(self, is_evaluated: BoolArray, policy: InstancePolicy) -> None:
        self.is_evaluated = is_evaluated
        self._policy = policy
        self._keys = np.empty(0, np.int64)

    def measure(self, scene_name: str, predictions: InstancePredictions, target: InstanceTarget) -> SceneOverlaps:
        """Sizes and intersections of P predictions on N vertices.

        Raises:
            InputError: arrays of a wrong type or length, a class out of range, a score that is not a number, or a
                vertex that the scene does not have.
        """
        policy = self._policy
        _check(scene_name, predictions, target, len(self.is_evaluated) - 1)
        target_classes, target_sizes, cells = self._target_cells(target)
        columns = 2 * (len(target_classes) + 1)
        kept: list[int] = []
        rows: list[NDArray[np.intp]] = []
        for number in np.flatnonzero(self.is_evaluated[predictions.classes]).tolist():
            inside = _cells_inside(scene_name, number, predictions.masks, cells)
            if len(inside) >= policy.minimum_vertices:
                kept.append(number)
                rows.append(np.bincount(inside, minlength=columns))
        counts = np.array(rows, np.int64).reshape(len(kept), columns)
        intersections = counts[:, 2::2] + counts[:, 3::2]
        classes = predictions.classes[kept].astype(np.int64)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and compares as such
            scores = predictions.scores[kept].astype(policy.score_precision).astype(np.float64)
        pair = np.nonzero((intersections > 0) & (classes[:, None] == target_classes))
        return SceneOverlaps(
            target_classes=target_classes,
            target_sizes=target_sizes,
            classes=classes,
            scores=scores,
            sizes=counts.sum(axis=1),
            void=counts[:, 1::2].sum(axis=1),
            pairs=np.stack([*pair, intersections[pair]], axis=1),
        )

    def _target_cells(self, target: InstanceTarget) -> tuple[Int64Array, Int64Array, IntegerArray]:
        """Ground truths of a scene, and for every vertex which one it is of and whether it is void.

        Returns:
            classes [G], sizes [G], and cells [N]: 2 * (ground truth + 1, or 0 for none) + (1 if void).
        """
        instance, ids = _table_ids(target.instance, len(self.is_evaluated))
        width = len(ids)
        if len(self._keys) < len(instance):
            self._keys = np.empty(len(instance), np.int64)
        key = self._keys[: len(instance)]  # (class + 1) * width + position of the id in `ids`
        np.multiply(target.segment, width, out=key, dtype=np.int64, casting="unsafe")
        np.add(key, instance, out=key, dtype=np.int64, casting="unsafe")
        key += width - (0 if instance is not target.instance else int(ids[0]))
        key_sizes = np.bincount(key)
        present = np.flatnonzero(key_sizes)
        segments, columns = present // width - 1, present % width

        # A ground truth is one (class, id) that is present, or all of one id; `owner` says which.
        classes, sizes, owner = segments, key_sizes[present], np.arange(len(present))
        is_target = self.is_evaluated[segments]
        if self._policy.instance == "id":
            columns, first, owner, parts = np.unique(
                columns, return_index=True, return_inverse=True, return_counts=True
            )
            classes = segments[first]
            for several in np.flatnonzero(parts > 1).tolist():
                classes[several] = target.segment[np.argmax(target.instance == ids[columns[several]])]
            sizes = np.bincount(owner, sizes, len(columns)).astype(np.int64)
            is_target = self.is_evaluated[classes] & (ids[columns] != IGNORE_INDEX)
        number = np.where(is_target, np.cumsum(is_target), 0)
        cell_of_key = np.zeros(len(key_sizes), np.min_scalar_type(2 * len(classes) + 1))
        cell_of_key[present] = 2 * number[owner] + ~self.is_evaluated[segments]
        return classes[is_target], sizes[is_target], cell_of_key.take(key)


def _table_ids(instance: IntegerArray, classes: int) -> tuple[IntegerArray, Int64Array]:
    """Ids that fit a table of classes x ids, as they are or else numbered in their order; and the id of each column."""
    lowest, highest = (int(instance.min()), int(instance.max())) if len(instance) else (0, 0)
    if (highest - lowest + 1) * classes <= _TABLE_CELLS:
        return instance, np.arange(lowest, highest + 1)
    ids, numbers = np.unique(instance.astype(np.int64), return_inverse=True)
    return numbers, ids


def _cells_inside(scene_name: str, number: int, masks: Masks, cells: IntegerArray) -> IntegerArray:
    """Cells of the vertices in one mask."""
    mask = np.asarray(masks[number])
    if mask.dtype == np.bool_ or isinstance(masks, np.ndarray):
        if mask.shape != cells.shape:
            raise InputError(
                f"Scene '{scene_name}': the mask of prediction {number} has shape {mask.shape}, "
                f"the scene {len(cells)} vertices."
            )
        return cells[np.asarray(mask, np.bool_)]
    if mask.ndim != 1 or not (np.issubdtype(mask.dtype, np.integer) or mask.size == 0):
        raise InputError(
            f"Scene '{scene_name}': the mask of prediction {number} is an array of {mask.dtype} "
            f"with shape {mask.shape}.",
            "It must be one bool per vertex, or the ascending indices of its vertices.",
        )
    if mask.size == 0:
        return cells[:0]
    if mask[0] < 0 or mask[-1] >= len(cells) or (mask[1:] <= mask[:-1]).any():
        raise InputError(
            f"Scene '{scene_name}': the vertices of prediction {number} are not ascending indices "
            f"from 0 to {len(cells) - 1}."
        )
    return cells[mask.astype(np.intp, copy=False)]


def overlaps_from_record(
    scene_name: str, record: Mapping[str, Sequence[Sequence[float]]], is_evaluated: BoolArray
) -> SceneOverlaps:
    """Read what `SceneOverlaps.as_record` wrote.

    Raises:
        InputError: a part is missing or contradicts another.
    """
    wrong = InputError(
        f"Scene '{scene_name}': not the record of a scene's instances.",
        "It must have `targets`, `predictions` and `overlaps`, as a result of `gcbench evaluate instance` has them.",
    )
    try:
        targets = _table(record["targets"], 2)
        predictions = _table(record["predictions"], 4)
        pairs = _table(record["overlaps"], 3).astype(np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise wrong from error
    scene = SceneOverlaps(
        target_classes=targets[:, 0].astype(np.int64),
        target_sizes=targets[:, 1].astype(np.int64),
        classes=predictions[:, 0].astype(np.int64),
        scores=predictions[:, 1],
        sizes=predictions[:, 2].astype(np.int64),
        void=predictions[:, 3].astype(np.int64),
        pairs=pairs,
    )
    if not _consistent(scene, is_evaluated):
        raise wrong
    return scene


def _table(rows: Sequence[Sequence[float]], columns: int) -> Float64Array:
    return np.array(rows, np.float64).reshape(len(rows), columns)


def _consistent(scene: SceneOverlaps, is_evaluated: BoolArray) -> bool:
    prediction, target, vertices = scene.pairs.T
    for classes in (scene.target_classes, scene.classes):
        if (classes < 0).any() or (classes >= len(is_evaluated)).any() or not is_evaluated[classes].all():
            return False
    for index, count in ((prediction, len(scene.classes)), (target, len(scene.target_classes))):
        if (index < 0).any() or (index >= count).any():
            return False
    return bool(
        not np.isnan(scene.scores).any()
        and (scene.target_sizes > 0).all()
        and (scene.sizes > 0).all()
        and (scene.void >= 0).all()
        and (scene.void <= scene.sizes).all()
        and (vertices > 0).all()
        and (vertices <= scene.target_sizes[target]).all()
        and (np.bincount(prediction, vertices, len(scene.sizes)) <= scene.sizes).all()
        and (scene.classes[prediction] == scene.target_classes[target]).all()
    )


def _check(scene: str, predictions: InstancePredictions, target: InstanceTarget, classes: int) -> None:
    for what, values in (
        ("classes of vertices", target.segment),
        ("instances of vertices", target.instance),
        ("classes of predictions", predictions.classes),
    ):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise InputError(
                f"Scene '{scene}': the {what} are an array of {values.dtype} with shape {values.shape}.",
                "It must be one-dimensional and of integers.",
            )
    if len(target.segment) != len(target.instance):
        raise InputError(
            f"Scene '{scene}': {len(target.segment)} classes, but {len(target.instance)} instances of vertices."
        )
    if predictions.scores.ndim != 1 or not (
        len(predictions.classes) == len(predictions.scores) == len(predictions.masks)
    ):
        raise InputError(
            f"Scene '{scene}': {len(predictions.classes)} classes of predictions, scores of shape "
            f"{predictions.scores.shape}, {len(predictions.masks)} masks."
        )
    if np.isnan(predictions.scores).any():
        number = int(np.argmax(np.isnan(predictions.scores)))
        raise InputError(f"Scene '{scene}': the score of prediction {number} is not a number.")
    for what, values in (("vertex", target.segment), ("prediction", predictions.classes)):
        if len(values) and (values.min() < IGNORE_INDEX or values.max() >= classes):
            wrong = int(np.flatnonzero((values < IGNORE_INDEX) | (values >= classes))[0])
            raise InputError(
                f"Scene '{scene}': the class of {what} {wrong} is {int(values[wrong])}.",
                f"Allowed are -1 to {classes - 1}.",
            )
