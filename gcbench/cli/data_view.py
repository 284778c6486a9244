"""`gcbench data view`: one scene as a page to look at, and as PLY."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import DataError, InputError

if TYPE_CHECKING:
    from gcbench.data.storage import PreparedDataset
    from gcbench.reporting.scene_view import SceneView
    from gcbench.structures import Float64Array, Scene

EXAMPLES = (
    "Examples:\n\ngcbench data view prepared/scannet scene0000_00\n\n"
    "gcbench data view prepared/s3dis:Area_1/office_1 --show labels --ply office.ply\n\n"
    "gcbench data view /data/scannet/scans/scene0000_00 --open"
)
_MESH = "{0}_vh_clean_2.ply"


class Show(str, Enum):
    """What colours can show."""

    colour = "colour"
    normals = "normals"
    labels = "labels"
    instances = "instances"


def view(
    where: Annotated[
        str,
        typer.Argument(
            help="A prepared dataset (DIR, or DIR:NAME), a raw ScanNet scene's folder, or a mesh (.ply).",
            metavar="SCENE",
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(help="The scene's name in a prepared dataset. Default: its first.", metavar="[NAME]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write. Default: the scene's name, here.", metavar="FILE.html")
    ] = None,
    ply: Annotated[Path | None, typer.Option(help="Also write all points as PLY.", metavar="FILE.ply")] = None,
    show: Annotated[Show, typer.Option(help="What the page shows first, and the colours of the PLY.")] = Show.colour,
    label_set: Annotated[
        str | None, typer.Option(help="The label set of `--show labels`. Default: the scene's first.", metavar="NAME")
    ] = None,
    max_points: Annotated[
        int, typer.Option(min=1, help="Thin larger scenes evenly to this many points on the page.")
    ] = 300_000,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """Look at a scene: colours, normals, labels and instances as a page that needs nothing else, and as PLY."""
    from gcbench.files import write_atomic
    from gcbench.reporting.scene_view import render_scene, write_scene_ply

    found = _find(where, name)
    mode = _mode(found.scene, show, label_set)
    page = out or Path(found.scene.name.replace("/", "_") + ".html")
    for file in (page, ply):
        if file is not None and not file.resolve().parent.is_dir():
            raise InputError(f"There is no folder '{file.resolve().parent}'.", "Make it, or choose another file.")
        if file is not None and file.is_dir():
            raise InputError(f"'{file}' is a folder.", "Name the file to write.")
    write_atomic(page, render_scene(found, show=mode, max_points=max_points))
    _say(page, min(len(found.scene), max_points), len(found.scene))
    if ply is not None:
        write_scene_ply(ply, found, show=mode)
        _say(ply, len(found.scene), len(found.scene))
    if open_page:
        typer.launch(page.resolve().as_uri())


def _say(file: Path, shown: int, points: int) -> None:
    amount = f"{points:,} points" if shown == points else f"{shown:,} of {points:,} points"
    typer.echo(f"{file}: {amount}, {file.stat().st_size / 1e6:.1f} MB")


def _find(where: str, name: str | None) -> SceneView:
    """The scene that the arguments name."""
    path = Path(where)
    if name is None and not path.exists() and ":" in where:
        folder, _, name = where.rpartition(":")
        path = Path(folder)
    if path.suffix.lower() == ".ply" or (path / _MESH.format(path.resolve().name)).is_file():
        if name is not None:
            raise InputError(f"{path} is one scene; it has no scene '{name}'.", "Leave the name out.")
        return _raw_scene(path.resolve()) if path.is_dir() else _mesh(path)
    return _prepared(path, name)


def _mode(scene: Scene, show: Show, label_set: str | None) -> str:
    """The mode that `--show` and `--label-set` ask for; whether the scene has it is checked where it is drawn."""
    sets = list(scene.segments)
    if label_set is not None and label_set not in sets:
        raise InputError(
            f"Scene '{scene.name}' has no labels of '{label_set}'{_close(label_set, sets)}.",
            f"It has: {', '.join(sets) or 'no labels'}.",
        )
    if show is not Show.labels:
        return str(show.value)
    return label_set or (sets[0] if sets else "labels")


def _prepared(folder: Path, name: str | None) -> SceneView:
    import numpy as np

    from gcbench.data.storage import PreparedDataset

    dataset = PreparedDataset.open(folder)
    names = list(dict.fromkeys([*(scene for split in dataset.splits.values() for scene in split), *_entries(dataset)]))
    if not names:
        raise DataError(f"{folder} has no scenes.")
    if name is None:
        name = names[0]
        if len(names) > 1:
            typer.echo(f"{folder} has {len(names):,} scenes; this is {name}. Name another after the folder.", err=True)
    if name not in names:
        raise InputError(
            f"{folder} has no scene '{name}'{_close(name, names)}.",
            f"It has {len(names):,} scenes, from {min(names)} to {max(names)}.",
        )
    split = next((split for split, scenes in dataset.splits.items() if name in scenes), None)
    cameras = _cameras(dataset, name) if dataset.frame_count(name) else np.zeros((0, 5, 3))
    source = f"{dataset.layout}, {split}" if split else dataset.layout
    return _viewed(dataset.scene(name), source, synthetic=dataset.synthetic, cameras=cameras)


def _entries(dataset: PreparedDataset) -> Sequence[str]:
    """Names of all its scenes, also of those in no split."""
    return list(dataset.manifest["scenes"])


def _raw_scene(folder: Path) -> SceneView:
    from gcbench.data.prepare import synthetic_mark
    from gcbench.data.scannet import TSV_NAME, read_categories, read_scene

    root = folder.parent.parent
    table = root / TSV_NAME
    labelled = table.is_file() and (folder / f"{folder.name}.aggregation.json").is_file()
    scene, _ = read_scene(folder, read_categories(table) if labelled else None)
    return _viewed(scene, "raw ScanNet scene", synthetic=synthetic_mark(root) is not None)


def _mesh(file: Path) -> SceneView:
    from gcbench.data.scannet import read_mesh, vertex_normals
    from gcbench.structures import Scene

    mesh = read_mesh(file)
    return _viewed(Scene(file.stem, mesh.coord, mesh.color, vertex_normals(mesh.coord, mesh.faces)), "mesh")


def _viewed(scene: Scene, source: str, *, synthetic: bool = False, cameras: Float64Array | None = None) -> SceneView:
    import numpy as np

    from gcbench.data.labels import class_colors, load_label_set
    from gcbench.reporting.scene_view import SceneView

    return SceneView(
        scene,
        label_sets={label_set: load_label_set(label_set) for label_set in scene.segments},
        class_colors={label_set: class_colors(label_set) for label_set in scene.segments},
        source=source,
        synthetic=synthetic,
        cameras=np.zeros((0, 5, 3)) if cameras is None else cameras,
    )


def _cameras(dataset: PreparedDataset, name: str) -> Float64Array:
    """The frustums of a scene's frames; no image is decoded."""
    from gcbench.reporting.scene_view import frustums

    return frustums(*dataset.frames(name).cameras())


def _close(wanted: str, known: Sequence[str]) -> str:
    """The names most like a wrong one, in words; empty where none is close."""
    near = difflib.get_close_matches(wanted, known, n=3)
    return f" (close: {', '.join(near)})" if near else ""
