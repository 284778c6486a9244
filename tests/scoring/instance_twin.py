"""Instance AP as the rules say it: sets of vertices, one class, one threshold and one scene at a time. Slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Vertices = frozenset[int]


@dataclass(frozen=True)
class Prediction:
    class_index: int
    score: float
    vertices: Vertices


@dataclass(frozen=True)
class TwinScene:
    """Classes and instance ids of the vertices, and predictions in the order of their file."""

    segment: Sequence[int]
    instance: Sequence[int]
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class Rules:
    """What a protocol says: evaluated classes, least size, and whether an id alone makes an instance."""

    evaluated: Sequence[int]
    minimum: int
    id_alone: bool
    float32_scores: bool


def thresholds() -> list[float]:
    return [float(t) for t in np.append(np.arange(0.5, 0.95, 0.05), 0.25)]


def ap_table(scenes: Sequence[TwinScene], rules: Rules) -> list[list[float]]:
    """AP per evaluated class, and threshold within it."""
    return [[_ap(scenes, rules, k, threshold) for threshold in thresholds()] for k in rules.evaluated]


def _ap(scenes: Sequence[TwinScene], rules: Rules, k: int, threshold: float) -> float:
    outcomes: list[tuple[float, bool]] = []
    ground_truths = 0
    for scene in scenes:
        truths = _truths(scene, rules, k)
        ground_truths += sum(len(truth) >= rules.minimum for truth in truths)
        predictions = [p for p in scene.predictions if p.class_index == k and len(p.vertices) >= rules.minimum]
        if rules.float32_scores:
            predictions = [Prediction(k, float(np.float32(p.score)), p.vertices) for p in predictions]
        outcomes += _matched(truths, predictions, rules, threshold)
        outcomes += _unmatched(truths, predictions, _void(scene, rules), rules, threshold)
    if not ground_truths:
        return math.nan
    return _area(outcomes, ground_truths)


def _truths(scene: TwinScene, rules: Rules, k: int) -> list[Vertices]:
    """Instances of the class by ascending id, small ones too."""
    found: dict[int, set[int]] = {}
    for vertex, (segment, instance) in enumerate(zip(scene.segment, scene.instance, strict=True)):
        if rules.id_alone:
            if instance != -1 and scene.segment[scene.instance.index(instance)] == k:
                found.setdefault(instance, set()).add(vertex)
        elif segment == k:
            found.setdefault(instance, set()).add(vertex)
    return [frozenset(found[instance]) for instance in sorted(found)]


def _void(scene: TwinScene, rules: Rules) -> Vertices:
    return frozenset(v for v, segment in enumerate(scene.segment) if segment not in rules.evaluated)


def _iou(one: Vertices, other: Vertices) -> float:
    return len(one & other) / len(one | other)


def _matched(
    truths: list[Vertices], predictions: list[Prediction], rules: Rules, threshold: float
) -> list[tuple[float, bool]]:
    outcomes: list[tuple[float, bool]] = []
    used_up: set[int] = set()
    for truth in truths:
        if len(truth) < rules.minimum:
            continue
        best: float | None = None
        for number, prediction in enumerate(predictions):
            if number in used_up or not _iou(truth, prediction.vertices) > threshold:
                continue
            if best is None:
                best = prediction.score
                used_up.add(number)
            else:
                outcomes.append((min(best, prediction.score), False))
                best = max(best, prediction.score)
        if best is not None:
            outcomes.append((best, True))
    return outcomes


def _unmatched(
    truths: list[Vertices], predictions: list[Prediction], void: Vertices, rules: Rules, threshold: float
) -> list[tuple[float, bool]]:
    outcomes: list[tuple[float, bool]] = []
    for prediction in predictions:
        if any(_iou(truth, prediction.vertices) > threshold for truth in truths):
            continue
        ignored = len(prediction.vertices & void)
        ignored += sum(len(prediction.vertices & truth) for truth in truths if len(truth) < rules.minimum)
        if ignored / len(prediction.vertices) <= threshold:
            outcomes.append((prediction.score, False))
    return outcomes


def _area(outcomes: list[tuple[float, bool]], ground_truths: int) -> float:
    precision, recall = [], []
    for score in sorted({score for score, _ in outcomes}):
        kept = [right for other, right in outcomes if other >= score]
        precision.append(sum(kept) / len(kept))
        recall.append(sum(kept) / ground_truths)
    precision.append(1.0)
    recall.append(0.0)
    extended = np.array([recall[0], *recall, 0.0])
    return float(np.dot(np.array(precision), 0.5 * (extended[:-2] - extended[2:])))
