"""`gcbench report` on run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gcbench.cli.report import app
from gcbench.errors import InputError
from gcbench.runs.results import SemanticResult, load_result
from gcbench.runs.store import RunStore

STORED = Path(__file__).parents[1] / "runs" / "data"


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    """A folder with two seeds of one cell, a fold, a failed run and a pre-training with its log."""
    store = RunStore(tmp_path / "runs")
    cell = load_result(STORED / "semantic-v1.json")
    assert isinstance(cell, SemanticResult)
    for seed, value in enumerate((0.22, 0.24)):
        metrics = {"mIoU": value, "mAcc": 0.31, "allAcc": 0.6}
        store.run("semantic", f"cell-{seed}", f"0000000{seed}").start({}).finish(
            cell.model_copy(update={"seed": seed, "metrics": metrics})
        )
    store.run("semantic", "fold", "0000000f").start({}).finish(cell.model_copy(update={"fold": "Area_1"}))
    store.run("semantic", "broken", "0000000e").start({}).fail("no")
    store.run("rooms", "rooms", "0000000d").start({}).finish({"scenes": 3})
    pretraining = store.run("pretrain", "gc", "0000000a").start({})
    for step in (1, 2):
        pretraining.log(event="step", step=step, image=1 / step, depth=2 / step, semantic=0.5)
    pretraining.finish(load_result(STORED / "pretrain-v1.json"))
    return tmp_path


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_formats(reproduction: Path) -> None:
    out = reproduction / "report"
    content = json.loads(call("table1", "--runs", str(reproduction), "--format", "json"))
    (cell,) = [cell for cell in content["cells"] if cell["entries"]]
    (entry,) = cell["entries"]
    assert (cell["row"], cell["column"], entry["seeds"]) == ("gaussiancross", "scannet", [0, 1])
    assert entry["metrics"]["mIoU"]["mean"] == pytest.approx(23.0)
    assert entry["metrics"]["mIoU"]["verdict"] == "reproduced"
    assert "23.0 ± 1.4" in call("table1", "--runs", str(reproduction / "runs"), "--format", "md")
    assert "cells run" in call("table1", "--runs", str(reproduction))
    for form in ("terminal", "html"):
        assert "1 of" in call("table1", "--runs", str(reproduction), "--format", form, "--out", str(out))
        text = out.read_text()
        assert "23.0" in text
    assert text.count("data:image/png;base64,") >= 3  # two metrics and the curves


def test_without_the_paper(reproduction: Path) -> None:
    content = json.loads(call("table1", "--runs", str(reproduction), "--format", "json", "--no-compare-paper"))
    assert all(cell["paper"] == {} for cell in content["cells"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "--runs", "none"], "no folder 'none'"),
        (["table9", "--runs", "."], "no table 'table9'"),
        (["table1", "--runs", ".", "--out", "none/report.md"], "Make it"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call(*arguments)
    assert list(tmp_path.iterdir()) == []
