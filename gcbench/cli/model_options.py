"""What `encode` and `predict` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import InputError

if TYPE_CHECKING:
    import torch

Scene = Annotated[
    str,
    typer.Argument(
        help="A .ply, an .npz (coord, color 0-255, normal), or DATASET:SCENE of a prepared dataset.", metavar="SCENE"
    ),
]
NoNormals = Annotated[bool, typer.Option("--no-normals", help="Take zeros where the file has no normals.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.", show_default=False)]


def chosen_device(name: str | None) -> torch.device:
    """The device that `--device` asks for.

    Raises:
        InputError: there is none of that name.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"There is no device '{name}' here.", "Use --device cpu.")
    return torch.device(name)


def check_file(file: Path, scene: str) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        InputError: its folder is not there, or it is a folder, or the scene.
    """
    if file.resolve() == Path(scene).resolve():
        raise InputError(f"'{file}' is the scene itself.", "Choose another --out.")
    if not file.resolve().parent.is_dir():
        raise InputError(f"There is no folder '{file.resolve().parent}'.", "Make it, or choose another --out.")
    if file.is_dir():
        raise InputError(f"'{file}' is a folder.", "Name the file to write.")
