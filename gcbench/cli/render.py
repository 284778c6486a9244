"""`gcbench render`: views of a scene from a pre-trained model, beside its photos."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gcbench.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.protocols.render import Pretrained, SceneRenderer, SceneView

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench render runs/gaussiancross scene0011_00

  gcbench render runs/room room_00 --views all --max-views 8 --size 320x240 --out pictures

  gcbench render runs/gaussiancross Area_1/office_1 --data prepared/s3dis --frames 10,20
"""
_PANEL_ROWS = 4
_LARGEST = 8192


class Views(str, Enum):
    """Which frames to render."""

    heldout = "heldout"
    train = "train"
    all = "all"


@app.command(epilog=_EPILOG)
def render(
    run: Annotated[Path, typer.Argument(help="A run of `gcbench pretrain`; its newest checkpoint is used.")],
    scene: Annotated[str, typer.Argument(help="A scene of the prepared dataset.")],
    views: Annotated[Views, typer.Option(help="Frames never trained on, those trained on, or all.")] = Views.heldout,
    frames: Annotated[str | None, typer.Option(help="Frame numbers instead, e.g. 10,20.", metavar="N,N,...")] = None,
    max_views: Annotated[int | None, typer.Option(min=1, help="At most that many, evenly spaced.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels of a view. Default: the recipe's.", metavar="WxH")] = None,
    masked: Annotated[
        bool, typer.Option("--masked/--all-points", help="Drop points as in training, or use all as in evaluation.")
    ] = False,
    path: Annotated[
        int | None, typer.Option(min=2, help="Also that many views along the camera's way, as path.webp.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A prepared dataset. Default: the one the run trained on.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures. Default: RUN/renders/SCENE.", metavar="DIR")
    ] = None,
) -> None:
    """Render views of a scene: colour, depth and features, with PSNR and depth error against its frames."""
    wanted_size, numbers = _size(size), _numbers(frames)
    from rich.console import Console

    from gcbench.protocols.render import SceneRenderer, load_pretrained, open_dataset
    from gcbench.protocols.rendered_views import check_folder, write_record

    console, notes = Console(), Console(stderr=True, soft_wrap=True)
    folder = (out or run / "renders" / scene).resolve()
    check_folder(folder)
    pretrained = load_pretrained(run, lambda message: notes.print(f"[yellow]Warning:[/] {message}"))
    dataset = open_dataset(pretrained, data)
    renderer = SceneRenderer(pretrained, dataset, scene, size=wanted_size, masked=masked)
    positions = renderer.select(views.value, numbers, max_views)
    records, pictured = _write(renderer, positions, folder, scene)
    if path is not None:
        _write_path(renderer, positions, path, folder)
    write_record(
        folder,
        pretrained,
        scene=scene,
        data_fingerprint=dataset.fingerprint,
        size=renderer.size,
        points="masked" if masked else "all",
        gaussians=len(renderer.gaussians),
        views=records,
    )
    _show(console, pretrained, scene, records)
    console.print(f"{len(records)} views, {pictured} of them in panel.png: {folder}", soft_wrap=True, highlight=False)


def _write(renderer: SceneRenderer, positions: list[int], folder: Path, scene: str) -> tuple[list[dict[str, Any]], int]:
    """Write all views and the panel; their records, and how many the panel shows."""
    import numpy as np

    from gcbench.cli.scene_progress import scene_progress
    from gcbench.protocols.rendered_views import write_panel, write_view
    from gcbench.reporting.feature_colors import FeatureColors

    rows = min(_PANEL_ROWS, len(positions))
    pictured = {positions[i] for i in np.linspace(0, len(positions) - 1, rows).round().astype(int)}
    background = renderer.background(positions)
    colors = None
    if renderer.pretrained.has_features:
        shown = [view.features for view in renderer.views(sorted(pictured), background) if view.features is not None]
        colors = FeatureColors.of(shown)
    records: list[dict[str, Any]] = []
    panel: list[SceneView] = []
    with scene_progress("rendering", len(positions)) as progress:
        for position, view in zip(positions, renderer.views(positions, background), strict=True):
            records.append(write_view(folder, view, colors))
            if position in pictured:
                panel.append(view)
            progress(f"frame {view.frame}", len(records), len(positions))
    write_panel(folder, scene, panel)
    return records, len(panel)


def _write_path(renderer: SceneRenderer, positions: list[int], count: int, folder: Path) -> None:
    from gcbench.cli.scene_progress import scene_progress
    from gcbench.protocols.render import camera_path
    from gcbench.protocols.rendered_views import write_animation

    background = renderer.background(positions)
    viewmats, Ks = camera_path(renderer.frames, count, renderer.size)
    images = []
    with scene_progress("camera path", count) as progress:
        for number in range(count):
            rendered = renderer.render(viewmats[number : number + 1], Ks[number : number + 1], background)
            images.append(rendered.colors[0].float().clamp(0, 1).cpu().numpy())
            progress(f"view {number + 1}", number + 1, count)
    write_animation(folder, images)


def _show(console: Console, pretrained: Pretrained, scene: str, records: Sequence[dict[str, Any]]) -> None:
    """A line per view, and the mean of each kind of view."""
    from rich.table import Table

    table = Table(title=f"{scene}, {pretrained.job.name} after {pretrained.step:,} steps", title_justify="left")
    for column in ("frame", "PSNR dB", "depth error m", "covered"):
        table.add_column(column, justify="right")
    table.add_column("frame was")
    for record in records:
        table.add_row(str(record["frame"]), *_cells([record]), record["role"])
    table.add_section()
    for role in dict.fromkeys(record["role"] for record in records):
        same = [record for record in records if record["role"] == role]
        table.add_row("mean", *_cells(same), role)
    console.print(table)


def _cells(records: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    errors = [record["depth_error"] for record in records if record["depth_error"] is not None]
    psnr, covered = (sum(record[key] for record in records) / len(records) for key in ("psnr", "alpha_mean"))
    return f"{psnr:.2f}", f"{sum(errors) / len(errors):.3f}" if errors else "", f"{covered:.0%}"


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()) or not all(1 <= int(n) <= _LARGEST for n in (width, height)):
        raise InputError(f"--size {text} is no size.", "Write WIDTHxHEIGHT in pixels, e.g. --size 320x240.")
    return int(width), int(height)


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise InputError(f"--frames {text} are no frame numbers.", "Write them with commas, e.g. --frames 10,20.")
    return [int(number) for number in numbers]
