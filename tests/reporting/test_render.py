"""The four formats: what they must say, what they must never do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from gcbench.errors import DataError
from gcbench.reporting import render
from gcbench.reporting.compare import Comparison, TableSpec, compare
from gcbench.reporting.paper import PaperTable
from gcbench.reporting.render import Figure
from gcbench.runs.results import SemanticResult

PNG = b"\x89PNG\r\n\x1a\n made up"
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Tags with their attributes; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def real(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> Comparison:
    results = [make(seed=seed, mIoU=value) for seed, value in enumerate((0.19, 0.21))]
    return compare(table, [*results, make(row="floor", mIoU=0.02), make(mIoU=0.1, resolution="points")], paper)


@pytest.fixture
def synthetic(table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult]) -> Comparison:
    return compare(table, [make(synthetic=True, preset="tiny", mIoU=0.123)], paper)


def terminal(comparison: Comparison) -> str:
    stream = StringIO()
    Console(file=stream, width=140).print(render.render_terminal(comparison))
    return stream.getvalue()


def every_format(comparison: Comparison) -> dict[str, str]:
    return {
        "terminal": terminal(comparison),
        "md": render.render_markdown(comparison),
        "html": render.render_html(comparison),
        "json": render.render_json(comparison),
    }


def test_every_format_says_that_rooms_are_synthetic_before_any_number(synthetic: Comparison) -> None:
    for name, text in every_format(synthetic).items():
        plain = re.sub(r"\s+", " ", re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL))
        assert plain.index("synthetic rooms, not from ScanNet or S3DIS") < plain.index("12.3"), name
        assert "not comparable with the paper, and no verdict is given" in plain, name
        assert "reproduced" not in plain.replace("GaussianCross, reproduced", ""), name


def test_real_numbers_carry_no_such_notice(real: Comparison) -> None:
    assert render.notices(real) == []
    for text in every_format(real).values():
        assert "synthetic rooms" not in text


def test_every_format_shows_ours_the_papers_and_the_coverage(real: Comparison) -> None:
    for name, text in every_format(real).items():
        if name != "json":
            blank_column = "not run: Two" if name == "terminal" else "40.0"
            for shown in ("20.0", "± 1.4", blank_column, "scored on points"):
                assert shown in text, (name, shown)
    assert "2 of 4 cells run" in terminal(real)
    assert "2 of 4 cells run" in render.render_markdown(real)
    assert re.search(r"2<span> / 4 cells", render.render_html(real))


def test_a_cell_that_was_not_run_has_no_number(real: Comparison) -> None:
    row = render.render_markdown(real).splitlines()
    (floor,) = [line for line in row if line.startswith("| Floor")]
    assert floor.endswith("|  |  |")
    content = json.loads(render.render_json(real))
    (cell,) = [cell for cell in content["cells"] if (cell["row"], cell["column"]) == ("floor", "two")]
    assert (cell["status"], cell["entries"]) == ("not run", [])


def test_json_holds_everything(real: Comparison) -> None:
    content = json.loads(render.render_json(real))
    assert content["coverage"] == {"cells_run": 2, "cells_total": 4}
    (cell,) = [cell for cell in content["cells"] if (cell["row"], cell["column"]) == ("method", "one")]
    assert cell["paper"]["mIoU"] == {"value": 20.0, "place": "Table 9, one, mIoU"}
    assert len(cell["entries"]) == 2
    (pair,) = [entry for entry in cell["entries"] if entry["seeds"] == [0, 1]]
    assert pair["metrics"]["mIoU"]["verdict"] == "reproduced"
    assert pair["provenance"][0]["recipe_hash"] == "0123"
    assert content["protocols"][pair["protocol"]]["is"].startswith("scannet20 on val, scored on voxels")


def test_the_html_file_needs_nothing_else(real: Comparison) -> None:
    text = render.render_html(real, [Figure("A <picture>", "a & b", PNG)])
    tags = Reader(text).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    addresses = [value for _, attrs in tags for key, value in attrs.items() if key in ("src", "href", "action")]
    assert addresses
    assert all(value and value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", text)
    assert "url(" not in text
    assert "@import" not in text
    ids = {attrs["id"] for _, attrs in tags if "id" in attrs}
    assert {value[1:] for value in addresses if value and value.startswith("#")} <= ids


def test_html_is_escaped(real: Comparison) -> None:
    text = render.render_html(real, [Figure("A <picture>", "a & b", PNG)])
    assert "Floor &lt;b&gt;" in text
    assert "A &lt;picture&gt;" in text
    assert "<img src=x>" not in text
    assert "&lt;/script&gt;&lt;img src=x&gt;" in text
    assert "Method \\| ours" in render.render_markdown(real)
    assert "Floor &lt;b&gt;" in render.render_markdown(real)


def test_every_entry_has_its_provenance(real: Comparison) -> None:
    tags = Reader(render.render_html(real)).tags
    entries = [attrs for tag, attrs in tags if tag == "details" and attrs.get("class") == "provenance"]
    assert len(entries) == len(real.entries) == 3


def test_the_same_input_gives_the_same_file(real: Comparison) -> None:
    made = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    assert render.render_html(real, made=made) == render.render_html(real, made=made)
    assert "2026-01-02 03:04 UTC" in render.render_html(real, made=made)


def test_an_empty_table_can_be_shown(table: TableSpec, paper: PaperTable) -> None:
    empty = compare(table, [], paper)
    for name, text in every_format(empty).items():
        assert name == "json" or "A small table" in text
    Reader(render.render_html(compare(table, [], None)))


def test_figures_must_be_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert Figure("a", "", tmp_path / "a.png").data_uri().startswith("data:image/png;base64,iVBOR")
    with pytest.raises(DataError, match="not a PNG"):
        Figure("b", "", b"<svg onload=x>").data_uri()
    with pytest.raises(DataError, match="cannot be read"):
        Figure("c", "", tmp_path / "none.png").data_uri()


@pytest.mark.parametrize(
    ("value", "text"), [(-0.44, "−0.4"), (0.25, "+0.2"), (-0.04, "±0.0"), (0.0, "±0.0"), (12.34, "+12.3")]
)
def test_differences_are_written_with_their_sign(value: float, text: str) -> None:
    assert render.signed(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_importing_is_light() -> None:
    code = (
        "import sys, gcbench.reporting.render, gcbench.reporting.figures;"
        "heavy = {'torch', 'numpy', 'matplotlib', 'jinja2', 'rich', 'pydantic'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
