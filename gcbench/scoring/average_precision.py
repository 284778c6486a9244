"""From overlaps of instances to average precision: greedy matching, precision-recall curves, and their areas.

Shape legend
    S  scenes            P  predictions           G  ground truths          M  pairs that share vertices
    C  evaluated classes T  IoU thresholds        E  outcomes, each a true or a false positive at one threshold

The rules are those of ScanNet's `evaluate_semantic_instance.py`, which Pointcept's `InsSegEvaluator` shares. Everything
is computed for all scenes, classes and thresholds at once; sums that decide the last bit keep the script's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcbench.scoring.instance_overlaps import BoolArray, SceneOverlaps
from gcbench.structures import Float64Array, Int32Array, Int64Array

_BLOCK = 1 << 16  # draws of a bootstrap x outcomes at a time, so that they stay in the cache


@dataclass(frozen=True)
class Outcomes:
    """True and false positives of all scenes, by class, then threshold, then score.

    A row is one class at one threshold; there are C * T. A point of a row is one unique score of it.

    Attributes:
        hit: [E] whether it is a true positive.
        scene: [E].
        points: index of the first outcome of each point.
        row_points: [C * T + 1], points of row r are ``row_points[r] : row_points[r + 1]``.
        row_outcomes: [C * T + 1], likewise.
        targets: [S, C] counted ground truths.
        thresholds: T.
    """

    hit: BoolArray
    scene: Int64Array
    points: Int64Array
    row_points: Int64Array
    row_outcomes: Int64Array
    targets: Int64Array
    thresholds: int


def collect_outcomes(
    scenes: Sequence[SceneOverlaps], classes: Int64Array, thresholds: Float64Array, minimum_vertices: int
) -> Outcomes:
    """Match predictions with ground truths, at every threshold.

    Args:
        scenes: S of them.
        classes: [C] evaluated class indices, ascending.
        thresholds: [T]; a match has a larger IoU.
        minimum_vertices: smaller ground truths do not count.
    """
    split = _concatenate(scenes)
    pair_prediction, pair_target, intersection = split.pairs.T
    iou = intersection / (split.target_sizes[pair_target] + split.sizes[pair_prediction] - intersection)
    counted = split.target_sizes >= minimum_vertices
    on_counted = counted[pair_target]

    # False positives: over the threshold with nothing of their class, and not mostly on what does not count.
    best_iou = np.zeros(len(split.sizes))
    np.maximum.at(best_iou, pair_prediction, iou)
    ignored = split.void.copy()
    np.add.at(ignored, pair_prediction[~on_counted], intersection[~on_counted])
    share_ignored = ignored / split.sizes
    missed = (best_iou <= thresholds[:, None]) & (share_ignored <= thresholds[:, None])
    missed_threshold, missed_prediction = np.nonzero(missed)

    order = np.flatnonzero(on_counted)
    order = order[np.lexsort((pair_prediction[order], pair_target[order]))]
    claims = _claims(pair_prediction[order], pair_target[order], iou[order] > thresholds[:, None])
    by_score = np.lexsort((split.scores[pair_prediction[order]], pair_target[order]))
    claim_threshold, claim = np.nonzero(claims[:, by_score])
    claim = order[by_score[claim]]
    claim_prediction, claim_target = pair_prediction[claim], pair_target[claim]
    # Of all claims to a ground truth the one with the highest score is right.
    hit = np.ones(len(claim), np.bool_)
    hit[:-1] = (claim_target[1:] != claim_target[:-1]) | (claim_threshold[1:] != claim_threshold[:-1])

    prediction = np.concatenate([claim_prediction, missed_prediction])
    position = np.searchsorted(classes, split.classes[prediction])
    row = position * len(thresholds) + np.concatenate([claim_threshold, missed_threshold])
    rows = len(classes) * len(thresholds)
    score = split.scores[prediction]
    order = np.lexsort((score, row))
    row, score = row[order], score[order]
    points = np.flatnonzero(np.append(True, (row[1:] != row[:-1]) | (score[1:] != score[:-1]))[: len(row)])
    targets = np.zeros((len(scenes), len(classes)), np.int64)
    np.add.at(targets, (split.target_scenes[counted], np.searchsorted(classes, split.target_classes[counted])), 1)
    return Outcomes(
        hit=np.concatenate([hit, np.zeros(len(missed_prediction), np.bool_)])[order],
        scene=split.scenes[prediction][order],
        points=points,
        row_points=np.searchsorted(row[points], np.arange(rows + 1)),
        row_outcomes=np.searchsorted(row, np.arange(rows + 1)),
        targets=targets,
        thresholds=len(thresholds),
    )


def average_precision(outcomes: Outcomes) -> Float64Array:
    """Areas under the curves: one point per unique score and (1, 0), no envelope.

    Returns:
        [T, C]; NaN for a class without a counted ground truth.
    """
    hits = np.append(0, np.cumsum(outcomes.hit))
    targets = np.repeat(outcomes.targets.sum(axis=0), outcomes.thresholds)
    rows = len(targets)
    row = np.repeat(np.arange(rows), np.diff(outcomes.row_points))
    end = outcomes.row_outcomes[row + 1]
    tp = hits[end] - hits[outcomes.points]
    # Every row ends with the point (precision 1, recall 0).
    precision, recall = np.ones(len(row) + rows), np.zeros(len(row) + rows)
    place = np.arange(len(row)) + row
    precision[place] = tp / (end - outcomes.points)
    recall[place] = tp / np.maximum(targets[row], 1)

    first, last = outcomes.row_points[:-1] + np.arange(rows), outcomes.row_points[1:] + np.arange(rows)
    before, after = np.roll(recall, 1), np.roll(recall, -1)
    before[first], after[last] = recall[first], 0.0
    width = 0.5 * (before - after)
    area = np.zeros(rows)
    for r in np.flatnonzero(recall[first] > 0):
        area[r] = np.dot(precision[first[r] : last[r] + 1], width[first[r] : last[r] + 1])
    area[targets == 0] = np.nan
    return np.ascontiguousarray(area.reshape(-1, outcomes.thresholds).T)


def resampled_precision(outcomes: Outcomes, scene_counts: Int64Array) -> Float64Array:
    """The areas of R splits in which every scene stands so many times; equal to `average_precision` but for rounding.

    With H true positives at a point, the trapezoid rule is (sum of precision * (H of the point before + H) + H of the
    last point) / (2 * ground truths).

    Args:
        outcomes: of S scenes.
        scene_counts: [R, S].

    Returns:
        [R, T, C]; NaN for a class without a counted ground truth in the split.
    """
    lengths = np.diff(outcomes.row_points)
    filled = np.flatnonzero(lengths)
    lengths, ends = lengths[filled], outcomes.row_outcomes[1:][filled] - 1
    first, last = outcomes.row_points[:-1][filled], outcomes.row_points[1:][filled] - 1
    targets = np.repeat(scene_counts @ outcomes.targets, outcomes.thresholds, axis=1)
    area = np.zeros(targets.shape)

    is_point = slice(None) if len(outcomes.points) == len(outcomes.hit) else outcomes.points
    hit = outcomes.hit.astype(np.int32)

    def from_the_end(values: Int32Array) -> Float64Array:
        """Sums [R, points] from each point to the last of its row. Of integers, which numpy sums ten times as fast."""
        total = np.cumsum(values, axis=1, dtype=np.int32)
        of_row, before = np.repeat(total[:, ends], lengths, axis=1), (total - values)[:, is_point]
        return (of_row - before).astype(np.float64)

    draws = max(1, _BLOCK // max(1, len(hit)))
    for start in range(0, len(scene_counts) if len(filled) else 0, draws):
        block = slice(start, start + draws)
        weight = scene_counts[block].astype(np.int32).take(outcomes.scene, axis=1)
        tp, predicted = from_the_end(weight * hit), from_the_end(weight)
        precision = np.divide(tp, predicted, out=np.ones(tp.shape), where=predicted > 0)
        hits = tp.copy()
        hits[:, :-1] -= tp[:, 1:]
        hits[:, last] = tp[:, last]
        width = hits.copy()
        width[:, 1:] += hits[:, :-1]
        width[:, first] = hits[:, first]
        area[block, filled] = np.add.reduceat(precision * width, first, axis=1) + hits[:, last]
    with np.errstate(invalid="ignore"):
        area /= 2 * targets  # 0 / 0 is NaN
    return area.reshape(len(scene_counts), -1, outcomes.thresholds).swapaxes(1, 2)


def _claims(prediction: Int64Array, target: Int64Array, over: BoolArray) -> BoolArray:
    """Which pairs are a claim of the prediction to the ground truth, at every threshold.

    Ground truths are served in order. The first prediction over the threshold that is not used up claims the ground
    truth and is used up; later ones claim it too, stay unused, and may go on to claim the next.

    Args:
        prediction: [M] of pairs ordered by ground truth, then prediction.
        target: [M] likewise.
        over: [T, M] IoU > threshold.
    """
    claims = over.copy()
    for t, pairs in enumerate(over):
        of_pair = prediction[pairs]
        if len(of_pair) == len(np.unique(of_pair)):
            continue  # nobody is over the threshold twice, as nobody can be from 0.5 up: ground truths share no vertex
        used: set[int] = set()
        served = -1
        for pair in np.flatnonzero(pairs).tolist():
            candidate, wanted = int(prediction[pair]), int(target[pair])
            if candidate in used:
                claims[t, pair] = False
            elif wanted != served:
                used.add(candidate)
                served = wanted
    return claims


@dataclass(frozen=True)
class _Split(SceneOverlaps):
    """All scenes in one; `pairs` counts through."""

    scenes: Int64Array
    target_scenes: Int64Array


def _concatenate(scenes: Sequence[SceneOverlaps]) -> _Split:
    prediction_counts = [len(scene.sizes) for scene in scenes]
    target_counts = [len(scene.target_sizes) for scene in scenes]
    starts = np.stack(
        [np.cumsum([0, *prediction_counts[:-1]]), np.cumsum([0, *target_counts[:-1]]), np.zeros(len(scenes), np.int64)],
        axis=1,
    )
    return _Split(
        target_classes=np.concatenate([scene.target_classes for scene in scenes]),
        target_sizes=np.concatenate([scene.target_sizes for scene in scenes]),
        classes=np.concatenate([scene.classes for scene in scenes]),
        scores=np.concatenate([scene.scores for scene in scenes]),
        sizes=np.concatenate([scene.sizes for scene in scenes]),
        void=np.concatenate([scene.void for scene in scenes]),
        pairs=np.concatenate([scene.pairs + start for scene, start in zip(scenes, starts, strict=True)]),
        scenes=np.repeat(np.arange(len(scenes)), prediction_counts),
        target_scenes=np.repeat(np.arange(len(scenes)), target_counts),
    )
