"""The scorer against the slow, readable twin, to the last bit; cases worked out by hand; what it refuses."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import Protocol, load_protocol
from gcbench.structures import LabelSet
from tests.scoring.instance_twin import Prediction, Rules, TwinScene, ap_table, thresholds

LABELS = LabelSet(
    "made-up", "scannet", ("wall", "bed", "chair", "sofa"), (1, 4, 5, 6), {"head": (0, 1), "common": (2,), "tail": (3,)}
)
SMALLEST = 4
BED, CHAIR = 1, 2


def made_up(name: str) -> Protocol:
    """A protocol of the package for the made-up labels, and with instances so small that the twin is quick."""
    protocol = load_protocol(name)
    policy = {"unevaluated": {"made-up": ["wall"]}, "minimum_vertices": SMALLEST}
    return protocol.model_copy(update={"instance": protocol.instance.model_copy(update=policy)})


OFFICIAL, POINTCEPT = made_up("scannet-official"), made_up("pointcept")
both_protocols = pytest.mark.parametrize("protocol", [OFFICIAL, POINTCEPT], ids=lambda protocol: protocol.name)


def rules(protocol: Protocol) -> Rules:
    return Rules((1, 2, 3), SMALLEST, id_alone=protocol is POINTCEPT, float32_scores=protocol is POINTCEPT)


scores = st.sampled_from([0.0, 0.5, 0.5 + 1e-12, 0.9, math.inf, -math.inf]) | st.floats(-1e30, 1e30)


@st.composite
def scenes(draw: st.DrawFn) -> TwinScene:
    """Runs of vertices; predictions are runs too, some over exactly one ground truth."""
    sizes = st.sampled_from([1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 2 * SMALLEST, 10])
    runs = draw(st.lists(st.tuples(sizes, st.integers(-1, 3), st.integers(-1, 4)), max_size=8))
    segment = [k for size, k, _ in runs for _ in range(size)]
    instance = [number for size, _, number in runs for _ in range(size)]
    count = len(segment)
    starts = np.cumsum([0] + [size for size, _, _ in runs]).tolist()
    predictions = []
    for _ in range(draw(st.integers(0, 8)) if runs else 0):
        run = draw(st.integers(0, len(runs) - 1))
        before, after = draw(st.integers(-4, 8)), draw(st.integers(-4, 8))
        vertices = range(max(0, starts[run] - before), min(count, starts[run + 1] + after))
        k = draw(st.sampled_from([runs[run][1], runs[run][1], draw(st.integers(-1, 3))]))
        predictions.append(Prediction(k, draw(scores), frozenset(vertices)))
    return TwinScene(segment, instance, predictions)


def arrays(scene: TwinScene) -> tuple[InstancePredictions, InstanceTarget]:
    masks = [np.array(sorted(prediction.vertices), np.int64) for prediction in scene.predictions]
    predictions = InstancePredictions(
        np.array([prediction.class_index for prediction in scene.predictions], np.int64),
        np.array([prediction.score for prediction in scene.predictions], np.float64),
        masks,
    )
    return predictions, InstanceTarget(np.array(scene.segment, np.int16), np.array(scene.instance, np.int32))


def scorer(split: Sequence[TwinScene], protocol: Protocol, first: int = 0) -> InstanceScorer:
    collected = InstanceScorer(LABELS, protocol)
    for number, scene in enumerate(split, first):
        collected.add(f"scene{number}", *arrays(scene))
    return collected


def values(metrics: Any) -> list[float]:
    groups = [value for group in metrics.groups.values() for value in group.values()]
    return [*metrics.ap, *metrics.ap50, *metrics.ap25, metrics.map, metrics.map50, metrics.map25, *groups]


def same(one: Sequence[float] | NDArray[Any], other: Sequence[float] | NDArray[Any]) -> bool:
    return np.array_equal(np.asarray(one, np.float64), np.asarray(other, np.float64), equal_nan=True)


def mean(numbers: Sequence[float]) -> float:
    defined = [0.0 if math.isnan(number) else number for number in numbers]
    count = sum(not math.isnan(number) for number in numbers)
    return float(np.sum(defined) / count) if count else math.nan


@both_protocols
@settings(deadline=None, max_examples=150)
@given(st.lists(scenes(), min_size=1, max_size=3))
def test_to_the_bit(protocol: Protocol, split: list[TwinScene]) -> None:
    table = ap_table(split, rules(protocol))
    metrics = scorer(split, protocol).result()
    fine = thresholds()[:-1]
    assert same(metrics.ap[1:], [float(np.mean(row[: len(fine)])) for row in table])
    assert same(metrics.ap50[1:], [row[0] for row in table])
    assert same(metrics.ap25[1:], [row[-1] for row in table])
    assert np.isnan(metrics.ap[0])
    # The mean over all classes runs threshold by threshold.
    assert same([metrics.map], [mean([row[t] for t in range(len(fine)) for row in table])])
    assert same([metrics.map50, metrics.map25], [mean([row[0] for row in table]), mean([row[-1] for row in table])])
    assert same([metrics.groups["tail"]["ap"]], [metrics.ap[3]])
    assert metrics.undefined == tuple(LABELS.classes[k] for k, row in enumerate(table, 1) if math.isnan(row[0]))


@pytest.mark.parametrize("seed", range(3))
def test_long_curves_to_the_bit(seed: int) -> None:
    # Hundreds of points: here the order of the sum decides the last bit.
    draw = np.random.default_rng(seed)
    split = []
    for _ in range(40):
        instance = np.repeat(np.arange(8), draw.integers(3, 9, 8))
        starts = draw.integers(0, len(instance) - 4, 10)
        vertices = [range(start, min(start + 3 + start % 6, len(instance))) for start in starts.tolist()]
        predictions = [Prediction(BED, float(draw.random()), frozenset(run)) for run in vertices]
        split.append(TwinScene([BED] * len(instance), instance.tolist(), predictions))
    metrics = scorer(split, OFFICIAL).result()
    (row,) = ap_table(split, Rules((BED,), SMALLEST, id_alone=False, float32_scores=False))
    assert 0 < row[0] < 1
    assert same([metrics.ap50[BED], metrics.ap25[BED]], [row[0], row[-1]])
    assert same([metrics.ap[BED]], [float(np.mean(row[:-1]))])
    assert same([metrics.map], [mean([value for ap in row[:-1] for value in (ap, math.nan, math.nan)])])
    longest = np.diff(metrics.outcomes.row_points).max()
    assert longest > 100


@both_protocols
@settings(deadline=None, max_examples=60)
@given(st.lists(scenes(), min_size=2, max_size=4), st.data())
def test_scenes_may_come_in_any_order_and_in_parts(
    protocol: Protocol, split: list[TwinScene], data: st.DataObject
) -> None:
    whole = scorer(split, protocol).result()
    assert same(values(whole), values(scorer(data.draw(st.permutations(split)), protocol).result()))
    cut = data.draw(st.integers(1, len(split) - 1))
    parts = scorer(split[cut:], protocol, first=cut)
    parts.merge(scorer(split[:cut], protocol))
    assert same(values(whole), values(parts.result()))
    stored = InstanceScorer(LABELS, protocol)
    for name, record in whole.as_record()["scenes"].items():
        stored.add_record(name, record)
    assert same(values(whole), values(stored.result()))


@both_protocols
@settings(deadline=None, max_examples=60)
@given(st.lists(scenes(), min_size=1, max_size=3), st.data())
def test_resampled_is_a_split_with_scenes_repeated(
    protocol: Protocol, split: list[TwinScene], data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(split), max_size=len(split)).filter(any))
    repeated = [scene for scene, count in zip(split, counts, strict=True) for _ in range(count)]
    expected = scorer(repeated, protocol).result()
    metrics = scorer(split, protocol).result()
    resampled = metrics.resampled_means(np.array([counts, [1] * len(split)]))
    # The area is summed in another order: a few roundings, nothing else.
    for name, mean in expected.means().items():
        once = metrics.means()[name]
        assert np.allclose(resampled[name], [mean, once], rtol=1e-12, atol=1e-14, equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(scenes())
def test_masks_in_every_form_and_ids_of_any_width(scene: TwinScene) -> None:
    indices, target = arrays(scene)
    dense = np.zeros((len(indices.masks), len(scene.segment)), np.bool_)
    for row, mask in zip(dense, indices.masks, strict=True):
        row[mask] = True
    wide = np.where(target.instance >= 0, target.instance * np.int64(10**12) + 7, -1)
    for protocol in (OFFICIAL, POINTCEPT):
        expected = values(scorer([scene], protocol).result())
        for masks in (dense, list(dense), dense * np.uint8(7), dense.astype(np.float32)):
            for instance in (target.instance, wide):
                again = InstanceScorer(LABELS, protocol)
                predictions = InstancePredictions(indices.classes, indices.scores, masks)
                again.add("scene", predictions, InstanceTarget(target.segment, instance))
                assert same(values(again.result()), expected)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("highest", [126, 5000, 32767])
def test_small_types_do_not_overflow(dtype: type[np.signedinteger[Any]], highest: int) -> None:
    labels = load_label_set("scannet200")
    segment, instance = np.repeat([199, 150, -1], 100).astype(dtype), np.repeat([0, highest, -1], 100).astype(dtype)
    for name in ("scannet-official", "pointcept"):
        collected = InstanceScorer(labels, load_protocol(name))
        masks = [np.arange(100), np.arange(100, 200)]
        predictions = InstancePredictions(np.array([199, 150]).astype(dtype), np.ones(2, np.float32), masks)
        collected.add("scene", predictions, InstanceTarget(segment, instance))
        assert collected.result().map == 1.0
        assert collected.result().as_record()["scenes"]["scene"]["overlaps"] in (
            [[0, 0, 100], [1, 1, 100]],
            [[0, 1, 100], [1, 0, 100]],
        )


def score_runs(
    runs: Sequence[tuple[int, int, int]],
    predictions: Sequence[tuple[int, float, range]],
    name: str = "scannet-official",
) -> InstanceMetrics:
    """One scene of ScanNet20 by the real protocol: runs (size, class, instance), predictions (class, score, range)."""
    segment = np.repeat([k for _, k, _ in runs], [size for size, _, _ in runs])
    instance = np.repeat([number for _, _, number in runs], [size for size, _, _ in runs])
    collected = InstanceScorer(load_label_set("scannet20"), load_protocol(name))
    collected.add(
        "scene",
        InstancePredictions(
            np.array([k for k, _, _ in predictions], np.int64),
            np.array([score for _, score, _ in predictions], np.float64),
            [np.arange(vertices.start, vertices.stop) for _, _, vertices in predictions],
        ),
        InstanceTarget(segment, instance),
    )
    return collected.result()


A, B = 3, 4  # two evaluated classes of ScanNet20
NAN = math.nan
CASES: dict[str, tuple[list[tuple[int, int, int]], list[tuple[int, float, range]], tuple[float, float, float]]] = {
    "the ground truth itself": ([(100, A, 0)], [(A, 0.1, range(100))], (1.0, 1.0, 1.0)),
    "nothing predicted": ([(100, A, 0)], [], (0.0, 0.0, 0.0)),
    "ground truth of 99 vertices": ([(99, A, 0), (50, -1, -1)], [(A, 0.1, range(100))], (NAN, NAN, NAN)),
    "ground truth of 101 vertices": ([(101, A, 0)], [(A, 0.1, range(101))], (1.0, 1.0, 1.0)),
    "prediction of 99 vertices": ([(100, A, 0)], [(A, 0.1, range(99))], (0.0, 0.0, 0.0)),
    "prediction of 100 vertices": ([(101, A, 0)], [(A, 0.1, range(100))], (1.0, 1.0, 1.0)),
    "another class": ([(100, A, 0)], [(B, 0.1, range(100))], (0.0, 0.0, 0.0)),
    "a class that is not in the list": ([(100, A, 0)], [(-1, 0.1, range(100))], (0.0, 0.0, 0.0)),
    "a class that is not evaluated": ([(100, A, 0)], [(0, 0.1, range(100))], (0.0, 0.0, 0.0)),
    "IoU of exactly 0.5": ([(200, A, 0)], [(A, 0.1, range(100))], (0.0, 0.0, 1.0)),
    "IoU of exactly 0.25": ([(400, A, 0)], [(A, 0.1, range(100))], (0.0, 0.0, 0.0)),
    "IoU of 0.75: over five of nine": ([(400, A, 0)], [(A, 0.1, range(300))], (5 / 9, 1.0, 1.0)),
    "only void predicted": ([(100, A, 0), (100, -1, -1)], [(A, 0.1, range(100, 200))], (0.0, 0.0, 0.0)),
    "a false positive in void is ignored": (
        [(100, A, 0), (100, 0, 1)],
        [(A, 0.1, range(100)), (A, 0.9, range(100, 200))],
        (1.0, 1.0, 1.0),
    ),
    "the same on a class that counts": (
        [(100, A, 0), (100, B, 1)],
        [(A, 0.1, range(100)), (A, 0.9, range(100, 200))],
        (0.25, 0.25, 0.25),  # (recall, precision) = (1, 1/2), (0, 0), (0, 1); widths 1/2, 1/2, 0
    ),
    "a false positive half in void is ignored at 0.25 only": (
        [(100, A, 0), (100, -1, -1), (100, B, 1)],
        [(A, 0.1, range(100)), (A, 0.9, range(100, 300))],
        (0.25, 0.25, 1.0),
    ),
    "a false positive to 80 % on small ground truths is ignored up to 0.75": (
        [(100, A, 0), (60, A, 1), (60, A, 2), (30, B, 3)],
        [(A, 0.1, range(100)), (A, 0.9, range(100, 250))],
        ((6 + 3 * 0.25) / 9, 1.0, 1.0),
    ),
    "a duplicate is a false positive with the lower score": (
        [(100, A, 0)],
        [(A, 0.1, range(100)), (A, 0.9, range(100))],
        (1.0, 1.0, 1.0),  # (1, 1/2), (1, 1), (0, 1); widths 0, 1/2, 1/2
    ),
    "a duplicate before another ground truth is found": (
        [(100, A, 0), (100, A, 1)],
        [(A, 0.9, range(100)), (A, 0.8, range(100)), (A, 0.1, range(100, 200))],
        (19 / 24, 19 / 24, 19 / 24),  # (1, 2/3), (1/2, 1/2), (1/2, 1), (0, 1); widths 1/4, 1/4, 1/4, 1/4
    ),
}


@pytest.mark.parametrize("name", ["scannet-official", "pointcept"])
@pytest.mark.parametrize("case", CASES)
def test_by_hand(case: str, name: str) -> None:
    runs, predictions, expected = CASES[case]
    metrics = score_runs(runs, predictions, name)
    assert [metrics.ap[A], metrics.ap50[A], metrics.ap25[A]] == pytest.approx(expected, nan_ok=True, abs=1e-15)


def test_order_in_the_file_can_change_ap25() -> None:
    runs = [(100, A, 0), (100, A, 1)]
    first, both = (A, 0.9, range(100)), (A, 0.8, range(200))  # the latter has an IoU of 0.5 with either
    wide_first, wide_last = score_runs(runs, [both, first]), score_runs(runs, [first, both])
    # Taken first, it is used up by the first ground truth, and the second has none.
    assert (wide_first.map25, wide_last.map25) == (0.5, pytest.approx(11 / 12))
    assert wide_first.map50 == wide_last.map50


def test_protocols_differ_where_they_should() -> None:
    # One id over two classes: for Pointcept one instance, of the class of its first vertex.
    split = [(100, A, 0), (100, B, 0)]
    whole = [(A, 0.9, range(200))]
    assert score_runs(split, whole, "pointcept").map50 == 1.0
    official = score_runs(split, whole, "scannet-official")
    assert (official.ap50[A], official.ap25[A], official.ap[B]) == (0.0, 1.0, 0.0)
    # Two scores that are one in float32.
    pair = [(100, A, 0), (100, B, 1)], [(A, 0.5, range(100)), (A, 0.5 + 1e-12, range(100, 200))]
    assert score_runs(*pair, "pointcept").ap50[A] == 0.5 * 0.5 + 0.5
    assert score_runs(*pair, "scannet-official").ap50[A] == 0.25
    # A class without an instance: an instance of its own by the benchmark's ids, nothing at all for Pointcept.
    loose = [(100, A, -1)], [(A, 0.5, range(100))]
    assert score_runs(*loose, "scannet-official").map == 1.0
    assert math.isnan(score_runs(*loose, "pointcept").map)


def test_ids_of_the_benchmark() -> None:
    labels = load_label_set("scannet20")
    target = InstanceTarget.from_ids(labels, np.array([0, 5001, 5120, 39002, 13004, 41001, -7, 1001]))
    assert target.segment.tolist() == [-1, 4, 4, 19, -1, -1, -1, 0]
    assert target.instance.tolist()[:5] == [-1, 0, 119, 1, 3]
    predictions = InstancePredictions.from_ids(labels, np.array([5, 1, 13, 0, -3, 39, 40]), np.zeros(7), [])
    assert predictions.classes.tolist() == [4, 0, -1, -1, -1, 19, -1]


def test_groups_of_scannet200() -> None:
    labels = load_label_set("scannet200")
    head, tail = labels.groups["head"][5], labels.groups["tail"][0]
    collected = InstanceScorer(labels, load_protocol("pointcept"))
    target = InstanceTarget(np.repeat([head, tail], 100), np.repeat([0, 1], 100))
    prediction = InstancePredictions(np.array([head]), np.array([0.5]), [np.arange(100)])
    collected.add("scene", prediction, target)
    metrics = collected.result()
    assert metrics.groups["head"] == {"ap": 1.0, "ap50": 1.0, "ap25": 1.0}
    assert metrics.groups["tail"] == {"ap": 0.0, "ap50": 0.0, "ap25": 0.0}
    assert math.isnan(metrics.groups["common"]["ap"])
    assert metrics.map == 0.5
    assert len(metrics.undefined) == 196


def test_record() -> None:
    record = score_runs([(100, A, 7), (50, 0, 2)], [(A, 0.25, range(110))]).as_record()
    assert record["metrics"] == {"mAP": record["metrics"]["mAP50"], "mAP50": 1.0, "mAP25": 1.0}
    assert record["classes"][load_label_set("scannet20").classes[A]] == {"ap": 1.0, "ap50": 1.0, "ap25": 1.0}
    assert len(record["classes"]) == 18
    scene = {"targets": [[A, 100]], "predictions": [[A, 0.25, 110, 10]], "overlaps": [[0, 0, 100]]}
    assert record["scenes"] == {"scene": scene}


class OneAtATime(Sequence[NDArray[np.bool_]]):
    """Masks made when asked for; counts how many are alive, and which were asked for."""

    def __init__(self, count: int, vertices: int) -> None:
        self.count, self.vertices = count, vertices
        self.alive = self.most_alive = 0
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        mask = np.ones(self.vertices, np.bool_)
        self.read.append(index)
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        weakref.finalize(mask, self._gone)
        return mask

    def _gone(self) -> None:
        self.alive -= 1


def test_masks_are_read_one_by_one_and_only_if_they_count() -> None:
    masks = OneAtATime(6, 10)
    collected = InstanceScorer(LABELS, OFFICIAL)
    predictions = InstancePredictions(np.array([BED, -1, 0, CHAIR, BED, -1]), np.zeros(6), masks)
    collected.add("scene", predictions, InstanceTarget(np.full(10, BED), np.zeros(10, np.int64)))
    assert masks.read == [0, 3, 4]
    assert (masks.alive, masks.most_alive) == (0, 1)
    assert len(collected) == 1


def test_inputs_are_left_alone() -> None:
    mask, segment, instance = np.array([1, 1, 1, 1, 0], np.int8), np.full(5, BED), np.array([3, 3, 3, 3, -1])
    given = InstancePredictions(np.array([BED]), np.array([0.1]), mask[None])
    collected = InstanceScorer(LABELS, POINTCEPT)
    collected.add("scene", given, InstanceTarget(segment, instance))
    assert collected.result().map == 1.0
    assert (mask.tolist(), segment.tolist(), instance.tolist()) == ([1, 1, 1, 1, 0], [BED] * 5, [3, 3, 3, 3, -1])


GOOD: dict[str, Any] = {
    "classes": np.array([BED]),
    "scores": np.array([0.5]),
    "masks": [np.arange(5)],
    "segment": np.full(6, BED),
    "instance": np.zeros(6, np.int64),
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", np.array([4]), "class of prediction 0 is 4. Allowed are -1 to 3"),
        ("classes", np.array([0.5]), "classes of predictions are an array of float64"),
        ("classes", np.array([BED, BED]), "2 classes of predictions, scores of shape .1,., 1 masks"),
        ("scores", np.array([math.nan]), "score of prediction 0 is not a number"),
        ("scores", np.array([[0.5]]), r"scores of shape \(1, 1\)"),
        ("segment", np.full(6, -2), "class of vertex 0 is -2. Allowed are -1 to 3"),
        ("segment", np.full(5, BED), "5 classes, but 6 instances"),
        ("instance", np.zeros((6, 1), np.int64), r"instances of vertices are an array of int64 with shape \(6, 1\)"),
        ("masks", [np.array([0, 1, 2, 6])], "prediction 0 are not ascending indices from 0 to 5"),
        ("masks", [np.array([-1, 1, 2, 3])], "not ascending indices"),
        ("masks", [np.array([0, 2, 2, 3])], "not ascending indices"),
        ("masks", [np.array([0.0, 1.0])], "array of float64"),
        ("masks", [np.ones(5, np.bool_)], "prediction 0 has shape .5,., the scene 6 vertices"),
        ("masks", np.ones((1, 7), np.bool_), "prediction 0 has shape .7,., the scene 6 vertices"),
    ],
)
def test_refused(key: str, value: Any, message: str) -> None:
    scene = {**GOOD, key: value}
    collected = InstanceScorer(LABELS, POINTCEPT)
    predictions = InstancePredictions(scene["classes"], scene["scores"], scene["masks"])
    with pytest.raises(InputError, match=f"Scene 'bad'.*{message}"):
        collected.add("bad", predictions, InstanceTarget(scene["segment"], scene["instance"]))
    assert len(collected) == 0


def test_refused_scenes_and_merges() -> None:
    scene = TwinScene([BED] * 5, [0] * 5, [Prediction(BED, 0.5, frozenset(range(5)))])
    collected = scorer([scene], OFFICIAL)
    metrics = collected.result()
    record = metrics.as_record()["scenes"]["scene0"]
    for again in (
        lambda: collected.add("scene0", *arrays(scene)),
        lambda: collected.add_record("scene0", record),
        lambda: collected.merge(scorer([scene], OFFICIAL)),
    ):
        with pytest.raises(InputError, match="Scene 'scene0' was scored twice"):
            again()
    with pytest.raises(InputError, match=r"scannet-official v1.*pointcept v1.*cannot be put together"):
        collected.merge(scorer([scene], POINTCEPT, first=1))
    with pytest.raises(InputError, match="no scene to score"):
        InstanceScorer(LABELS, OFFICIAL).result()
    for counts in ([[1, 1]], [[-1]], [[]], [1]):
        with pytest.raises(InputError, match="for each of the 1 scenes"):
            metrics.resampled_means(np.array(counts, np.int64))
    assert len(collected) == 1


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("targets", None),
        ("targets", [[BED, 5, 1]]),
        ("targets", [[0, 5]]),
        ("targets", [[9, 5]]),
        ("predictions", [[BED, "high", 5, 0]]),
        ("predictions", [[BED, math.nan, 5, 0]]),
        ("predictions", [[CHAIR, 0.5, 5, 0]]),
        ("predictions", [[BED, 0.5, 4, 0]]),
        ("predictions", [[BED, 0.5, 5, 6]]),
        ("overlaps", [[1, 0, 5]]),
        ("overlaps", [[0, -1, 5]]),
        ("overlaps", [[0, 0, 6]]),
    ],
)
def test_refused_records(part: str, rows: Any) -> None:
    scene = TwinScene([BED] * 5, [0] * 5, [Prediction(BED, 0.5, frozenset(range(5)))])
    record = dict(scorer([scene], OFFICIAL).result().as_record()["scenes"]["scene0"])
    record[part] = rows
    with pytest.raises(InputError, match="Scene 'stored': not the record"):
        InstanceScorer(LABELS, OFFICIAL).add_record("stored", record)
