"""What `encode` and `predict` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import DataError, InputError

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


def model_path(model: Path) -> Path:
    """Where a model lies: a path as it is; of ``user/name`` or ``user/name@REVISION`` the download from the Hub.

    Raises:
        InputError: it is neither on this machine nor on the Hub.
        DataError: the Hub cannot be reached, or files are not what was published.
    """
    if model.exists() or model.parent.is_dir() or len(model.parts) != 2:
        return model
    from rich.console import Console

    from gcbench.hub.download import Place, fetch_model
    from gcbench.protocols.encoder_files import WEIGHTS
    from gcbench.protocols.model_folders import check_architecture, is_trained

    name, _, revision = str(model).partition("@")
    place = Place(tell=lambda text: Console(stderr=True).print(text, highlight=False))
    try:
        folder = fetch_model(name, revision or None, place, check_config=check_architecture).folder
    except (InputError, DataError) as error:
        raise type(error)(f"There is no '{model}' on this machine, and: {error.message}", error.way_out) from error
    return folder / WEIGHTS if is_trained(folder) else folder


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
