"""The scorer against slow, readable twins, to the last bit, and its refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.scoring import semantic
from gcbench.scoring.protocols import Protocol, load_protocol
from gcbench.scoring.semantic import SemanticScorer, sixfold
from gcbench.structures import LabelSet

POINTCEPT = load_protocol("pointcept")
OFFICIAL = load_protocol("scannet-official")
SceneLists = list[tuple[list[int], list[int]]]


def labels(classes: int) -> LabelSet:
    half = classes // 2
    groups = {"head": tuple(range(half)), "tail": tuple(range(half, classes))}
    return LabelSet("made-up", "scannet", tuple(f"class {k}" for k in range(classes)), tuple(range(classes)), groups)


@st.composite
def splits(draw: st.DrawFn, lowest_prediction: int = 0) -> tuple[int, SceneLists]:
    classes = draw(st.integers(1, 7))
    point = st.tuples(st.integers(lowest_prediction, classes - 1), st.integers(-1, classes - 1))
    scenes = draw(st.lists(st.lists(point, max_size=30), min_size=1, max_size=4))
    return classes, [([p for p, _ in scene], [t for _, t in scene]) for scene in scenes]


def score(classes: int, scenes: SceneLists, protocol: Protocol) -> semantic.SemanticMetrics:
    scorer = SemanticScorer(labels(classes), protocol)
    for number, (prediction, target) in enumerate(scenes):
        scorer.add(f"scene{number}", np.array(prediction, dtype=np.int16), np.array(target, dtype=np.int64))
    return scorer.result()


def pointcept_twin(classes: int, scenes: SceneLists) -> tuple[list[float], list[float], float, float, float]:
    """Point by point: I, U, T; then the ratios with the epsilon, absent classes as 0."""
    I, U, T = [0] * classes, [0] * classes, [0] * classes  # noqa: E741
    for prediction, target in scenes:
        for p, t in zip(prediction, target, strict=True):
            if t == -1:
                continue
            T[t] += 1
            U[t] += 1
            if p == t:
                I[t] += 1
            else:
                U[p] += 1
    iou = [i / (u + 1e-10) for i, u in zip(I, U, strict=True)]
    acc = [i / (t + 1e-10) for i, t in zip(I, T, strict=True)]
    return iou, acc, float(np.mean(iou)), float(np.mean(acc)), sum(I) / (sum(T) + 1e-10)


def official_twin(classes: int, scenes: SceneLists) -> list[float]:
    """IoU = tp / (tp + fp + fn) per class; an unlisted prediction is in no class's column."""
    iou = []
    for k in range(classes):
        points = [(p, t) for scene in scenes for p, t in zip(*scene, strict=True) if t != -1]
        tp = sum(p == k and t == k for p, t in points)
        fn = sum(p != k and t == k for p, t in points)
        fp = sum(p == k and t != k for p, t in points)
        iou.append(tp / (tp + fp + fn) if tp + fp + fn else math.nan)
    return iou


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    return np.array_equal(np.array(one), np.array(other), equal_nan=True)


@given(splits())
def test_pointcept_to_the_bit(split: tuple[int, SceneLists]) -> None:
    metrics = score(*split, POINTCEPT)
    iou, acc, miou, macc, allacc = pointcept_twin(*split)
    assert same(metrics.iou, iou)
    assert same(metrics.acc, acc)
    assert (metrics.miou, metrics.macc, metrics.allacc) == (miou, macc, allacc)


@given(splits(lowest_prediction=-1))
def test_scannet_official_to_the_bit(split: tuple[int, SceneLists]) -> None:
    metrics = score(*split, OFFICIAL)
    iou = official_twin(*split)
    assert same(metrics.iou, iou)
    defined = [value for value in iou if not math.isnan(value)]
    assert same([metrics.miou], [float(np.mean(defined)) if defined else math.nan])
    assert metrics.undefined == tuple(f"class {k}" for k, value in enumerate(iou) if math.isnan(value))


