"""Which runs fill which cells: added to, never lost, and never a path out of the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcbench.errors import RunError
from gcbench.runs.cells import CellRun, record_cells, recorded_runs, recorded_tables
from gcbench.runs.store import RunStore


def cell(row: str, run: str = "semantic/scannet-x-seed0-12345678") -> CellRun:
    return CellRun(row=row, column="scannet", seed=0, run=run)


def test_what_is_added_stands_beside_what_was_there(tmp_path: Path) -> None:
    record_cells(tmp_path, "table3", [cell("a")])
    record_cells(tmp_path, "table3", [cell("a"), cell("b")])
    record_cells(tmp_path, "table1", [])
    assert recorded_tables(tmp_path) == ["table1", "table3"]
    found = [(one.row, run.folder) for one, run in recorded_runs(tmp_path, "table3")]
    assert found == [(row, tmp_path / "runs" / "semantic" / "scannet-x-seed0-12345678") for row in ("a", "b")]
    assert list(recorded_runs(tmp_path, "table9")) == []


@pytest.mark.parametrize("run", ["../../secret", "/etc/passwd", "semantic/../../x", "semantic"])
def test_a_run_lies_in_the_folder(tmp_path: Path, run: str) -> None:
    record_cells(tmp_path, "table3", [cell("a", run)])
    with pytest.raises(RunError, match="is no run of table3"):
        list(recorded_runs(tmp_path, "table3"))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"table": "table3"}', json.dumps({"table": "table3", "cells": [{"row": 1}]})]
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    record_cells(tmp_path, "table3", [cell("a")])
    path = tmp_path / "cells" / "table3.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"table3\.json"):
        list(recorded_runs(tmp_path, "table3"))


def test_a_run_is_found_by_its_key_under_any_name(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    key = "0123456789abcdef"
    assert store.find("semantic", key) is None
    store.run("semantic", "first", key).queue({})
    found = store.find("semantic", key)
    assert found is not None and found.folder.name == "first-01234567"
    assert store.find("semantic", key[:8] + "ffffffff") is None
    assert store.find("pretrain", key) is None
