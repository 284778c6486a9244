"""`gcbench report`: the results of tables, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gcbench.recipe.tables import Table
    from gcbench.reporting.comparison import Comparison
    from gcbench.reporting.recorded import Recorded
    from gcbench.reporting.render import Figure

app = typer.Typer(add_completion=False)

_EPILOG = """Examples:

  gcbench report --runs reproduction

  gcbench report table1 table3 --runs reproduction --format latex --out tables.tex

  gcbench report --runs reproduction --provenance table1/gaussiancross/scannet

  gcbench report --audit-paper
"""
_WIDTH = 200  # columns of a terminal report that is written to a file
_NO_RUNS = "Give the folder of a reproduction with --runs."


class Format(str, Enum):
    """What a report can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "md"
    HTML = "html"
    LATEX = "latex"
    JSON = "json"


@app.command(epilog=_EPILOG)
def report(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Which tables, e.g. table1; all that were run without any.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of a reproduction.")] = Path("reproduction"),
    form: Annotated[Format, typer.Option("--format", help="What to make.")] = Format.TERMINAL,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    compare_paper: Annotated[
        bool, typer.Option("--compare-paper/--no-compare-paper", help="Show the paper's numbers beside ours.")
    ] = True,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Bootstrap intervals over scenes.")
    ] = True,
    provenance: Annotated[
        str | None, typer.Option(help="Show where a cell comes from, e.g. table1/gaussiancross/scannet.")
    ] = None,
    audit_paper: Annotated[
        bool, typer.Option("--audit-paper", help="Check the paper's numbers against each other; needs no --runs.")
    ] = False,
) -> None:
    """Show the results of tables with their protocol, their provenance and the paper's numbers."""
    from gcbench.errors import InputError
    from gcbench.reporting.recorded import Recorded
    from gcbench.reporting.render import render_terminal
    from gcbench.reporting.wording import coverage

    if out is not None and not out.resolve().parent.is_dir():
        raise InputError(f"There is no folder '{out.resolve().parent}'.", "Make it, or choose another --out.")
    if audit_paper:
        _write(_audit(form), "the paper's audit", out)
        return
    if not runs.is_dir():
        raise InputError(f"There is no folder '{runs}'.", _NO_RUNS)
    recorded = Recorded(runs)
    if provenance is not None:
        _show_provenance(recorded, provenance)
        return
    chosen = _definitions(recorded, tables or [])
    comparisons = compare_tables(recorded, chosen, with_paper=compare_paper, with_intervals=intervals)
    content = render_terminal(comparisons) if form is Format.TERMINAL else _text(comparisons, form, recorded)
    _write(content, coverage(comparisons), out)


def write_report(console: Console, tables: Sequence[Table], out: Path) -> None:
    """Print tables, and write report.html, .md and .json, and figures/, of all that was run into the folder `out`.

    Args:
        console: where to print.
        tables: definitions, from `load_table`; only these are printed.
        out: a folder of a reproduction, with `cells/` and `runs/`.
    """
    from gcbench.files import write_atomic
    from gcbench.recipe.tables import load_table
    from gcbench.reporting.recorded import Recorded
    from gcbench.reporting.render import render_terminal
    from gcbench.reporting.report_figures import paper_figures, write_figures

    recorded = Recorded(out)
    comparisons = compare_tables(recorded, [load_table(name) for name in recorded.tables()])
    figures = paper_figures(recorded, comparisons)
    write_figures(figures, out / "figures")
    for form in (Format.HTML, Format.MARKDOWN, Format.JSON):
        write_atomic(out / f"report.{form.value}", _text(comparisons, form, recorded, figures))
    wanted = {table.id for table in tables}
    if wanted:
        console.print(render_terminal([one for one in comparisons if one.table.id in wanted]))
    if figures:
        console.print(f"Figures: {', '.join(figures)}, in {out / 'figures'}", soft_wrap=True)
    console.print(f"Report: {out / 'report.html'} (also .md and .json)", soft_wrap=True)


def compare_tables(
    recorded: Recorded, tables: Sequence[Table], *, with_paper: bool = True, with_intervals: bool = True
) -> list[Comparison]:
    """Join what a reproduction has of each table with the paper."""
    from gcbench.reporting.compare import TableSpec, compare
    from gcbench.reporting.intervals import SceneBootstrap
    from gcbench.reporting.paper import load_paper_table
    from gcbench.reporting.settings import TableSettings

    bootstrap = SceneBootstrap() if with_intervals else None
    return [
        compare(
            TableSpec.of(table),
            recorded.cells(table.id),
            load_paper_table(table.id) if with_paper else None,
            departures=TableSettings(table),
            bootstrap=bootstrap,
        )
        for table in tables
    ]


