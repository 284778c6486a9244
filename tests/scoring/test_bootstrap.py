"""Intervals over scenes and the spread over seeds: seeded, apart, and what they say they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.scoring.bootstrap import Metrics, scene_draws, scene_intervals, seed_spread
from gcbench.scoring.instance import InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer
from gcbench.structures import LabelSet

LABELS = LabelSet("scannet20", "scannet", ("wall", "floor", "chair", "bed"), (1, 2, 5, 4))


def semantic(scenes: int, seed: int, protocol: str = "pointcept", right: float = 0.7) -> Metrics:
    scorer = SemanticScorer(LABELS, load_protocol(protocol))
    for number in range(scenes):
        draw = np.random.default_rng(number)
        target = draw.integers(-1, 4, 200)
        wrong = np.random.default_rng([seed, number]).random(200) > draw.uniform(right - 0.2, right + 0.2)
        scorer.add(f"scene{number}", np.where(wrong | (target < 0), 0, target), target)
    return scorer.result()


def instance(scenes: int, seed: int) -> Metrics:
    scorer = InstanceScorer(LABELS, load_protocol("scannet-official"))
    for number in range(scenes):
        draw = np.random.default_rng([seed, number])
        segment, ids = np.repeat([2, 2, 3, -1], 120), np.repeat([0, 1, 2, -1], 120)
        masks = np.array([(ids == draw.integers(0, 3)) & (draw.random(480) < draw.uniform(0.2, 1)) for _ in range(6)])
        predictions = InstancePredictions(draw.integers(2, 4, 6), draw.random(6), masks)
        scorer.add(f"scene{number}", predictions, InstanceTarget(segment, ids))
    return scorer.result()


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 9))
def test_draws_are_splits_of_the_same_size_and_seeded(scenes: int, draws: int, seed: int) -> None:
    counts = scene_draws(scenes, draws, seed)
    assert counts.shape == (draws, scenes)
    assert (counts.sum(axis=1) == scenes).all()
    assert np.array_equal(counts, scene_draws(scenes, draws, seed))


@pytest.mark.parametrize("make", [semantic, instance])
def test_an_interval_holds_the_measured_value_and_repeats(make: type) -> None:
    run = make(12, 0)
    intervals = scene_intervals([run], 200, 0)
    assert intervals == scene_intervals([run], 200, 0)
    assert intervals != scene_intervals([run], 200, 1)
    for name, value in run.means().items():
        assert 0 <= intervals[name].low <= value <= intervals[name].high <= 1
        assert intervals[name].low < intervals[name].high


def test_processes_do_not_change_an_interval() -> None:
    for run in (semantic(5, 0), instance(5, 0)):
        assert scene_intervals([run], 50, 0, workers=3) == scene_intervals([run], 50, 0)


def test_resampling_one_draw_by_hand() -> None:
    """Of a draw in which scene 0 stands twice, scene 1 not at all, the metric is that of scenes 0, 0, 2."""
    run = semantic(3, 0)
    scorer = SemanticScorer(LABELS, load_protocol("pointcept"))
    for name, scene in (("a", "scene0"), ("b", "scene0"), ("c", "scene2")):
        scorer.insert(name, run.scenes[scene])
    drawn = run.resampled_means(np.array([[2, 0, 1]]))
    for name, value in scorer.result().means().items():
        assert math.isclose(drawn[name][0], value, rel_tol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)))
def test_the_order_of_scenes_changes_nothing(order: list[int]) -> None:
    for protocol in ("pointcept", "scannet-official"):
        run = semantic(6, 0, protocol)
        scorer = SemanticScorer(LABELS, load_protocol(protocol))
        for number in order:
            scorer.insert(f"scene{number}", run.scenes[f"scene{number}"])
        assert scene_intervals([run], 50, 3) == scene_intervals([scorer.result()], 50, 3)


def test_more_scenes_make_it_narrower() -> None:
    few, many = (scene_intervals([semantic(scenes, 0)], 400, 0)["mIoU"] for scenes in (8, 128))
    # The width goes with the root of the number of scenes: a quarter here.
    assert 0.15 < (many.high - many.low) / (few.high - few.low) < 0.4


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, truth, covered = np.random.default_rng(0), 0.6, 0
    for _ in range(200):
        scorer = SemanticScorer(LABELS, load_protocol("scannet-official"))
        for number in range(30):
            share = draw.uniform(truth - 0.2, truth + 0.2)
            target = np.repeat([0, 1], 500)
            scorer.add(f"scene{number}", np.where(draw.random(1000) < share, target, 1 - target), target)
        interval = scene_intervals([scorer.result()], 200, 0)["allAcc"]
        covered += interval.low <= truth <= interval.high
    assert 178 <= covered <= 199  # 95 % of 200 is 190; a percentile interval of 30 scenes is a little narrow


def test_a_class_lost_in_a_draw_is_no_zero() -> None:
    """One scene alone has the class `bed`; draws without it must not count it as IoU 0."""
    scorer = SemanticScorer(LABELS, load_protocol("pointcept"))
    for number in range(10):
        target = np.repeat([0, 1, 2, 3 if number == 0 else 0], 50)
        scorer.add(f"scene{number}", target, target)
    interval = scene_intervals([scorer.result()], 100, 0)["mIoU"]
    assert interval.high - interval.low < 1e-6


def test_a_class_that_no_scene_has_stays_zero_or_undefined() -> None:
    for protocol, expected in (("pointcept", 0.25), ("scannet-official", 1.0)):
        scorer = SemanticScorer(LABELS, load_protocol(protocol))
        for number in range(3):
            scorer.add(f"scene{number}", np.zeros(9, np.int64), np.zeros(9, np.int64))
        drawn = scorer.result().resampled_means(np.array([[3, 0, 0], [1, 1, 1]]))
        assert np.allclose(drawn["mIoU"], expected)


def test_seeds_and_scenes_are_apart() -> None:
    runs = [semantic(10, seed) for seed in range(3)]
    spread = seed_spread(runs)["mIoU"]
    values = [run.means()["mIoU"] for run in runs]
    assert spread.mean == pytest.approx(np.mean(values), rel=1e-15)
    assert spread.std == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert spread.runs == 3
    assert math.isnan(seed_spread(runs[:1])["mIoU"].std)
    # The same run three times has no spread over seeds, and the interval over scenes of the one.
    thrice, once = (scene_intervals(same, 100, 0)["mIoU"] for same in ([runs[0]] * 3, runs[:1]))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=1e-12)
    assert seed_spread([runs[0]] * 3)["mIoU"].std == pytest.approx(0, abs=1e-15)


def test_undefined_is_undefined() -> None:
    scorer = InstanceScorer(LABELS, load_protocol("scannet-official"))
    for number in range(2):
        nothing = InstancePredictions(np.empty(0, np.int64), np.empty(0), [])
        scorer.add(f"scene{number}", nothing, InstanceTarget(np.zeros(200, np.int64), np.zeros(200, np.int64)))
    interval = scene_intervals([scorer.result()], 10, 0)["mAP"]
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_refusals() -> None:
    with pytest.raises(InputError, match="on the same scenes"):
        scene_intervals([semantic(3, 0), semantic(4, 0)], 10, 0)
    with pytest.raises(InputError, match="on the same scenes"):
        scene_intervals([], 10, 0)
    with pytest.raises(InputError, match="nothing to draw"):
        scene_draws(3, 0, 0)