@given(splits(), st.randoms())
def test_order_and_partition_do_not_matter(split: tuple[int, SceneLists], random: object) -> None:
    classes, scenes = split
    whole = score(classes, scenes, POINTCEPT)
    one, other = SemanticScorer(labels(classes), POINTCEPT), SemanticScorer(labels(classes), POINTCEPT)
    numbered = list(enumerate(scenes))
    random.shuffle(numbered)  # type: ignore[attr-defined]
    for number, (prediction, target) in numbered:
        scorer = one if number % 2 else other
        scorer.add(f"scene{number}", np.array(prediction, dtype=np.int64), np.array(target, dtype=np.int64))
    one.merge(other)
    merged = one.result()
    assert same(whole.iou, merged.iou)
    assert same(whole.acc, merged.acc)
    assert whole.allacc == merged.allacc


@given(splits())
def test_counts_survive_a_stored_result(split: tuple[int, SceneLists]) -> None:
    metrics = score(*split, POINTCEPT)
    scorer = SemanticScorer(metrics.label_set, POINTCEPT)
    for name, counts in metrics.as_record()["scenes"].items():
        scorer.add_counts(name, counts)
    again = scorer.result()
    assert again.as_record()["scenes"] == metrics.as_record()["scenes"]
    assert same(again.iou, metrics.iou)


def test_groups_skip_undefined_classes() -> None:
    metrics = score(4, [([0, 0, 2], [0, 1, 2])], OFFICIAL)
    assert same(metrics.iou, [0.5, 0.0, 1.0, math.nan])
    assert metrics.groups == {"head": 0.25, "tail": 1.0}


def test_ignored_points_and_unlisted_predictions() -> None:
    metrics = score(2, [([0, 1, -1], [-1, 1, 1])], OFFICIAL)
    assert metrics.counts.as_lists() == {"intersection": [0, 1], "union": [0, 2], "target": [0, 2]}


def test_sixfold_sums_counts_before_any_ratio() -> None:
    folds = []
    for number, (prediction, target) in enumerate([([0, 0, 0, 1], [0, 0, 0, 0]), ([1], [1])]):
        scorer = SemanticScorer(labels(2), POINTCEPT)
        scorer.add(f"Area_{number}/room", np.array(prediction), np.array(target))
        folds.append(scorer.result())
    both = sixfold(folds)
    assert both.summed.miou == pytest.approx((3 / 4 + 1 / 2) / 2, abs=1e-9)
    assert both.mean["mIoU"] == pytest.approx(((3 / 4 + 0) / 2 + (0 + 1) / 2) / 2, abs=1e-9)
    assert list(both.summed.scenes) == ["Area_0/room", "Area_1/room"]
    with pytest.raises(InputError, match="scored twice"):
        sixfold([folds[0], folds[0]])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 3], [0, 1], "prediction of point 1 is 3"),
        ([0, -1], [0, 1], "prediction of point 1 is -1"),
        ([0, 1], [0, -2], "target of point 1 is -2"),
        ([0, 1], [0], "2 predictions for 1 labels"),
        ([0.0, 1.0], [0, 1], "float64"),
        ([[0, 1]], [0, 1], r"shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(prediction: list, target: list, message: str) -> None:
    scorer = SemanticScorer(labels(3), POINTCEPT)
    with pytest.raises(InputError, match=message):
        scorer.add("scene", np.array(prediction), np.array(target))
    assert len(scorer) == 0


def test_a_scene_is_scored_once_and_only_like_with_like() -> None:
    scorer, official = SemanticScorer(labels(2), POINTCEPT), SemanticScorer(labels(2), OFFICIAL)
    with pytest.raises(InputError, match="no scene"):
        scorer.result()
    scorer.add("scene", np.array([0]), np.array([0]))
    with pytest.raises(InputError, match="'scene' was scored twice"):
        scorer.add("scene", np.array([0]), np.array([0]))
    with pytest.raises(InputError, match=r"pointcept v1.*scannet-official v1"):
        scorer.merge(official)
    with pytest.raises(InputError, match="break 0 <= intersection"):
        scorer.add_counts("other", {"intersection": [2, 0], "union": [1, 1], "target": [1, 1]})
    with pytest.raises(InputError, match="2 classes"):
        scorer.add_counts("other", {"intersection": [1], "union": [1], "target": [1]})


def test_inputs_are_left_alone() -> None:
    prediction, target = np.array([0, 1, 1]), np.array([-1, 1, 0])
    SemanticScorer(labels(2), POINTCEPT).add("scene", prediction, target)
    assert prediction.tolist() == [0, 1, 1]
    assert target.tolist() == [-1, 1, 0]
