"""`gcbench convert`: the encoder of a Pointcept checkpoint, in gcbench's own form, with a certificate."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import DataError, InputError

if TYPE_CHECKING:
    from gcbench.protocols.convert import Certificate
    from gcbench.recipe.schema import Encoder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench convert model_last.pth encoders/gaussiancross

  gcbench convert outdoor.pth encoders/outdoor --sizes file

  gcbench convert encoders/gaussiancross --check

What the certificate says: docs/weights.md.
"""
_FROM_FILE = "file"


class Layout(str, Enum):
    """Order of the axes of a convolution's weight."""

    krsc = "KRSC"
    rskc = "RSKC"
    rsck = "RSCK"


@app.command(epilog=_EPILOG)
def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pth, .pt or .safetensors. With --check: OUT.")],
    out: Annotated[Path | None, typer.Argument(help="The folder to write.", show_default=False)] = None,
    sizes: Annotated[
        str,
        typer.Option(
            help="Recipe (or RECIPE@PRESET) whose encoder the file must hold, or 'file': the sizes it has.",
            metavar="NAME",
        ),
    ] = "pretrain/gaussiancross",
    prefix: Annotated[
        str | None, typer.Option(help="What stands before the encoder's names. Default: found.", metavar="TEXT")
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(help="Weights of spconv 2.x, 2.0 and 2.1 (native), or 1.x. Default: by their shapes."),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take a file that lacks more than 5 % of the encoder.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if this command wrote it.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compute the golden features of a converted encoder again.")
    ] = False,
) -> None:
    """Take the encoder out of a checkpoint, or check one that was taken out."""
    if check == (out is not None):
        raise InputError(
            "--check takes one folder." if check else "Where to write is missing.",
            "Use: gcbench convert FILE OUT, or: gcbench convert OUT --check",
        )
    if out is None:
        _check(file)
        return
    from gcbench.protocols.convert import convert as convert_checkpoint

    certificate, found = convert_checkpoint(
        file,
        out,
        sizes=_sizes(sizes),
        prefix=prefix,
        layout=layout.value if layout else None,
        allow_partial=allow_partial,
        force=force,
    )
    _show(certificate, found, out)


def _sizes(name: str) -> Encoder | None:
    if name == _FROM_FILE:
        return None
    from gcbench.recipe.loader import load_recipe
    from gcbench.recipe.schema import Encoder

    recipe, _, preset = name.partition("@")
    encoder = getattr(load_recipe(recipe, preset=preset or None).recipe, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(f"--sizes: the recipe '{name}' has no encoder.", "See 'gcbench recipes list', or use 'file'.")
    return encoder


def _check(folder: Path) -> None:
    from rich.console import Console

    from gcbench.protocols.convert import load_converted, verify_certificate
    from gcbench.protocols.golden import TOLERANCE

    encoder, certificate = load_converted(folder)
    differences = verify_certificate(encoder, certificate)
    if differences:
        raise DataError(
            f"{folder} is not the encoder of its certificate: {'; '.join(differences)}.",
            "Convert the checkpoint again; if this stays, run: gcbench doctor",
        )
    Console().print(
        f"The golden features of {folder} are those of its certificate, to {TOLERANCE:.0e} of the largest.",
        soft_wrap=True,
        highlight=False,
    )


def _show(certificate: Certificate, sizes: Encoder, out: Path) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from gcbench.models.weights import few

    golden = certificate.golden
    lines = {
        "Matched": f"{certificate.matched:.2%} of {certificate.values:,} values",
        "Missing": few(certificate.missing),
        "Heads, left out": few([f"{name} {list(shape)}" for name, shape in certificate.heads.items()]),
        "Other names, left out": few(certificate.extra),
        "Prefix": f"'{certificate.prefix}'",
        "Layout": certificate.layout,
        "Epoch": str(certificate.epoch) if certificate.epoch is not None else "not said",
        "Input channels": str(sizes.in_channels),
        "Channels": f"{sizes.base_channels}, then {', '.join(map(str, sizes.channels))}",
        "Blocks": ", ".join(map(str, sizes.layers)),
        "Golden features": f"{golden.voxels} x {golden.channels}, first "
        + ", ".join(f"{value:.5g}" for value in golden.rows[0][:4]),
        "SHA-256 of the file": certificate.file_sha256,
    }
    table = Table("", Column(overflow="fold"), title=Text(certificate.file), title_justify="left", show_header=False)
    for key, value in lines.items():
        table.add_row(key, Text(value))
    console = Console()
    console.print(table)
    if certificate.missing:
        console.print("[yellow]What is missing has a random start.[/]")
    console.print(str(out / "model.safetensors"), soft_wrap=True, highlight=False, markup=False)
