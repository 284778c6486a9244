"""The HTML report in a real, headless browser: sorting, provenance, a phone, dark and print, and no request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec, compare
from gcbench.reporting.render import Figure
from gcbench.reporting.report_page import render_html
from tests.reporting.headless_browser import BROWSER, Page, open_browser
from tests.reporting.made_up import made_result, paper_table

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; test_report_page checks the structure")

ROWS = "[...document.querySelector('table.results').tBodies[0].rows].map(row => row.cells[0].innerText)"
SORTED = "document.querySelectorAll('table.results')[0].tHead.rows[1].cells[{}].getAttribute('aria-sort')"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300"><rect width="900" height="300"/></svg>'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables of eight columns; three rows were run, one is the paper's alone."""
    columns = tuple(ColumnSpec(f"c{number}", f"Column {number}") for number in range(8))
    rows = (RowSpec("low", "Low"), RowSpec("printed", "Printed", runs=False), RowSpec("high", "High"))
    table = TableSpec("first", "First: a wide table", (*rows, RowSpec("middle", "Middle")), columns, ("mIoU", "mAcc"))
    values = {"low": 0.1, "high": 0.3, "middle": 0.2}
    results = [made_result(row, column.id, mIoU=value) for row, value in values.items() for column in columns[:7]]
    paper = paper_table("first", {"printed/c0/mIoU": 99.0, "low/c0/mIoU": 10.2})
    first = compare(table, results, paper)
    second = replace(first, table=replace(table, id="second", title="Second: the same again"))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html([first, second], [Figure("A drawing", "wide", b"", SVG)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.resize(1280)
    browser.media()
    browser.requests.clear()
    browser.errors.clear()
    browser.open(report)
    return browser


def test_the_page_asks_for_nothing_and_complains_of_nothing(page: Page, report: Path) -> None:
    asked = [address.partition(",")[0] for address in page.requests]
    assert asked[0] == report.resolve().as_uri()
    assert all(address.startswith("data:") for address in asked[1:])
    assert page.errors == []
    assert page.value("document.images[0].complete && document.images[0].naturalWidth > 0")


def test_a_click_sorts_and_blanks_stay_last(page: Page) -> None:
    click = "document.querySelectorAll('table.results button')[0].click()"
    orders = []
    for _ in range(3):
        page.value(click)
        orders.append((page.value(ROWS), page.value(SORTED.format(1))))
    assert orders == [
        (["High", "Middle", "Low", "Printed"], "descending"),
        (["Low", "Middle", "High", "Printed"], "ascending"),
        (["Low", "Printed", "High", "Middle"], None),
    ]


def test_the_keyboard_sorts_and_only_one_column_is_marked(page: Page) -> None:
    page.value("document.querySelector('.pane').focus()")
    page.press("Tab")
    assert page.value("document.activeElement.getAttribute('aria-label')") == "Sort by Column 0, mIoU"
    page.press("Enter", "\r")
    page.press("Tab")
    page.press("Enter", "\r")
    assert page.value(ROWS) == ["High", "Middle", "Low", "Printed"]
    assert (page.value(SORTED.format(1)), page.value(SORTED.format(2))) == (None, "descending")
    assert page.value("document.querySelectorAll('[aria-sort]').length") == 1


def test_a_number_opens_its_provenance_and_escape_closes_it(page: Page) -> None:
    page.value("document.querySelector('a.value').focus()")
    page.press("Enter", "\r")
    assert page.value("document.querySelector('dialog').open")
    said = page.value("document.querySelector('dialog').innerText")
    for part in ("Low · Column 0", "10.00", "scannet20 on val", "gcbench 0.1.0", "Table 9, low/c0/mIoU"):
        assert part in said, part
    page.press("Escape")
    assert not page.value("document.querySelector('dialog').open")
    assert page.value("document.activeElement.classList.contains('value')")


def test_without_scripts_a_number_leads_to_its_provenance(page: Page, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(report)
        page.value("document.querySelector('a.value').focus()")
        page.press("Enter", "\r")
        page.settle()
        assert page.value("document.querySelector('details.provenance').open")
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_phone_scrolls_tables_inside_themselves(page: Page) -> None:
    page.resize(390, 844, mobile=True)
    assert page.value(OVERFLOW) <= 0
    assert page.value("(pane => pane.scrollWidth > pane.clientWidth)(document.querySelector('.pane'))")
    assert page.value("innerWidth") == 390
    page.value("document.querySelector('a.value').click()")
    assert page.value("document.querySelector('dialog').getBoundingClientRect().width") <= 390


def test_dark_and_light_are_not_the_same(page: Page) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        page.media(scheme=scheme)
        shown = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        colors[scheme] = [sum(map(int, one[4:-1].split(","))) for one in page.value(shown)]
    (light, ink), (dark, chalk) = colors["light"], colors["dark"]
    assert light > ink + 400
    assert chalk > dark + 400


def test_print_shows_whole_tables_and_only_what_was_opened(page: Page) -> None:
    page.value("document.querySelector('details.provenance').open = true")
    page.media("print")
    style = "getComputedStyle(document.querySelector('{}')).{}"
    assert page.value(style.format(".pane", "overflowX")) == "visible"
    assert page.value(style.format("nav", "display")) == "none"
    shown = "[...document.querySelectorAll('details.provenance')].filter(one => one.offsetHeight > 0).length"
    assert page.value(shown) == 1
