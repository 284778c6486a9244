"""Joining results with the paper: what is averaged, what gets a verdict, what stays blank."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.errors import DataError, InputError
from gcbench.recipe.tables import load_table
from gcbench.reporting import paper as paper_module
from gcbench.reporting.compare import TableSpec, Verdict, _letter, _verdict, compare
from gcbench.reporting.paper import PaperTable, load_paper_table
from gcbench.runs.results import SemanticResult


def test_mean_spread_and_difference(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> None:
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


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.2], Verdict.REPRODUCED),
        ([0.205], Verdict.REPRODUCED),
        ([0.206], Verdict.ABOVE),
        ([0.194], Verdict.BELOW),
        ([0.18, 0.20], Verdict.WITHIN_NOISE),
        ([0.180, 0.181], Verdict.BELOW),
        ([0.3, 0.301], Verdict.ABOVE),
        ([math.nan], Verdict.NOT_COMPARABLE),
        ([0.2, math.nan], Verdict.NOT_COMPARABLE),
    ],
)
def test_verdicts(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult], values: list[float], verdict: Verdict
) -> None:
    comparison = compare(table, [make(seed=seed, mIoU=value) for seed, value in enumerate(values)], paper)
    assert comparison.cells[1][0].entries[0].metrics["mIoU"].verdict is verdict


@given(st.floats(-50, 50), st.floats(0, 10), st.integers(2, 10))
def test_a_verdict_has_the_sign_of_the_difference_and_noise_only_softens(gap: float, spread: float, n: int) -> None:
    numbers = PaperTable("t", "", "", 1, 0.5, 2.0, {})
    alone, among = _verdict(gap, None, 1, numbers), _verdict(gap, spread, n, numbers)
    assert alone is (Verdict.REPRODUCED if abs(gap) <= 0.5 + 1e-9 else Verdict.BELOW if gap < 0 else Verdict.ABOVE)
    assert among in (alone, Verdict.WITHIN_NOISE)
    assert (among is Verdict.WITHIN_NOISE) == (abs(gap) > 0.5 + 1e-9 and abs(gap) <= 2 * spread * math.sqrt(1 + 1 / n))


@pytest.mark.parametrize("change", [{"synthetic": True}, {"preset": "tiny"}, {"synthetic": True, "preset": "tiny"}])
def test_synthetic_rooms_and_presets_never_get_a_verdict(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult], change: dict
) -> None:
    comparison = compare(table, [make(column=column, **change) for column in ("one", "two")], paper)
    assert comparison.tally() == {Verdict.NOT_COMPARABLE: 4}
    assert all(value.difference is None for entry in comparison.entries for value in entry.metrics.values())
    assert comparison.synthetic is bool(change.get("synthetic"))
    assert len(comparison.reasons) == 1


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
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult], change: dict
) -> None:
    results = [make(seed=0, mIoU=0.2), make(seed=1, mIoU=0.4, **change)]
    cell = compare(table, results, paper).cells[1][0]
    assert sorted(entry.metrics["mIoU"].mean for entry in cell.entries) == pytest.approx([20.0, 40.0])
    assert [entry.seeds for entry in cell.entries] in ([(0,), (1,)], [(1,), (0,)])


def test_protocols_are_named(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> None:
    comparison = compare(table, [make(), make(resolution="points")], paper)
    assert [use.label for use in comparison.protocols] == ["A", "B"]
    assert "scored on points" in comparison.protocols[0].description
    assert [_letter(number) for number in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]


def test_what_was_not_run_is_blank(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> None:
    comparison = compare(table, [make(row="floor", seed=3)], paper)
    assert comparison.coverage() == "1 of 4 cells run, seed 3"
    assert comparison.cells[1][1].entries == ()
    assert comparison.cells[1][1].paper["mIoU"].value == 40.0
    assert comparison.cells[0][0].entries[0].metrics["mIoU"].verdict is Verdict.NO_PAPER_VALUE
    assert compare(table, [], None).coverage() == "0 of 4 cells run, no seeds"


def test_folds_and_other_tables_stay_out(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]
) -> None:
    results = [make(fold="Area_1"), make(table="table9"), make(row="stranger")]
    comparison = compare(table, results, paper)
    assert comparison.cells_run == 0
    assert comparison.unused == ("tiny/stranger/one",)


def test_a_seed_counts_once_and_doubts_are_said(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]
) -> None:
    first = make(mIoU=0.1)
    later = make(mIoU=0.3, ended=first.provenance.ended + timedelta(days=1))
    other = make(seed=1, mIoU=0.3, git_commit="d" * 40, git_dirty=True)
    (entry,) = compare(table, [later, first, other], paper).cells[1][0].entries
    assert entry.metrics["mIoU"].values == pytest.approx((30.0, 30.0))
    assert [warning.split(" ")[0] for warning in entry.warnings] == ["1", "the", "run"]


def test_a_missing_metric_is_an_error(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> None:
    with pytest.raises(InputError, match=r"method/one, seed 0, has no 'mAcc'"):
        compare(table, [make(metrics={"mIoU": 0.5})], paper)


def test_the_papers_table_1_is_complete() -> None:
    paper = load_paper_table("table1")
    columns = ("scannet", "scannet200", "s3dis-area5", "s3dis-6fold")
    rows = ("spunet-scratch", "pc", "csc", "msc", "gaussiancross")
    ids = {f"table1/{row}/{column}/{metric}" for row in rows for column in columns for metric in ("mIoU", "mAcc")}
    assert set(paper.cells) == ids
    spec = TableSpec.of(load_table("table1"))
    assert {column.id for column in spec.columns} == set(columns)
    assert {"spunet-scratch", "gaussiancross"} <= {row.id for row in spec.rows}
    by_row = {row: sum(value.value for key, value in paper.cells.items() if key.split("/")[1] == row) for row in rows}
    # sums of the printed rows, added up by hand from the paper
    printed = {"spunet-scratch": 502.4, "pc": 77.4, "csc": 147.9, "msc": 169.6, "gaussiancross": 223.3}
    assert by_row == pytest.approx(printed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("unit: percent", "unit: metre"), "unit percent"),
        (("cells:", "surprise: 1\ncells:"), "exactly the keys"),
        (("value: 5.6", "value: five"), "not a number"),
        (("table1/pc/scannet/mIoU", "table1/csc/scannet/mIoU"), "stands twice"),
    ],
)
def test_a_broken_paper_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    text = paper_module.resource_path("reports", "paper", "table1.yaml").read_text()
    (tmp_path / "table1.yaml").write_text(text.replace(*change))
    monkeypatch.setattr(paper_module, "resource_path", lambda *parts: tmp_path / parts[-1])
    with pytest.raises(DataError, match=message):
        load_paper_table("table1")
