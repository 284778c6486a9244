"""The formats of a report: what they must say, what they must never do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from gcbench.errors import DataError
from gcbench.reporting import render, wording
from gcbench.reporting.compare import Comparison, TableSpec, compare
from gcbench.reporting.paper import PaperTable
from gcbench.reporting.render import Figure
from gcbench.reporting.report_latex import render_latex
from gcbench.reporting.report_page import render_html
from gcbench.reporting.verdicts import metric_unit
from tests.reporting.made_up import Made, made_pretraining

PNG = b"\x89PNG\r\n\x1a\n made up"


@pytest.fixture
def real(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> Comparison:
    results = [make(seed=seed, mIoU=value) for seed, value in enumerate((0.19, 0.21))]
    return compare(table, [*results, make(row="floor", mIoU=0.02), make(mIoU=0.1, resolution="points")], paper)


@pytest.fixture
def synthetic(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> Comparison:
    return compare(table, [make(synthetic=True, preset="tiny", mIoU=0.123)], paper)


def terminal(*comparisons: Comparison) -> str:
    stream = StringIO()
    Console(file=stream, width=140).print(render.render_terminal(comparisons))
    return stream.getvalue()


def every_format(*comparisons: Comparison) -> dict[str, str]:
    return {
        "terminal": terminal(*comparisons),
        "md": render.render_markdown(comparisons),
        "html": render_html(comparisons),
        "latex": render_latex(comparisons),
        "json": render.render_json(comparisons),
    }


def test_every_format_says_that_rooms_are_synthetic_before_any_number(synthetic: Comparison) -> None:
    for name, text in every_format(synthetic).items():
        plain = re.sub(r"\s+", " ", re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL))
        assert plain.index("synthetic rooms, not from ScanNet or S3DIS") < plain.index("12.3"), name
        assert "not comparable with the paper, and no verdict is given" in plain, name
        assert "reproduced" not in re.sub(r"\\caption.*", "", plain), name


def test_real_numbers_carry_no_such_notice(real: Comparison) -> None:
    assert wording.notices([real]) == []
    for text in every_format(real).values():
        assert "synthetic rooms" not in text


def test_every_reason_is_said_once_with_how_often_it_holds(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made]
) -> None:
    comparison = compare(table, [make(preset="tiny"), make(column="two", preset="tiny"), make(row="stranger")], paper)
    first, second = wording.notices([comparison])
    assert first.startswith("Not comparable with the paper (2 results): run with the preset 'tiny'")
    assert second.endswith("left out: tiny/stranger/one.")
    both = wording.notices([comparison, replace(comparison, unused=())])
    assert both[0].startswith("Not comparable with the paper (4 results)")


def test_every_format_shows_ours_the_papers_and_the_coverage(real: Comparison) -> None:
    for name, text in every_format(real).items():
        shown = ["20.0", "30.0"]
        shown += ["± 1.4", "scored on points"] if name in ("terminal", "md", "html") else []
        shown += ["$\\pm$ 1.4"] if name == "latex" else []
        shown += {"terminal": ["not run: Two"], "md": ["40.0"], "html": ["40.0"]}.get(name, [])
        assert [part for part in shown if part not in text] == [], name
        said = {"html": "2<span> / 4 cells", "json": '"cells_run": 2'}.get(name, "2 of 4 cells run")
        assert said in text, name


def test_several_tables_stand_in_one_report(real: Comparison, synthetic: Comparison) -> None:
    for name, text in every_format(real, synthetic).items():
        plain = re.sub(r"\s+", " ", text)
        assert "Some of these numbers come from synthetic rooms" in plain, name
        assert text.count("A small table") >= 2, name
    assert "2 tables, 3 of 8 cells run, seeds 0, 1" in terminal(real, synthetic)
    content = json.loads(render.render_json([real, synthetic]))
    assert content["coverage"]["cells_total"] == 8
    assert content["coverage"]["verdicts"]["not comparable"] == 2
    assert [one["synthetic"] for one in content["tables"]] == [False, True]


def test_a_cell_that_was_not_run_has_no_number(real: Comparison) -> None:
    row = render.render_markdown([real]).splitlines()
    (floor,) = [line for line in row if line.startswith("| Floor")]
    assert floor.endswith("|  |  |")
    (content,) = json.loads(render.render_json([real]))["tables"]
    (cell,) = [cell for cell in content["cells"] if (cell["row"], cell["column"]) == ("floor", "two")]
    assert (cell["status"], cell["blank"], cell["entries"]) == ("not run", "not run", [])


def test_json_holds_everything(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> None:
    comparison = compare(
        table,
        [make(seed=0, mIoU=0.19), make(seed=1, mIoU=0.21), make(resolution="points")],
        paper,
        bootstrap=lambda _: {"mIoU": (0.18, 0.22)},
    )
    (content,) = json.loads(render.render_json([comparison]))["tables"]
    assert content["coverage"] == {"cells_run": 1, "cells_total": 4}
    assert content["units"] == {"mIoU": "percent", "mAcc": "percent"}
    (cell,) = [cell for cell in content["cells"] if (cell["row"], cell["column"]) == ("method", "one")]
    assert cell["paper"]["mIoU"]["value"] == 20.0
    (pair,) = [entry for entry in cell["entries"] if entry["seeds"] == [0, 1]]
    assert pair["metrics"]["mIoU"]["verdict"] == "reproduced"
    assert pair["metrics"]["mIoU"]["interval"] == pytest.approx([18.0, 22.0])
    assert pair["provenance"][0]["recipe_hash"] == "0123"
    assert content["protocols"][pair["protocol"]]["is"].startswith("scannet20 on val, scored on voxels")


def test_units_that_are_not_percent_are_named(table: TableSpec) -> None:
    column = replace(table.columns[0], id="before", metrics=("PSNR", "memory", "seconds"), kind="pretraining")
    comparison = compare(replace(table, columns=(column,)), [made_pretraining()], None)
    for name, text in every_format(comparison).items():
        assert "21.00" in text or (name == "json" and "21.0" in text), name
        assert "2048" in text, name
        assert "0.123" in text, name
        assert "PSNR (dB)" in text or name == "json", name
    assert "measured on other hardware" in render.render_json([comparison])


def test_text_of_others_is_escaped(real: Comparison) -> None:
    markdown = render.render_markdown([real])
    assert "Method \\| ours" in markdown
    assert "Floor &lt;b&gt;" in markdown


def test_an_empty_table_can_be_shown(table: TableSpec, paper: PaperTable) -> None:
    for name, text in every_format(compare(table, [], paper)).items():
        assert name == "json" or "A small table" in text
    every_format(compare(table, [], None))
    every_format()


def test_figures_must_be_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert Figure("a", "", tmp_path / "a.png").data_uri().startswith("data:image/png;base64,iVBOR")
    assert Figure("a", "", PNG, b"<svg/>").data_uri().startswith("data:image/svg+xml;base64,")
    with pytest.raises(DataError, match="not a PNG"):
        Figure("b", "", b"<svg onload=x>").data_uri()
    with pytest.raises(DataError, match="not an SVG"):
        Figure("b", "", PNG, PNG).data_uri()
    with pytest.raises(DataError, match="cannot be read"):
        Figure("c", "", tmp_path / "none.png").data_uri()


@pytest.mark.parametrize(
    ("value", "text"), [(-0.44, "−0.4"), (0.25, "+0.2"), (-0.04, "±0.0"), (0.0, "±0.0"), (12.34, "+12.3")]
)
def test_differences_are_written_with_their_sign(value: float, text: str) -> None:
    assert wording.signed(value) == text


def test_numbers_have_the_decimals_of_their_metric() -> None:
    assert wording.signed(-0.004, metric_unit("PSNR")) == "±0.00"
    assert wording.number(1234.56, metric_unit("memory")) == "1235"
    assert wording.number(float("nan"), metric_unit("mIoU")) == "n/a"


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_importing_is_light() -> None:
    modules = ("render", "figures", "report_page", "report_latex", "settings", "intervals")
    code = (
        f"import sys, {', '.join(f'gcbench.reporting.{module}' for module in modules)};"
        "heavy = {'torch', 'numpy', 'matplotlib', 'jinja2', 'rich', 'pydantic'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
