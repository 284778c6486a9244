"""Joining results with the paper: what is averaged, what gets a verdict, what stays blank."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gcbench.errors import InputError
from gcbench.recipe.tables import load_table
from gcbench.reporting.compare import (
    ONE_SEED,
    ColumnSpec,
    Departures,
    RowSpec,
    TableSpec,
    Verdict,
    _letter,
    compare,
)
from gcbench.reporting.paper import PaperTable
from tests.reporting.made_up import Made, made_pretraining, made_result, paper_table


def test_mean_spread_and_difference(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    results = [make(seed=2, mIoU=0.21), make(seed=0, mIoU=0.19), make(seed=1, mIoU=0.23)]
    cell = compare(table, results, paper).cells[1][0]
    (entry,) = cell.entries
    value = entry.metrics["mIoU"]
    assert entry.seeds == (0, 1, 2)
    assert value.values == pytest.approx((19.0, 23.0, 21.0))
    assert value.mean == pytest.approx(21.0)
    assert value.spread == pytest.approx(statistics.stdev([19.0, 21.0, 23.0]))
    assert value.difference == pytest.approx(1.0)
    assert value.verdict is Verdict.WITHIN_NOISE


@pytest.mark.parametrize("change", [{"synthetic": True}, {"preset": "tiny"}, {"synthetic": True, "preset": "tiny"}])
def test_synthetic_rooms_and_presets_never_get_a_verdict(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made], change: dict
) -> None:
    comparison = compare(table, [make(column=column, **change) for column in ("one", "two")], paper)
    assert comparison.tally() == {Verdict.NOT_COMPARABLE: 4, Verdict.NOT_RUN: 4}
    assert all(value.difference is None for entry in comparison.entries for value in entry.metrics.values())
    assert comparison.synthetic is bool(change.get("synthetic"))
    assert len({entry.why_not_comparable for entry in comparison.entries}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": "points"},
        {"batchnorm": "frozen"},
        {"split_hash": "another"},
        {"synthetic": True},
        {"preset": "tiny"},
        {"recipe_hash": "4567"},
        {"data_fingerprint": "beef"},
    ],
)
def test_only_like_is_averaged_with_like(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made], change: dict
) -> None:
    results = [make(seed=0, mIoU=0.2), make(seed=1, mIoU=0.4, **change)]
    cell = compare(table, results, paper).cells[1][0]
    assert sorted(entry.metrics["mIoU"].mean for entry in cell.entries) == pytest.approx([20.0, 40.0])
    assert [entry.seeds for entry in cell.entries] in ([(0,), (1,)], [(1,), (0,)])


def test_protocols_are_named(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    comparison = compare(table, [make(), make(resolution="points")], paper)
    assert [use.label for use in comparison.protocols] == ["A", "B"]
    assert "scored on points" in comparison.protocols[0].description
    assert [_letter(number) for number in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]


def test_what_was_not_run_is_blank(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    comparison = compare(table, [make(row="floor", seed=3)], paper)
    assert comparison.coverage() == "1 of 4 cells run, seed 3"
    assert comparison.cells[1][1].entries == ()
    assert comparison.cells[1][1].paper["mIoU"].value == 40.0
    assert comparison.cells[0][0].entries[0].metrics["mIoU"].verdict is Verdict.NO_PAPER_VALUE
    assert comparison.tally()[Verdict.NOT_RUN] == 6
    assert compare(table, [], None).coverage() == "0 of 4 cells run, no seeds"


def test_folds_stay_out_and_strangers_are_named(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    comparison = compare(table, [make(fold="Area_1"), make(row="stranger")], paper)
    assert comparison.cells_run == 0
    assert comparison.unused == ("tiny/stranger/one",)


def test_a_seed_counts_once_and_doubts_are_said(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    first = make(mIoU=0.1)
    later = make(mIoU=0.3, ended=first.result.provenance.ended + timedelta(days=1))
    other = make(seed=1, mIoU=0.3, git_commit="d" * 40, git_dirty=True)
    (entry,) = compare(table, [later, first, other], paper).cells[1][0].entries
    assert entry.metrics["mIoU"].values == pytest.approx((30.0, 30.0))
    assert [warning.split(" ")[0] for warning in entry.warnings] == ["1", "the", "run"]


def test_a_missing_metric_is_an_error(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    with pytest.raises(InputError, match=r"tiny/method/one, seed 0, has no 'mAcc'"):
        compare(table, [make(metrics={"mIoU": 0.5})], paper)


def test_one_seed_is_said(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    (alone,) = compare(table, [make()], paper).cells[1][0].entries
    assert ONE_SEED in alone.warnings
    assert alone.metrics["mIoU"].spread is None
    (pair,) = compare(table, [make(seed=0), make(seed=1)], paper).cells[1][0].entries
    assert ONE_SEED not in pair.warnings


def test_another_protocol_than_the_tables_is_not_comparable(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made]
) -> None:
    def departs(found: Any) -> Departures:
        other = found.result.protocol.inference == "tta"
        return Departures(("evaluation.inference is tta, not single-pass",) if other else (), ("optimizer.lr",))

    comparison = compare(table, [make(), make(column="two", inference="tta", mIoU=0.4)], paper, departures=departs)
    same, other = (cell.entries[0] for cell in comparison.cells[1])
    assert same.metrics["mIoU"].verdict is Verdict.REPRODUCED
    assert "optimizer.lr" in same.warnings
    assert other.metrics["mIoU"].verdict is Verdict.NOT_COMPARABLE
    assert "evaluation.inference is tta, not single-pass" in other.why_not_comparable


def test_an_interval_over_scenes_reaches_the_verdict(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made]
) -> None:
    def bootstrap(results: Sequence[Any]) -> Mapping[str, tuple[float, float]]:
        return {"mIoU": (0.19, 0.27)}

    results = [make(mIoU=0.23)]
    with_it = compare(table, results, paper, bootstrap=bootstrap).cells[1][0].entries[0].metrics
    assert with_it["mIoU"].interval == pytest.approx((19.0, 27.0))
    assert (with_it["mIoU"].verdict, with_it["mAcc"].verdict) == (Verdict.WITHIN_NOISE, Verdict.ABOVE)
    without = compare(table, results, paper).cells[1][0].entries[0].metrics
    assert (without["mIoU"].verdict, without["mIoU"].interval) == (Verdict.ABOVE, None)


def wide() -> TableSpec:
    columns = (
        ColumnSpec("one", "One"),
        ColumnSpec("two", "Two", folds=6),
        ColumnSpec("mean", "Mean", kind="mean", of=("one", "two")),
        ColumnSpec("before", "Before", ("PSNR", "memory", "seconds"), "pretraining", rows=("method",)),
    )
    rows = (RowSpec("method", "Method"), RowSpec("other", "Other"), RowSpec("printed", "Printed", runs=False))
    return TableSpec("wide", "A wide table", rows, columns, ("mIoU", "mAcc"))


def test_a_mean_is_over_the_seeds_that_all_its_columns_have() -> None:
    paper = paper_table("wide", {"method/mean/mIoU": 30.0})
    results = [made_result(mIoU=0.2), made_result(seed=1, mIoU=0.22), made_result(column="two", seed=1, mIoU=0.38)]
    (entry,) = compare(wide(), results, paper).cells[0][2].entries
    assert (entry.seeds, entry.label) == ((1,), "A+A")
    assert entry.metrics["mIoU"].mean == pytest.approx(30.0)
    assert entry.metrics["mIoU"].verdict is Verdict.REPRODUCED
    assert entry.warnings == ("without seed 0, which a column lacks", ONE_SEED)
    assert [part.seeds for part in entry.parts] == [(0, 1), (1,)]


@pytest.mark.parametrize(
    ("results", "blank"),
    [
        ([], "not run"),
        ([made_result()], "needs Two"),
        ([made_result(seed=0), made_result(column="two", seed=1)], "its columns share no seed and protocol"),
        ([made_result(), made_result(column="two", resolution="points")], "its columns share no seed and protocol"),
        ([made_result(), made_result(column="two", preset="tiny")], "its columns share no seed and protocol"),
        (
            [made_result(), made_result(recipe_hash="4567"), made_result(column="two")],
            "its columns share no seed and protocol",
        ),
    ],
)
def test_a_mean_that_lacks_a_part_is_blank(results: list[Made], blank: str) -> None:
    cell = compare(wide(), results, None).cells[0][2]
    assert (cell.entries, cell.blank) == ((), blank)


def test_a_mean_of_synthetic_columns_gets_no_verdict() -> None:
    results = [made_result(synthetic=True), made_result(column="two", synthetic=True)]
    paper = paper_table("wide", {"method/mean/mIoU": 20.0})
    (entry,) = compare(wide(), results, paper).cells[0][2].entries
    assert entry.metrics["mIoU"].verdict is Verdict.NOT_COMPARABLE


def test_a_cell_without_all_of_its_folds_is_blank() -> None:
    areas = {f"Area_{number}": {"mIoU": 0.4} for number in range(1, 7)}
    whole = compare(wide(), [made_result(column="two", folds=areas)], None).cells[0][1]
    assert len(whole.entries) == 1
    areas.pop("Area_3")
    partial = compare(wide(), [made_result(column="two", folds=areas)], None).cells[0][1]
    assert (partial.entries, partial.blank) == ((), "5 of 6 folds")


def test_a_pre_training_has_the_numbers_of_the_papers_tables() -> None:
    paper = paper_table("wide", {"method/before/PSNR": 21.3, "method/before/memory": 2048.0})
    results = [made_pretraining(seed=0, psnr=21.0), made_pretraining(seed=1, psnr=22.0)]
    (entry,) = compare(wide(), results, paper).cells[0][3].entries
    assert (entry.label, entry.seeds) == ("", (0, 1))
    assert entry.metrics["PSNR"].values == (21.0, 22.0)
    assert entry.metrics["PSNR"].verdict is Verdict.REPRODUCED
    assert entry.metrics["memory"].mean == pytest.approx(2048.4)
    assert entry.metrics["seconds"].mean == pytest.approx(0.1234)
    verdicts = {entry.metrics[metric].verdict for metric in ("memory", "seconds")}
    assert verdicts == {Verdict.NOT_COMPARABLE}
    assert len(compare(wide(), [results[0], made_pretraining(seed=1, recipe_hash="99")], None).entries) == 2


def test_cells_that_cannot_be_run_are_not_counted() -> None:
    comparison = compare(wide(), [made_result()], None)
    assert comparison.coverage() == "1 of 7 cells run, seed 0"
    assert comparison.tally()[Verdict.NOT_RUN] == 2 + 2 + 3 + 6
    assert not comparison.cells[1][3].exists
    misplaced = compare(wide(), [made_pretraining(row="other"), made_result(column="mean")], None)
    assert misplaced.unused == ("wide/method/mean", "wide/other/before")


@pytest.mark.parametrize("found", [made_result(column="before"), made_pretraining(column="one")])
def test_a_result_of_another_kind_than_its_column_is_refused(found: Made) -> None:
    with pytest.raises(InputError, match=f"wide/method/{found.column}, seed 0: a result of kind"):
        compare(wide(), [found], None)


def test_a_table_of_the_recipes_is_read_whole() -> None:
    spec = TableSpec.of(load_table("table6"))
    kinds = {column.id: column.kind for column in spec.columns}
    assert kinds == {"scannet": "trained", "scannet200": "trained", "average": "mean", "pretraining": "pretraining"}
    assert spec.all_metrics == ("mIoU", "PSNR", "memory", "seconds")
    assert replace(spec, columns=()).all_metrics == ()
    folds = {column.id: column.folds for column in TableSpec.of(load_table("table3")).columns}
    assert folds["s3dis-6fold"] == 6


def test_seeds_that_depart_differently_are_not_averaged(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made]
) -> None:
    def departs(found: Any) -> Departures:
        return Departures(("pre-training: schedule.epochs is 3, not 1200",) if found.seed else ())

    entries = compare(table, [make(seed=0), make(seed=1)], paper, departures=departs).cells[1][0].entries
    assert [(entry.seeds, bool(entry.why_not_comparable)) for entry in entries] == [((0,), False), ((1,), True)]
