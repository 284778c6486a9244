"""Reports of what only some results have: instances, budgets, two checkpoints, the freeze proof, folds, shared rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from gcbench.reporting import render
from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec, compare
from gcbench.reporting.paper import PaperTable, PaperValue
from gcbench.runs.results import (
    Budget,
    CheckpointScore,
    EncoderHashes,
    InstanceResult,
    InstanceScore,
    SemanticResult,
    parse_result,
)

TABLE = TableSpec(
    "boxes", "Instances", (RowSpec("method", "Method"),), (ColumnSpec("one", "One"),), ("mAP25", "mAP50", "mAP")
)
PAPER = PaperTable(
    "boxes",
    "Instances",
    "a made-up paper",
    1,
    0.5,
    2.0,
    {"boxes/method/one/mAP50": PaperValue(60.0, "Table 9, AP50")},
)


@pytest.fixture
def instance(make: Callable[..., SemanticResult]) -> InstanceResult:
    base = make(resolution="points", batchnorm="trained")
    return InstanceResult(
        table="boxes",
        row="method",
        column="one",
        seed=0,
        metrics={"mAP": 0.35, "mAP50": 0.605, "mAP25": 0.75},
        classes={"chair": InstanceScore(ap=0.35, ap50=0.605, ap25=0.75)},
        groups={"head": {"ap": 0.1, "ap50": 0.2, "ap25": 0.3}},
        scenes={"scene": {"targets": [[4, 100]], "predictions": [[4, 0.5, 90, 0]], "overlaps": [[0, 0, 80]]}},
        protocol=base.protocol,
        provenance=base.provenance,
        budget=Budget(scenes=12, labelled_points=240, steps=300, samples=7200, passes=600.0, epochs=800),
        checkpoints={
            "last": CheckpointScore(step=300, metrics={"mAP50": 0.605}),
            "best": CheckpointScore(step=200, metrics={"mAP50": 0.61}),
        },
    )


def test_instances_have_their_metrics_in_every_format(instance: InstanceResult) -> None:
    comparison = compare(TABLE, [instance], PAPER)
    (cell,) = comparison.cells[0]
    assert cell.entries[0].metrics["mAP50"].difference == pytest.approx(0.5)
    markdown = render.render_markdown(comparison)
    assert "| One mAP25 | One mAP50 | One mAP |" in markdown
    assert "**60.5**" in markdown
    assert json.loads(render.render_json(comparison))["cells"][0]["entries"][0]["metrics"]["mAP"]["mean"] == 35.0
    html = render.render_html(comparison, [])
    assert "AP, AP50, AP25 of 1 classes" in html
    assert "head mAP 10.00 mAP50 20.00 mAP25 30.00" in html


def test_a_report_says_what_was_seen_and_which_models_there_are(instance: InstanceResult) -> None:
    html = render.render_html(compare(TABLE, [instance], PAPER), [])
    said = "300 steps, 7,200 samples, 600.0 passes over 12 scenes (800 epochs of the paper), 240 labelled points"
    assert said in html
    assert "last: step 300, mAP50 60.50; best: step 200, mAP50 61.00 (single pass)" in html


def test_the_freeze_proof_and_the_folds_are_shown(table: TableSpec, make: Callable[..., SemanticResult]) -> None:
    proof = EncoderHashes(parameters_before="aa", parameters_after="aa", buffers_before="bb", buffers_after="cc")
    result = make(encoder=proof, folds={"Area_1": {"mIoU": 0.5}, "Area_2": {"mIoU": 0.25}})
    html = render.render_html(compare(table, [result], None), [])
    assert "parameters <code>aa</code> before, <code>aa</code> after training; buffers <code>bb</code>" in html
    assert "Area_1 mIoU 50.00, Area_2 mIoU 25.00" in html


def test_a_row_takes_the_results_of_a_table_that_shares_it(
    table: TableSpec, make: Callable[..., SemanticResult]
) -> None:
    rows = (replace(table.rows[0], also=("other",)), table.rows[1])
    shared = replace(table, rows=rows)
    results = [make(table="other", row="floor"), make(table="other", row="method"), make(table="third", row="floor")]
    comparison = compare(shared, results, None)
    assert comparison.cells_run == 1
    assert comparison.cells[0][0].entries[0].results == (results[0],)


def test_an_instance_result_is_read_back_as_it_was(instance: InstanceResult) -> None:
    assert parse_result(instance.model_dump_json()) == instance
