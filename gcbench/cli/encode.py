"""`gcbench encode`: the features of every point of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gcbench.cli.model_options import Device, NoNormals, Scene, check_file, chosen_device, model_path

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench encode room.ply --model encoders/gaussiancross --out room.safetensors

  gcbench encode prepared/scannet:scene0000_00 --model runs/gaussiancross --out scene0000_00.safetensors

  gcbench encode room.ply --model user/gaussiancross@v1.0 --out room.safetensors

Conventions of the files: docs/encoding.md.
"""


@app.command(epilog=_EPILOG)
def encode(
    scene: Scene,
    model: Annotated[
        Path,
        typer.Option(
            help="An encoder's folder, a run, a trained model, or user/name[@REVISION] on the Hugging Face Hub.",
            metavar="DIR",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; its key is `features`.", metavar="FILE")],
    grid_size: Annotated[
        float | None,
        typer.Option(min=1e-4, help="Voxel edge, metres. Default: as the model was trained.", show_default=False),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Write float16, half the size.")] = False,
    no_normals: NoNormals = False,
    device: Device = None,
) -> None:
    """Write a feature vector for every point of a scene, in the order of its points.

    Points of one voxel share a feature. On the CPU, or on the GPU where there is one.
    """
    from rich.console import Console

    from gcbench.data.scene_files import read_scene

    check_file(out, scene)
    console = Console()
    points = read_scene(scene, normals=not no_normals)
    found = model_path(model)
    with console.status(f"Encoding {len(points):,} points"):
        from gcbench.protocols.encode import encode_scene, load_any_encoder, write_features

        loaded = load_any_encoder(found, grid_size)
        features, voxels = encode_scene(points, loaded, chosen_device(device))
        write_features(out, features, loaded, points.name, half=half)
    if not points.normal.any():
        console.print("[yellow]All normals are zero: the encoder has never seen such a scene.")
    console.print(
        f"{out}: features [{features.shape[0]:,}, {features.shape[1]}] of {voxels:,} voxels of "
        f"{100 * loaded.grid_size:g} cm ({loaded.why}), {out.stat().st_size / 1e6:.1f} MB",
        highlight=False,
        soft_wrap=True,
    )
