"""Reports of what only some results have: instances, budgets, two checkpoints, the freeze proof, folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from gcbench.reporting import render
from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec, compare
from gcbench.reporting.report_page import render_html
from gcbench.runs.results import (
    Budget,
    CheckpointScore,
    EncoderHashes,
    InstanceResult,
    InstanceScore,
    parse_result,
)
from tests.reporting.made_up import Made, made_result, paper_table

TABLE = TableSpec(
    "boxes", "Instances", (RowSpec("method", "Method"),), (ColumnSpec("one", "One"),), ("mAP25", "mAP50", "mAP")
)
PAPER = paper_table("boxes", {"method/one/mAP50": 60.0})


@pytest.fixture
def instance() -> Made:
    base = made_result(resolution="points", batchnorm="trained").result
    assert base.kind == "semantic"
    result = InstanceResult(
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
    return Made("method", "one", 0, result)


def test_instances_have_their_metrics_in_every_format(instance: Made) -> None:
    comparison = compare(TABLE, [instance], PAPER)
    (cell,) = comparison.cells[0]
    assert cell.entries[0].metrics["mAP50"].difference == pytest.approx(0.5)
    markdown = render.render_markdown([comparison])
    assert "| One mAP25 | One mAP50 | One mAP |" in markdown
    assert "**60.5**" in markdown
    assert (
        json.loads(render.render_json([comparison]))["tables"][0]["cells"][0]["entries"][0]["metrics"]["mAP"]["mean"]
        == 35.0
    )
    html = render_html([comparison])
    assert "AP, AP50, AP25 of 1 classes" in html
    assert "head: mAP 10.00, mAP50 20.00, mAP25 30.00" in html


def test_a_report_says_what_was_seen_and_which_models_there_are(instance: Made) -> None:
    html = render_html([compare(TABLE, [instance], PAPER)])
    said = "300 steps, 7,200 samples, 600.0 passes over 12 scenes (800 epochs of the paper), 240 labelled points"
    assert said in html
    assert "last: step 300, mAP50 60.50; best: step 200, mAP50 61.00 (single pass)" in html


def test_the_freeze_proof_and_the_folds_are_shown(table: TableSpec, make: Callable[..., Made]) -> None:
    proof = EncoderHashes(parameters_before="aa", parameters_after="aa", buffers_before="bb", buffers_after="cc")
    columns = (replace(table.columns[0], folds=2), table.columns[1])
    table = replace(table, columns=columns)
    result = make(encoder=proof, folds={"Area_1": {"mIoU": 0.5}, "Area_2": {"mIoU": 0.25}})
    html = render_html([compare(table, [result], None)])
    assert "parameters aa before, aa after training; buffers bb, cc" in html
    assert "Area_1: mIoU 50.00; Area_2: mIoU 25.00" in html


def test_an_instance_result_is_read_back_as_it_was(instance: Made) -> None:
    assert parse_result(instance.result.model_dump_json()) == instance.result
