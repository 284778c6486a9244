"""The structure of the HTML page: whole, escaped, self-contained, and every number with its provenance."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest

from gcbench.reporting.compare import ColumnSpec, Comparison, TableSpec, compare
from gcbench.reporting.paper import PaperTable
from gcbench.reporting.render import Figure
from gcbench.reporting.report_page import render_html
from gcbench.resources import resource_path
from tests.reporting.made_up import Made, made_pretraining

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
def real(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> Comparison:
    columns = (
        *table.columns,
        ColumnSpec("mean", "Mean", kind="mean", of=("one", "two")),
        ColumnSpec("before", "Before", ("PSNR",), "pretraining", rows=("method",)),
    )
    results = [make(seed=seed, mIoU=value) for seed, value in enumerate((0.19, 0.21))]
    results += [make(row="floor", mIoU=0.02), make(mIoU=0.1, resolution="points"), make(column="two", seed=1)]
    return compare(replace(table, columns=columns), [*results, made_pretraining()], paper)


@pytest.fixture
def other(real: Comparison) -> Comparison:
    return replace(real, table=replace(real.table, id="other", title="Another table"))


def page(*comparisons: Comparison) -> str:
    figure = Figure("A <picture>", "a & b", PNG)
    return render_html(comparisons, [figure], table_figures={"tiny": [figure]})


def test_the_file_needs_nothing_else(real: Comparison, other: Comparison) -> None:
    text = page(real, other)
    tags = Reader(text).tags
    assert not {"iframe", "object", "embed", "form", "base"} & {tag for tag, _ in tags}
    addresses = [value or "" for _, attrs in tags for key, value in attrs.items() if key in ("src", "href", "action")]
    assert {address.partition(",")[0] for address in addresses if not address.startswith("#")} == {
        "data:image/png;base64",
        "data:",
    }
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in text
    assert "@import" not in text
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)


def test_the_policy_lets_only_our_script_run(real: Comparison) -> None:
    text = page(real)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.findall(r"\son\w+=", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))


def test_the_script_writes_no_markup() -> None:
    script = resource_path("reports", "templates", "report.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp", script)


def test_text_of_others_is_escaped(real: Comparison) -> None:
    text = page(real)
    assert "Floor &lt;b&gt;" in text
    assert "A &lt;picture&gt;" in text
    assert "<img src=x>" not in text
    assert "&lt;/script&gt;&lt;img src=x&gt;" in text


def test_every_number_opens_its_provenance(real: Comparison, other: Comparison) -> None:
    tags = Reader(page(real, other)).tags
    origins = [attrs for tag, attrs in tags if tag == "details" and attrs.get("class") == "provenance"]
    assert len(origins) == len(real.entries) + len(other.entries) == 12
    links = [attrs for tag, attrs in tags if tag == "a" and attrs.get("class") == "value"]
    assert len(links) == sum(len(entry.metrics) for entry in (*real.entries, *other.entries))
    assert all("where it comes from" in str(link["aria-label"]) for link in links)


def test_columns_with_numbers_can_be_sorted_and_rows_line_up(real: Comparison) -> None:
    text = page(real)
    heads = re.findall(r'aria-label="Sort by ([^"]*)"', text)
    assert heads == [
        "One, mIoU",
        "One, mAcc",
        "Two, mIoU",
        "Two, mAcc",
        "Mean, mIoU",
        "Mean, mAcc",
        "Before, PSNR (dB)",
    ]
    values = [float(value) if value else None for value in re.findall(r'data-sort="([^"]*)"', text)]
    assert len(values) == 2 * len(heads)
    assert values[:3] == [2.0, 12.0, None]
    assert (values[7], values[13]) == (10.0, 21.0)  # of a cell with several protocols the first


def test_contents_and_notices_stand_before_the_tables(
    table: TableSpec, paper: PaperTable, make: Callable[..., Made]
) -> None:
    rooms = compare(table, [make(synthetic=True, mIoU=0.777)], paper)
    text = page(rooms, replace(rooms, table=replace(table, id="other", title="Another table: more")))
    assert text.index("synthetic rooms, not from") < text.index("<nav") < text.index("77.7")
    assert re.findall(r'<a href="#t-([^"]*)">([^<]*)</a>', text) == [
        ("tiny", "A small table"),
        ("other", "Another table"),
    ]
    assert text.index('id="t-other"') < text.index('id="figures"')


def test_the_same_input_gives_the_same_file(real: Comparison) -> None:
    made = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    assert render_html([real], made=made) == render_html([real], made=made)
    assert "2026-01-02 03:04 UTC" in render_html([real], made=made)


def test_the_recipe_stands_in_the_provenance(real: Comparison) -> None:
    recipe = re.findall(r"<pre>(.*?)</pre>", page(real), flags=re.DOTALL)[0]
    assert json.loads(recipe.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">"))["optimizer.lr"] == 0.005
