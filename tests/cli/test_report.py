"""`gcbench report` on the folder of a reproduction."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from gcbench.cli.report import app, write_report
from gcbench.errors import InputError
from gcbench.recipe.tables import load_table
from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.results import SemanticResult, load_result
from gcbench.runs.store import Run, RunStore

STORED = Path(__file__).parents[1] / "runs" / "data"
PNG = b"\x89PNG\r\n\x1a\n made up"


def cell_run(run: Run, row: str, column: str, seed: int = 0) -> CellRun:
    return CellRun(row=row, column=column, seed=seed, run=f"{run.folder.parent.name}/{run.folder.name}")


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    """Two seeds of one cell of Table 1, one of which stands in Table 3 too, a failed run, and their pre-training."""
    store = RunStore(tmp_path / "runs")
    pretraining = store.run("pretrain", "gc", "0000000a").start({"kind": "pretrain"})
    for step in (1, 2):
        pretraining.log(event="step", step=step, image=1 / step, depth=2 / step, semantic=0.5)
    pretraining.finish(load_result(STORED / "pretrain-v1.json"))
    cell = load_result(STORED / "semantic-v1.json")
    assert isinstance(cell, SemanticResult)
    recipe = {"name": "semantic/scannet", "values": {"optimizer.lr": 0.005}, "sources": {"optimizer.lr": "paper: S.2"}}
    job = {"encoder": str(pretraining.folder / "encoder" / "model.safetensors"), "encoder_key": "a", "recipe": recipe}
    cells = []
    for seed, value in enumerate((0.22, 0.24)):
        run = store.run("semantic", f"cell-{seed}", f"0000000{seed}").start(job)
        run.finish(cell.model_copy(update={"seed": seed, "metrics": {"mIoU": value, "mAcc": 0.31, "allAcc": 0.6}}))
        cells.append(cell_run(run, "gaussiancross", "scannet", seed))
    broken = store.run("semantic", "broken", "0000000e").start({})
    broken.fail("no")
    record_cells(tmp_path, "table1", [*cells, cell_run(broken, "gaussiancross", "scannet200")])
    record_cells(tmp_path, "table3", cells[:1])
    return tmp_path


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_formats(reproduction: Path) -> None:
    runs = ("--runs", str(reproduction))
    (content,) = json.loads(call("table1", *runs, "--format", "json"))["tables"]
    (cell,) = [cell for cell in content["cells"] if cell["entries"]]
    (entry,) = cell["entries"]
    assert (cell["row"], cell["column"], entry["seeds"]) == ("gaussiancross", "scannet", [0, 1])
    assert entry["metrics"]["mIoU"]["mean"] == pytest.approx(23.0)
    assert "scored on 1 scenes, not on 312" in entry["not_comparable"]
    assert "23.0 ± 1.4" in call("table1", *runs, "--format", "md")
    assert r"23.0 $\pm$ 1.4" in call("table1", *runs, "--format", "latex")
    assert "1 of 16 cells run" in call("table1", *runs)
    out = reproduction / "report"
    for form in ("terminal", "html"):
        assert "1 of" in call("table1", *runs, "--format", form, "--out", str(out))
        text = out.read_text()
        assert "23.0" in text
    assert text.count("data:image/png;base64,") >= 3  # two metrics and the curves


def test_without_a_table_all_that_were_run_are_shown(reproduction: Path) -> None:
    content = json.loads(call("--runs", str(reproduction), "--format", "json"))
    assert [table["table"] for table in content["tables"]] == ["table1", "table3"]
    assert content["coverage"]["cells_run"] == 2
    assert "not comparable" in content["coverage"]["verdicts"]


def test_without_the_paper(reproduction: Path) -> None:
    content = json.loads(call("table1", "--runs", str(reproduction), "--format", "json", "--no-compare-paper"))
    assert all(cell["paper"] == {} for cell in content["tables"][0]["cells"])


def test_the_provenance_of_a_cell(reproduction: Path) -> None:
    text = call("--runs", str(reproduction), "--provenance", "table1/gaussiancross/scannet")
    for said in ("scannet20 on val", "result.json", "optimizer.lr", "paper: S.2", "Hardware", "gcbench 0."):
        assert said in text, said
    blank = call("--runs", str(reproduction), "--provenance", "table1/gaussiancross/scannet200/mIoU")
    assert "not run" in blank


def test_a_reproduction_writes_every_table_and_prints_one(reproduction: Path) -> None:
    console = Console(file=StringIO(), width=120)
    write_report(console, [load_table("table3")], reproduction)
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert "Table 3" in printed
    assert "Table 1" not in printed
    html = (reproduction / "report.html").read_text()
    for written in (html, (reproduction / "report.md").read_text(), (reproduction / "report.json").read_text()):
        assert "Table 1" in written
        assert "Table 3" in written
    assert (reproduction / "figures" / "fig1.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (reproduction / "figures" / "fig1.svg").read_bytes()
    assert "Figure 1" in html


def test_the_papers_audit_needs_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, rendered = ModuleType("audit"), ModuleType("audit_render")
    audit.audit_paper = lambda: ["a sum that is off"]  # type: ignore[attr-defined]
    rendered.audit_as_dict = lambda findings: {"findings": findings}  # type: ignore[attr-defined]
    rendered.render_audit_markdown = lambda findings: f"- {findings[0]}\n"  # type: ignore[attr-defined]
    rendered.render_audit_terminal = lambda findings: Text(findings[0])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gcbench.reporting.audit", audit)
    monkeypatch.setitem(sys.modules, "gcbench.reporting.audit_render", rendered)
    assert "a sum that is off" in call("--audit-paper")
    assert call("--audit-paper", "--format", "md") == "- a sum that is off\n"
    assert json.loads(call("--audit-paper", "--format", "json")) == {"findings": ["a sum that is off"]}
    assert "the paper's audit" in call("--audit-paper", "--out", str(tmp_path / "audit.txt"))
    assert (tmp_path / "audit.txt").read_text() == "a sum that is off\n"
    with pytest.raises(InputError, match="cannot be written as latex"):
        call("--audit-paper", "--format", "latex")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "--runs", "none"], "no folder 'none'"),
        (["table1"], "no folder 'reproduction'"),
        (["--runs", "."], "has no table yet"),
        (["table9", "--runs", "."], "no table 'table9'"),
        (["table1", "--runs", ".", "--out", "none/report.md"], "Make it"),
        (["--runs", ".", "--provenance", "table1"], "no cell"),
        (["--runs", ".", "--provenance", "table1/gaussiancross/nowhere"], "There is no cell"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call(*arguments)
    assert list(tmp_path.iterdir()) == []