def _definitions(recorded: Recorded, wanted: Sequence[str]) -> list[Table]:
    from gcbench.errors import InputError
    from gcbench.recipe.tables import load_table

    tables = [load_table(name) for name in wanted or recorded.tables()]
    if not tables:
        raise InputError(f"{recorded.out} has no table yet.", "Make one: gcbench reproduce table1 --out DIR.")
    return tables


def _text(
    comparisons: Sequence[Comparison], form: Format, recorded: Recorded, figures: Mapping[str, Figure] | None = None
) -> str:
    from gcbench.reporting import render

    if form is Format.MARKDOWN:
        return render.render_markdown(comparisons)
    if form is Format.JSON:
        return render.render_json(comparisons)
    if form is Format.LATEX:
        from gcbench.reporting.report_latex import render_latex

        return render_latex(comparisons)
    assert form is Format.HTML, form
    from gcbench.reporting.report_figures import paper_figures, pretraining_figures
    from gcbench.reporting.report_page import render_html

    of_paper = paper_figures(recorded, comparisons) if figures is None else figures
    pictures = [*of_paper.values(), *pretraining_figures(recorded, [one.table.id for one in comparisons])]
    bars = {one.table.id: table_figures(one) for one in comparisons}
    return render_html(comparisons, pictures, table_figures=bars)


def table_figures(comparison: Comparison) -> list[Figure]:
    """Bars for every metric of which something was run."""
    from gcbench.reporting.figures import bar_table
    from gcbench.reporting.render import Figure

    measured = {metric for entry in comparison.entries for metric in entry.metrics}
    caption = "Bars are means over seeds, whiskers the sample standard deviation."
    return [
        Figure(f"{metric} by column", caption, bar_table(comparison, metric))
        for metric in comparison.table.all_metrics
        if metric in measured
    ]


def _audit(form: Format) -> RenderableType:
    import json

    from gcbench.errors import InputError
    from gcbench.reporting.audit import audit_paper
    from gcbench.reporting.audit_render import audit_as_dict, render_audit_markdown, render_audit_terminal

    findings = audit_paper()
    if form is Format.MARKDOWN:
        return render_audit_markdown(findings)
    if form is Format.JSON:
        return json.dumps(audit_as_dict(findings), indent=1, ensure_ascii=False) + "\n"
    if form is not Format.TERMINAL:
        raise InputError(f"The audit cannot be written as {form.value}.", "Use --format terminal, md or json.")
    return render_audit_terminal(findings)


def _show_provenance(recorded: Recorded, cell_id: str) -> None:
    from rich.console import Console

    from gcbench.errors import InputError
    from gcbench.recipe.tables import load_table
    from gcbench.reporting.provenance_render import render_provenance

    parts = cell_id.split("/")
    if len(parts) not in (3, 4):
        raise InputError(f"'{cell_id}' is no cell.", "Name table, row and column: table1/gaussiancross/scannet.")
    table = load_table(parts[0])
    (comparison,) = compare_tables(recorded, [table])
    cells = {(cell.row.id, cell.column.id): cell for row in comparison.cells for cell in row if cell.exists}
    cell = cells.get((parts[1], parts[2]))
    if cell is None:
        known = ", ".join(f"{table.id}/{row}/{column}" for row, column in cells)
        raise InputError(f"There is no cell '{cell_id}'.", f"Cells of {table.id}: {known}.")
    Console().print(render_provenance(cell, recorded.cells(table.id)))


def _plain(content: RenderableType) -> str:
    """What a terminal would show, without colours."""
    from rich.console import Console

    console = Console(width=_WIDTH, no_color=True)
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def _write(content: RenderableType, said: str, out: Path | None) -> None:
    """Show text or what is made for a terminal, or write it as plain text into a file and say so."""
    from rich.console import Console

    from gcbench.files import write_atomic

    if out is not None:
        write_atomic(out, content if isinstance(content, str) else _plain(content))
        typer.echo(f"{out}: {said}")
    elif isinstance(content, str):
        typer.echo(content, nl=False)
    else:
        Console().print(content)
