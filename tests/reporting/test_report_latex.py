"""The LaTeX tables: whole, escaped, and of nothing but standard commands, booktabs and xcolor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from gcbench.reporting.compare import Comparison, TableSpec, compare
from gcbench.reporting.paper import PaperTable
from gcbench.reporting.report_latex import escape, render_latex
from tests.reporting.made_up import Made

# every command that a report may use: LaTeX's own, booktabs', and xcolor's \textcolor
COMMANDS = {
    *("begin", "end", "centering", "small", "setlength", "tabcolsep", "caption", "label", "multicolumn", "usepackage"),
    *("toprule", "midrule", "bottomrule", "cmidrule", "textcolor", "textsuperscript"),
    *("pm", "approx", "downarrow", "uparrow", "geq", "leq", "times", "textless", "textgreater", "textbar"),
    *("textbackslash", "textasciitilde", "textasciicircum"),
}


@pytest.fixture
def comparison(table: TableSpec, paper: PaperTable, make: Callable[..., Made]) -> Comparison:
    table = replace(table, title="50 % & more_of {it} \\ #1 ~ ^ $")
    results = [make(seed=seed, mIoU=value) for seed, value in enumerate((0.19, 0.21))]
    return compare(table, [*results, make(column="two", mIoU=0.2), make(resolution="points", mIoU=0.5)], paper)


def test_a_cell_has_ours_its_verdict_and_the_papers(comparison: Comparison) -> None:
    (row,) = [line for line in render_latex([comparison]).splitlines() if line.startswith("Method")]
    one, *_, two, _ = row.removesuffix(r" \\").split(" & ")[1:]
    assert r"20.0 $\pm$ 1.4$^{=}$\textsuperscript{B}" in one
    assert r"50.0$^{\uparrow}$\textsuperscript{A}" in one
    assert one.endswith(r"\textcolor{gray}{(20.0)}")
    assert two == r"20.0$^{\downarrow}$ \textcolor{gray}{(40.0)}"


def test_every_row_has_as_many_cells_as_the_table_has_columns(comparison: Comparison) -> None:
    text = render_latex([comparison])
    (columns,) = re.findall(r"\\begin\{tabular\}\{(l+r+)\}", text)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == len(comparison.cells)
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, line
        assert line.endswith(r"\\")
    spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d+)\}", text)]
    assert sum(spans) == len(columns) - 1
    assert re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", text) == [("2", "3"), ("4", "5")]


def test_braces_and_environments_close_and_no_package_is_missing(comparison: Comparison) -> None:
    text = re.sub(r"^%.*$", "", render_latex([comparison, comparison]), flags=re.MULTILINE)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", text).count("table") == text.count(r"\end{table}") == 2
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= COMMANDS
    assert not re.search(r"(?<!\\)[#~]|(?<!\\)%|(?<!\\)_", text)
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("{x}\\y", r"\{x\}\textbackslash{}y"),
        ("<i> | #1 $ ~ ^", r"\textless{}i\textgreater{} \textbar{} \#1 \$ \textasciitilde{} \textasciicircum{}"),
        ("1 ± 2, ≈ 3 – 4", r"1 $\pm$ 2, $\approx$ 3 -- 4"),
        ("Gauß", "Gauß"),
    ],
)
def test_text_is_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_a_table_that_was_not_run_shows_the_papers_numbers(table: TableSpec, paper: PaperTable) -> None:
    text = render_latex([compare(table, [], paper)])
    assert r"\textcolor{gray}{(40.0)}" in text
    assert "0 of 4 cells run" in text
