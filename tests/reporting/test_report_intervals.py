"""Intervals of stored results: right, computed once, and left out where counts and metrics do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec, compare
from gcbench.reporting.intervals import SceneBootstrap, stored_metrics
from gcbench.runs.results import SemanticResult
from gcbench.scoring.bootstrap import scene_intervals
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer
from tests.reporting.made_up import Made, made_result


def scored(seed: int = 0, scenes: int = 8, label_set: str = "s3dis", **changes: Any) -> SemanticResult:
    """A result whose metrics are those of its scenes."""
    generator = np.random.default_rng(seed)
    scorer = SemanticScorer(load_label_set(label_set), load_protocol("pointcept"))
    for number in range(scenes):
        target = generator.integers(0, 900, len(scorer.label_set))
        hit = (target * generator.uniform(0.2, 0.9, len(target))).astype(int)
        counts = {"intersection": hit.tolist(), "union": (2 * target - hit).tolist(), "target": target.tolist()}
        scorer.add_counts(f"scene{number}", counts)
    record = {**scorer.result().as_record(), **changes}
    result = made_result(seed=seed, label_set=label_set, **record).result
    assert isinstance(result, SemanticResult)
    return result


def test_an_interval_is_that_of_the_scored_scenes() -> None:
    result = scored()
    intervals = SceneBootstrap(draws=50)([result])
    expected = scene_intervals([stored_metrics(result)], 50, 0)
    assert intervals == {name: (one.low, one.high) for name, one in expected.items()}
    low, high = intervals["mIoU"]
    assert low < result.metrics["mIoU"] < high


def test_seeds_share_one_interval_around_their_mean_and_it_is_computed_once() -> None:
    results = [scored(0), scored(1)]
    bootstrap = SceneBootstrap(draws=50)
    low, high = bootstrap(results)["mIoU"]
    mean = sum(result.metrics["mIoU"] for result in results) / 2
    assert low < mean < high
    assert bootstrap(results) is bootstrap(results)


def test_one_scene_or_other_scenes_have_no_interval() -> None:
    bootstrap = SceneBootstrap(draws=5)
    assert bootstrap([scored(scenes=1)]) == {}
    assert bootstrap([scored(scenes=3), scored(scenes=4)]) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": {"mIoU": 0.9, "mAcc": 0.5, "allAcc": 0.5}}, "'mIoU' is 0.9, but its scenes give"),
        ({"evaluation_version": 99}, "scored under version 99 of"),
        ({"label_set": "scannet20"}, "not those of the 20 classes"),
    ],
)
def test_counts_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str) -> None:
    base = scored()
    protocol = base.protocol.model_copy(update={key: changes[key] for key in changes if key != "metrics"})
    broken = base.model_copy(update={"protocol": protocol, "metrics": changes.get("metrics", base.metrics)})
    with pytest.raises(InputError, match=reason):
        stored_metrics(broken)
    with pytest.raises(InputError, match=reason):
        SceneBootstrap(draws=5)([scored(), broken])


def test_a_report_says_why_there_is_no_interval() -> None:
    table = TableSpec("t", "T", (RowSpec("method", "Method"),), (ColumnSpec("one", "One"),), ("mIoU",))
    whole, broken = scored(), scored(metrics={"mIoU": 0.9, "mAcc": 0.5, "allAcc": 0.5})
    (good,), (bad,) = (
        compare(table, [Made("method", "one", 0, result)], None, bootstrap=SceneBootstrap(5)).entries
        for result in (whole, broken)
    )
    assert good.metrics["mIoU"].interval is not None
    assert bad.metrics["mIoU"].interval is None
    assert "no interval over scenes: 'mIoU' is 0.9" in bad.warnings[-1]
