"""`gcbench recipes`: the values behind every number, each with its source."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Recipes: every value with its source.",
)

_Preset = Annotated[str | None, typer.Option(help="Lay a preset over it, e.g. tiny.")]
_Set = Annotated[list[str] | None, typer.Option("--set", help="Override section.key=value; may be repeated.")]
_Name = Annotated[str, typer.Argument(help="A recipe's name, or a .yaml file.")]


@app.command("list", epilog="Example:  gcbench recipes list")
def list_recipes() -> None:
    """List recipes, tables and presets."""
    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.recipe.loader import load_recipe, preset_names, recipe_names
    from gcbench.recipe.tables import load_table, table_names

    table = Table(Column("recipe", no_wrap=True), "what it is", "hash", title="Recipes", title_justify="left")
    for name in recipe_names():
        loaded = load_recipe(name)
        table.add_row(name, loaded.recipe.title, loaded.hash)
    tables = Table("table", "what it is", "rows", "columns", title="Tables", title_justify="left")
    for name in table_names():
        definition = load_table(name)
        rows, columns = (" ".join(item.id for item in part) for part in (definition.rows, definition.columns))
        tables.add_row(name, definition.title, rows, columns)
    console = Console()
    console.print(table, tables, f"Presets: {', '.join(preset_names())}")


@app.command("show", epilog="Example:  gcbench recipes show semantic/s3dis --preset tiny")
def show(name: _Name, preset: _Preset = None, set_: _Set = None) -> None:
    """Show every value of a recipe and where it comes from."""
    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.recipe.loader import load_recipe

    loaded = load_recipe(name, preset=preset, overrides=set_ or ())
    table = Table(
        Column("key", no_wrap=True),
        "value",
        "source",
        title=f"{loaded.name}: {loaded.recipe.title}",
        title_justify="left",
    )
    section = ""
    for key, leaf in loaded.leaves.items():
        if key.split(".")[0] != section and section:
            table.add_section()
        section = key.split(".")[0]
        table.add_row(key, _text(leaf.value), leaf.source)
    Console().print(table, f"hash {loaded.hash}")


@app.command("validate", epilog="Example:  gcbench recipes validate my_recipe.yaml")
def validate(names: Annotated[list[str] | None, typer.Argument(help="Recipes or files; all if none.")] = None) -> None:
    """Check recipes: keys, types, ranges, and a source beside every value."""
    from rich.console import Console

    from gcbench.recipe.loader import load_recipe, preset_names, recipe_names
    from gcbench.recipe.tables import load_table, table_names

    console = Console()
    for name in names or recipe_names():
        presets = (None, *preset_names()) if not names else (None,)
        for preset in presets:
            load_recipe(name, preset=preset)
        console.print(f"[green]ok[/] {name}", highlight=False)
    for name in () if names else table_names():
        load_table(name)
        console.print(f"[green]ok[/] {name}", highlight=False)


@app.command("diff", epilog="Example:  gcbench recipes diff semantic/scannet semantic/s3dis")
def diff(first: _Name, second: _Name, preset: _Preset = None) -> None:
    """Show where two recipes differ; with a preset, both are compared under it. FILE@PRESET names one side's preset."""
    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.recipe.loader import Value, load_recipe

    sides = [
        load_recipe(name, preset=own or preset) for name, _, own in (text.partition("@") for text in (first, second))
    ]
    missing = Value("", "not set")
    table = Table(Column("key", no_wrap=True), first, second, "sources", title="Differences", title_justify="left")
    for key in dict.fromkeys([*sides[0].leaves, *sides[1].leaves]):
        left, right = (side.leaves.get(key, missing) for side in sides)
        if left.value != right.value:
            table.add_row(key, _text(left.value), _text(right.value), f"{left.source}\n{right.source}")
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print("No value differs.")


def _text(value: object) -> str:
    return "null" if value is None else str(value)
