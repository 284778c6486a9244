"""`gcbench explain`: why a number differs from the paper's."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gcbench.reporting.explain_shares import Predict
    from gcbench.reporting.explanation import Explanation

app = typer.Typer(add_completion=False)

_EPILOG = """Examples:

  gcbench explain table1/gaussiancross/scannet --runs demo

  gcbench explain table1/gaussiancross/scannet --runs demo --predict

  gcbench explain table1/gaussiancross/scannet/mAcc --runs demo --format md --out why.md
"""
_WIDTH = 200  # columns of a text that goes into a file


class Format(str, Enum):
    """What an explanation can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "md"
    JSON = "json"


@app.command(epilog=_EPILOG)
def explain(
    cell: Annotated[
        str, typer.Argument(help="TABLE/ROW/COLUMN or TABLE/ROW/COLUMN/METRIC, e.g. table1/gaussiancross/scannet.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of a reproduction.")],
    form: Annotated[Format, typer.Option("--format", help="What to make.")] = Format.TERMINAL,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Run the kept models again, under test-time augmentation. Takes a while.")
    ] = False,
) -> None:
    """Say why a number is what it is: scoring, checkpoint, seeds, scenes and recipe, each with its measured share.

    The predictions that were kept are scored again; no model runs without --predict. Shares are never added up.
    """
    from rich.console import Console
    from rich.progress import Progress

    from gcbench.errors import InputError
    from gcbench.files import write_atomic
    from gcbench.reporting.explain import explain as explanation_of
    from gcbench.reporting.explain import parse_cell
    from gcbench.reporting.explain_render import render_explanation

    asked = parse_cell(cell)
    if not runs.is_dir():
        raise InputError(f"There is no folder '{runs}'.", "Give the folder of a reproduction with --runs.")
    if out is not None and not out.resolve().parent.is_dir():
        raise InputError(f"There is no folder '{out.resolve().parent}'.", "Make it, or choose another --out.")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Scoring again", total=None)
        found = explanation_of(
            asked,
            runs,
            lambda done, total: progress.update(task, completed=done, total=total),
            _augmented_means() if predict else None,
        )
    if form is Format.TERMINAL and out is None:
        Console().print(render_explanation(found), crop=False)
        return
    text = _text(found, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
        typer.echo(f"{out}: {found.cell}, {len(found.shares)} shares measured")


def _augmented_means() -> Predict:
    from gcbench.protocols.rescore import augmented_means

    return augmented_means


def _text(found: Explanation, form: Format) -> str:
    from rich.console import Console

    from gcbench.reporting import explain_render

    if form is Format.MARKDOWN:
        return explain_render.explanation_markdown(found)
    if form is Format.JSON:
        return explain_render.explanation_json(found)
    console = Console(width=_WIDTH, no_color=True)
    with console.capture() as captured:
        console.print(explain_render.render_explanation(found), crop=False)
    return captured.get()
