"""Options that every verb over scenes has."""

from __future__ import annotations

import os
from typing import Annotated

import typer

Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes; 0 works in this one. Default: one per core.", show_default=False)
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going", help="Leave broken scenes out, list them and exit with 1, instead of stopping at the first."
    ),
]


def processes(workers: int | None) -> int:
    """How many worker processes `--workers` asks for."""
    return (os.cpu_count() or 1) if workers is None else workers
