"""`gcbench verify`: whether a published model is what it says."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench verify user/gaussiancross

  gcbench verify user/gaussiancross --revision v1.0 --json

  gcbench verify downloaded/gaussiancross

What each check means: docs/hub.md.
"""
_SIGNS = {"passed": "[green]✓", "failed": "[bold red]✗", "absent": "[dim]–"}


@app.command(epilog=_EPILOG)
def verify(
    model: Annotated[str, typer.Argument(help="A repository on the Hub (user/name), or a folder.", metavar="MODEL")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Check a published model: files, golden features, results and numbers. Exit code 1 if one is wrong."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    console = Console()
    with console.status(f"Checking {model}"):
        from gcbench.hub.download import Place
        from gcbench.hub.verification import verify as check

        found = check(model, revision, Place(tell=lambda text: typer.echo(text, err=True)))
    if as_json:
        typer.echo(json.dumps({"passed": found.passed, **asdict(found)}, indent=2))
    else:
        table = Table.grid(padding=(0, 1))
        for one in found.checks:
            table.add_row(f"{_SIGNS[one.state]}[/]", one.name, one.text)
        where = f"{found.name}@{found.commit[:12]}" if found.commit else found.name
        console.print(where, highlight=False, soft_wrap=True)
        console.print(table)
        console.print("It is what it says." if found.passed else "[bold red]It is not what it says.")
    raise typer.Exit(int(not found.passed))
