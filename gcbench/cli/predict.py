"""`gcbench predict`: the classes or instances of a scene, as a coloured PLY."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.cli.model_options import Device, NoNormals, Scene, check_file, chosen_device, model_path

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench import structures
    from gcbench.structures import LabelSet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench predict room.ply --model demo/runs/semantic/scannet-spunet-scratch-seed0-d5bdca9c --out predicted.ply

  gcbench predict prepared/scannet:scene0011_00 --model RUN/models/best.safetensors --out predicted.ply

What the file holds: docs/encoding.md.
"""
_SHOWN = 12


@app.command(epilog=_EPILOG)
def predict(
    scene: Scene,
    model: Annotated[
        Path,
        typer.Option(
            help="A trained model: a run of `gcbench reproduce`, a file in its folder models, or user/name[@REVISION].",
            metavar="PATH",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .ply file to write.", metavar="FILE")],
    no_normals: NoNormals = False,
    device: Device = None,
) -> None:
    """Predict the class of every point of a scene, and its instances if the model finds them.

    A single pass; each point takes what is predicted for the nearest voxel. On the CPU, or on a GPU where there is one.
    """
    from rich.console import Console

    from gcbench.data.labels import class_colors, load_label_set
    from gcbench.data.scene_files import read_scene
    from gcbench.protocols.trained_models import load_model, model_file, read_config
    from gcbench.reporting.scene_view import INSTANCES, SceneView, write_scene_ply

    check_file(out, scene)
    console = Console()
    file = model_file(model_path(model))
    config = read_config(file)
    label_set = load_label_set(config.label_set)
    points = read_scene(scene, normals=not no_normals)
    with console.status(f"Predicting {len(points):,} points"):
        from gcbench.protocols.encode import predict_scene

        network, _ = load_model(file)
        predicted = predict_scene(points, network, config, chosen_device(device))
        view = SceneView(
            predicted,
            label_sets={label_set.name: label_set},
            class_colors={label_set.name: class_colors(label_set.name)},
            source=f"predicted by {file.name}",
        )
        write_scene_ply(out, view, show=label_set.name if predicted.instance is None else INSTANCES)
    _show(console, predicted, label_set)
    console.print(f"{out}: {len(points):,} points, {out.stat().st_size / 1e6:.1f} MB", highlight=False, soft_wrap=True)


def _show(console: Console, predicted: structures.Scene, label_set: LabelSet) -> None:
    """Classes by their share of the points, and instances if there are any."""
    import numpy as np
    from rich.table import Table

    segment, instance = predicted.segments[label_set.name], predicted.instance
    counts = np.bincount(segment, minlength=len(label_set))
    table = Table("class", "points", title=f"{predicted.name}, {label_set.name}", title_justify="left")
    if instance is not None:
        table.add_column("instances")
    for k in np.argsort(-counts)[:_SHOWN].tolist():
        if counts[k]:
            cells = [label_set.classes[k], f"{100 * counts[k] / len(segment):.1f} %"]
            if instance is not None:
                cells.append(str(len(np.unique(instance[(segment == k) & (instance >= 0)]))))
            table.add_row(*cells)
    console.print(table)
    more = int((counts > 0).sum()) - _SHOWN
    if more > 0:
        console.print(f"and {more} more classes")
