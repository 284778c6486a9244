"""`gcbench report`: the results of a table, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.reporting.compare import Comparison
    from gcbench.reporting.render import Figure
    from gcbench.runs.store import Run

app = typer.Typer(add_completion=False)

_EPILOG = """Examples:

  gcbench report table1 --runs demo

  gcbench report table1 --runs demo --format html --out report.html
"""


class Format(str, Enum):
    """What a report can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"


@app.command(epilog=_EPILOG)
def report(
    table: Annotated[str, typer.Argument(help="Which table, e.g. table1.")],
    runs: Annotated[Path, typer.Option(help="Folder of a reproduction, or of its runs.")],
    form: Annotated[Format, typer.Option("--format", help="What to make.")] = Format.TERMINAL,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    compare_paper: Annotated[
        bool, typer.Option("--compare-paper/--no-compare-paper", help="Show the paper's numbers beside ours.")
    ] = True,
) -> None:
    """Show a table's results with their protocol, their provenance and the paper's numbers."""
    from rich.console import Console

    from gcbench.errors import InputError
    from gcbench.files import write_atomic
    from gcbench.recipe.tables import load_table
    from gcbench.reporting.render import render_terminal
    from gcbench.runs.store import RunStore

    if not runs.is_dir():
        raise InputError(f"There is no folder '{runs}'.", "Give the folder of a reproduction with --runs.")
    if out is not None and not out.resolve().parent.is_dir():
        raise InputError(f"There is no folder '{out.resolve().parent}'.", "Make it, or choose another --out.")
    store = RunStore(runs / "runs" if (runs / "runs").is_dir() else runs)
    done = [run for run in store.runs() if run.is_done]
    comparison = compare_runs(load_table(table), done, with_paper=compare_paper)
    if form is Format.TERMINAL and out is None:
        Console().print(render_terminal(comparison))
        return
    text = _text(comparison, form, done)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
        typer.echo(f"{out}: {comparison.coverage()}")


def write_report(console: Console, definition: Any, cells: Iterable[Run], out: Path) -> None:
    """Print the table and write report.html, report.md and report.json into the folder `out`.

    Args:
        definition: a table definition, from `load_table`.
        cells: the runs of the table's cells; those that are not done are blank.
        out: a folder of a reproduction, with its runs in `out/runs`.
    """
    from gcbench.files import write_atomic
    from gcbench.reporting.render import render_terminal
    from gcbench.runs.store import RunStore

    comparison = compare_runs(definition, [run for run in cells if run.is_done], with_paper=True)
    pretraining = [run for run in RunStore(out / "runs").runs("pretrain") if run.is_done]
    for form in (Format.HTML, Format.MARKDOWN, Format.JSON):
        write_atomic(out / f"report.{form.value}", _text(comparison, form, pretraining).encode())
    console.print(render_terminal(comparison))
    console.print(f"Report: {out / 'report.html'} (also .md and .json)", soft_wrap=True)


def compare_runs(definition: Any, done: Iterable[Run], *, with_paper: bool) -> Comparison:
    """Join the results of finished runs with the paper; runs of other kinds are left out."""
    from gcbench.reporting.compare import TableSpec, compare
    from gcbench.reporting.paper import load_paper_table
    from gcbench.runs.results import InstanceResult, SemanticResult

    typed = [run.result() for run in done if run.output().get("kind") in ("semantic", "instance")]
    results = [result for result in typed if isinstance(result, SemanticResult | InstanceResult)]
    paper = load_paper_table(definition.id) if with_paper else None
    return compare(TableSpec.of(definition), results, paper)


def _text(comparison: Comparison, form: Format, done: Iterable[Run]) -> str:
    from rich.console import Console

    from gcbench.reporting import render

    if form is Format.MARKDOWN:
        return render.render_markdown(comparison)
    if form is Format.JSON:
        return render.render_json(comparison)
    if form is Format.HTML:
        return render.render_html(comparison, figures(comparison, done))
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(render.render_terminal(comparison))
    return captured.get()


def figures(comparison: Comparison, done: Iterable[Run]) -> list[Figure]:
    """Bars per metric, then the pictures of every pre-training run."""
    from gcbench.reporting.figures import bar_table
    from gcbench.reporting.render import Figure
    from gcbench.reporting.run_figures import draw_pretraining

    found = []
    if comparison.entries:
        caption = "Bars are means over seeds, whiskers the sample standard deviation."
        found += [
            Figure(f"{metric} by column", caption, bar_table(comparison, metric)) for metric in comparison.table.metrics
        ]
    for run in done:
        if run.output().get("kind") == "pretrain":
            stored = [Figure(figure.title, figure.caption, figure.path) for figure in run.figures()]
            found += stored or draw_pretraining(run)
    return found
