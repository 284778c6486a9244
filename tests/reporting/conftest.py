"""A small table, its paper, and results for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec
from gcbench.reporting.paper import PaperTable
from tests.reporting.made_up import Made, made_result, paper_table


@pytest.fixture
def table() -> TableSpec:
    rows = (RowSpec("floor", "Floor <b>"), RowSpec("method", "Method | ours"))
    return TableSpec(
        "tiny", "A small table", rows, (ColumnSpec("one", "One"), ColumnSpec("two", "Two")), ("mIoU", "mAcc")
    )


@pytest.fixture
def paper() -> PaperTable:
    numbers = {"one/mIoU": 20.0, "one/mAcc": 30.0, "two/mIoU": 40.0, "two/mAcc": 50.0}
    return paper_table("tiny", {f"method/{cell}": value for cell, value in numbers.items()})


@pytest.fixture
def make() -> Callable[..., Made]:
    """A result in its cell; keywords that belong to the protocol or the provenance go there."""
    return made_result
