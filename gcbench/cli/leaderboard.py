"""`gcbench leaderboard`: methods side by side, ranked only within one protocol."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcbench.reporting.leaderboard import Board
    from gcbench.reporting.leaderboard_ranking import Group

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Leaderboards: the paper's rows and measured ones, ranked only within one protocol.",
)

_SHOW_EPILOG = """Examples:

  gcbench leaderboard show table3

  gcbench leaderboard show table4 --sort scannet200/mAP --format html --out table4.html
"""
_ADD_EPILOG = r"""Example:

  gcbench evaluate semantic --pred predictions --gt ground_truth --labels scannet20 --json result.json

  gcbench leaderboard add result.json --table table3 --column scannet --name "My method" \
      --resolution points --inference single-pass --board boards
"""

_Resolution = Literal["voxels", "points"]
_Inference = Literal["single-pass", "tta"]
_BoardFolder = Annotated[Path | None, typer.Option("--board", help="Folder of boards and entries of your own.")]


class Format(str, Enum):
    """What a board can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"


@app.command("show", epilog=_SHOW_EPILOG)
def show(
    table: Annotated[str, typer.Argument(help="Which board, e.g. table3; `gcbench leaderboard list` shows all.")],
    sort: Annotated[str | None, typer.Option(help="Rank by this column, e.g. scannet or scannet/mAP50.")] = None,
    form: Annotated[Format, typer.Option("--format", help="What to make.")] = Format.TERMINAL,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    board: _BoardFolder = None,
) -> None:
    """Show a board: the paper's rows, then the measured ones by protocol. Every measured number is checked first."""
    from rich.console import Console

    from gcbench.errors import InputError
    from gcbench.files import write_atomic
    from gcbench.reporting.leaderboard_entries import load_leaderboard
    from gcbench.reporting.leaderboard_ranking import groups
    from gcbench.reporting.leaderboard_render import render_terminal

    if out is not None and not out.resolve().parent.is_dir():
        raise InputError(f"There is no folder '{out.resolve().parent}'.", "Make it, or choose another --out.")
    definition, entries = load_leaderboard(table, board)
    ranked = groups(definition, entries, sort)
    if form is Format.TERMINAL and out is None:
        Console(highlight=False).print(render_terminal(definition, ranked))
        return
    text = _text(definition, ranked, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
        typer.echo(f"{out}: {len(definition.rows)} rows of the paper, {len(entries)} measured")


@app.command("add", epilog=_ADD_EPILOG)
def add(
    result: Annotated[Path, typer.Argument(help="JSON of `gcbench evaluate --json`, or result.json of a run.")],
    table: Annotated[str, typer.Option(help="Which board, e.g. table3.")],
    column: Annotated[str, typer.Option(help="Which column, e.g. scannet.")],
    name: Annotated[str, typer.Option(help="Name of the method; its other columns join the same entry.")],
    link: Annotated[str | None, typer.Option(help="A web address about the method.")] = None,
    resolution: Annotated[
        Literal["voxels", "points"] | None, typer.Option(help="Where the predictions were scored.")
    ] = None,
    inference: Annotated[
        Literal["single-pass", "tta"] | None, typer.Option(help="How the predictions were made.")
    ] = None,
    board: _BoardFolder = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a result that is there.")] = False,
) -> None:
    """Add a measured result to a board, with a copy of its file so that the number can be checked again."""
    from rich.console import Console

    from gcbench.reporting.leaderboard_entries import Stated, add_result

    stated = Stated(resolution, inference)
    folder = board if board is not None else _own_folder()
    path = add_result(table, column, result, name=name, link=link, stated=stated, folder=folder, replace=replace)
    Console(highlight=False, soft_wrap=True, markup=False).print(f"{path}: {name}, column {column} of {table}")


@app.command("list", epilog="Example:  gcbench leaderboard list")
def list_boards(board: _BoardFolder = None) -> None:
    """List the boards with their columns and how many entries they have."""
    from rich.console import Console
    from rich.table import Table

    from gcbench.reporting.leaderboard import board_files, load_board, read_entries

    table = Table("board", "what it is", "columns", "paper", "measured")
    for board_id in board_files(board):
        definition = load_board(board_id, board)
        columns = " ".join(column.id for column in definition.columns)
        measured = len(read_entries(definition, board))
        table.add_row(board_id, definition.title, columns, str(len(definition.rows)), str(measured))
    Console().print(table)


def _own_folder() -> Path | None:
    """None, the boards of the checkout; an installed package is not the place to write."""
    import gcbench
    from gcbench.errors import InputError
    from gcbench.reporting.leaderboard import packaged_folder

    if packaged_folder().resolve().is_relative_to(Path(gcbench.__file__).resolve().parent):
        raise InputError("The boards of an installed gcbench stay as they are.", "Give a folder of yours with --board.")
    return None


def _text(board: Board, ranked: Sequence[Group], form: Format) -> str:
    from rich.console import Console

    from gcbench.reporting import leaderboard_render as render

    if form is Format.MARKDOWN:
        return render.render_markdown(board, ranked)
    if form is Format.JSON:
        return render.render_json(board, ranked)
    if form is Format.HTML:
        return render.render_html(board, ranked)
    console = Console(width=120, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(render.render_terminal(board, ranked))
    return captured.get()
