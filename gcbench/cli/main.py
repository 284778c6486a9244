"""The root command `gcbench`: names the verbs, loads the one that is called, and turns errors into messages.

A verb's module is imported only when the verb is invoked, so `gcbench --help` imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import gcbench
from gcbench.errors import DISK_FULL, DiskFullError, GcbenchError, Paused, told_by_system

# Verb: (one line of help, the module whose `app` is the verb).
VERBS = {
    "data": ("Prepare, check and describe datasets.", "gcbench.cli.data"),
    "recipes": ("List, show and check recipes.", "gcbench.cli.recipes"),
    "pretrain": ("Pre-train a backbone from a recipe.", "gcbench.cli.pretrain"),
    "render": ("Render views of a scene from a pre-trained model.", "gcbench.cli.render"),
    "encode": ("Write the features of every point of a scene.", "gcbench.cli.encode"),
    "predict": ("Predict classes or instances of a scene, as a coloured PLY.", "gcbench.cli.predict"),
    "convert": ("Take the encoder out of a Pointcept checkpoint.", "gcbench.cli.convert"),
    "reproduce": ("Reproduce a table of the paper, or some of its cells.", "gcbench.cli.reproduce"),
    "submit": ("Put a command into a queue (Slurm).", "gcbench.cli.submit"),
    "runs": ("List, show and compare runs; go on with one; make room.", "gcbench.cli.runs"),
    "report": ("Compare results with the paper, cell by cell.", "gcbench.cli.report"),
    "explain": ("Say why a number differs from the paper's.", "gcbench.cli.explain"),
    "evaluate": ("Score anyone's predictions, equal to the official scripts.", "gcbench.cli.evaluate"),
    "submission": ("Check and pack submissions to ScanNet's hidden test.", "gcbench.cli.submission"),
    "leaderboard": ("Show methods side by side, one protocol at a time; add results.", "gcbench.cli.leaderboard"),
    "publish": ("Publish a model with its evidence on the Hugging Face Hub.", "gcbench.cli.publish"),
    "verify": ("Check a published model: files, features, numbers.", "gcbench.cli.verify"),
    "doctor": ("Check the installation by running each engine once.", "gcbench.cli.doctor"),
}
DEBUG_VARIABLE = "GCBENCH_DEBUG"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells do
EXIT_PAUSED = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h

_EPILOG = """
Examples:

gcbench doctor

gcbench reproduce table1 --preset tiny --columns scannet,s3dis-area5 --out demo

gcbench --debug reproduce table1 --out runs/table1
"""


class LazyGroup(TyperGroup):
    """A group whose commands are known by name and help line, and imported when they are invoked."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Paused as pause:  # an interruption, but with a code of its own
            raise typer.Exit(EXIT_PAUSED) from pause

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, placeholder, rest = super().resolve_command(ctx, args)
        if name not in VERBS:
            return name, placeholder, rest
        module = importlib.import_module(VERBS[name][1])
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    help=gcbench.__doc__,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gcbench {gcbench.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error (or set {DEBUG_VARIABLE}=1).")
    ] = False,
) -> None:
    """Set what holds for every verb. Worker processes inherit the environment."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def _placeholder() -> None:
    raise AssertionError("LazyGroup puts the verb's own command in place of this one")


for _verb, (_help, _) in VERBS.items():
    app.command(_verb, help=_help)(_placeholder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what follows `gcbench`; by default the process's own.

    Returns:
        0; 2 for wrong usage; a `GcbenchError`'s own code; 74 when the disk is full or a file cannot be used;
        75 when stopped after a checkpoint; 130 when interrupted without one; 70 for any other error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="gcbench")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == EXIT_INTERRUPTED:
            _say("Interrupted.", "Run the same command to go on where it stopped.")
        if code == EXIT_PAUSED:
            _say("Stopped with a checkpoint.", "Run the same command to go on from there.")
        return code
    except Exception as error:  # the last line of defence: no user should meet a bare traceback
        return _report(error, words)
    return 0


def _report(error: Exception, words: Sequence[str]) -> int:
    """Print an error with its way out; return the exit code."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
    error = next((cause for cause in _causes(error) if _is_full(cause)), error)
    if isinstance(error, OSError):
        error = told_by_system(error) or error
    if isinstance(error, GcbenchError):
        _say(error.message, error.way_out)
        return error.exit_code
    again = shlex.join(["gcbench", "--debug", *words])
    first_line = next(iter(str(error).splitlines()), "")
    _say(f"{type(error).__name__}: {first_line}".removesuffix(": "), f"See the traceback with: {again}")
    return EXIT_INTERNAL


def _is_full(error: Exception) -> bool:
    """Whether a disk is full, as the program or the system says it."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in DISK_FULL)


def _causes(error: BaseException | None) -> Iterator[Exception]:
    """Yield the error and what it came from, the latest first."""
    while error is not None:
        if isinstance(error, Exception):
            yield error
        error = error.__cause__ or error.__context__


def _say(message: str, way_out: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text("Error: ", style="bold red").append(message, style="red"))
    if way_out:
        console.print(Text(way_out))
